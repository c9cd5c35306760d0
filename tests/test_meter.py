"""The meter: means of the steps that a record is due for, a rate that counts training alone, and what diverged by its step."""

from typing import Any

import jax.numpy as jnp
import pytest

from jgpt import meter, sharding
from jgpt.config import MeshConfig
from jgpt.metrics import NoWriter
from jgpt.progress import TrainProgress


class Writer(NoWriter):
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, Any]]] = []

    def write(self, step: int, values: dict[str, Any]) -> None:
        self.records.append((step, values))


def make() -> tuple[meter.Meter, Writer]:
    writer = Writer()
    return meter.Meter(100, 1.0, sharding.make_mesh(MeshConfig(data=1)), writer, TrainProgress(0, 10)), writer


def step(loss: float, norm: float = 1.0) -> dict:
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(norm)}


def test_the_rate_counts_all_steps_and_the_time_of_none_but_them(monkeypatch):
    """Ten steps of two seconds, with a validation of 50 s after the fifth, are half a step a second."""
    now = 100.0
    monkeypatch.setattr(meter.time, "monotonic", lambda: now)
    measures, writer = make()
    for at in range(1, 11):
        measures.add(step(at))
        now += 2
        if at == 5:
            measures.check(at)
            with measures.paused():
                now += 50
    measures.due = 10
    measures.write_due()
    [(at, values)] = writer.records
    assert at == 10 and values["loss"] == 5.5
    assert values["tokens_per_second"] == 100 / 2 and values["seconds"] == 70


def test_a_record_that_is_written_a_step_late_holds_the_steps_up_to_its_own():
    measures, writer = make()
    for at in range(1, 8):
        measures.write_due()
        measures.add(step(at, norm=10 * at))
        measures.due = at if at % 3 == 0 else measures.due
    measures.write_due()  # nothing is due
    assert [(at, values["loss"], values["grad_norm"]) for at, values in writer.records] == [(3, 2, 30), (6, 5, 60)]


@pytest.mark.parametrize(
    ("bad", "named"), [(step(float("nan")), "the loss of step 2"), (step(1, float("inf")), "step 2")]
)
def test_what_has_diverged_is_named_by_its_step(bad: dict, named: str):
    measures, writer = make()
    for each in (step(1), bad, step(3)):
        measures.add(each)
    measures.due = 3
    with pytest.raises(FloatingPointError, match=named):
        measures.write_due()
    assert not writer.records


def test_parameters_that_are_not_finite_are_refused():
    measures, _ = make()
    measures.add(step(1))
    measures.check(1, {"a": jnp.ones(3)})
    with pytest.raises(FloatingPointError, match="the norm of the parameters of step 1"):
        measures.check(1, {"a": jnp.array([1, float("nan"), 0])})
