"""This machine's plan: a step is told from shallower ones."""

import dataclasses

import pytest

from jgpt import presets, step
from jgpt.batch import RowLimits
from jgpt.config import Config, TrainConfig
from jgpt.model import gpt
from jgpt.plan import here

CONFIG = Config(
    model=presets.modern(num_layers=6, embed_dim=16, num_heads=2, context_length=16),
    train=TrainConfig(steps=50, batch_size=8),
)
MODEL = gpt.resolve(CONFIG.model, vocab_size=32, backend="cpu")


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """Have a step of n layers take 10 + 3 n seconds; return the depths that were run."""
    ran: list[int] = []

    def seconds(config, model, limits):
        ran.append(model.num_layers)
        return 10.0 + 3.0 * model.num_layers

    monkeypatch.setattr(here, "_step_seconds", seconds)
    return ran


def test_every_further_layer_takes_what_the_second_did(steps):
    assert here.seconds_by_depth(CONFIG, MODEL, RowLimits(), 1.0) == pytest.approx(10 + 3 * 6)
    assert steps == [1, 2]


def test_where_windows_alternate_a_layer_is_a_period_of_them(steps):
    model = dataclasses.replace(MODEL, windows=(8, None))
    assert here.seconds_by_depth(CONFIG, model, RowLimits(), 1.0) == pytest.approx(10 + 3 * 6)
    assert steps == [2, 4]
    assert here.seconds_by_depth(CONFIG, dataclasses.replace(model, num_layers=2), RowLimits(), 1.0) is None


def test_two_layers_that_took_no_longer_than_one_say_nothing(monkeypatch):
    monkeypatch.setattr(here, "_step_seconds", lambda config, model, limits: 5.0 - model.num_layers)
    assert here.seconds_by_depth(CONFIG, MODEL, RowLimits(), 1.0) is None


@pytest.mark.parametrize("decay", [None, 0.9])
def test_steps_really_run_and_as_they_would_be_trained(monkeypatch, decay):
    states = []
    compile_train_step = step.compile_train_step

    def watched(config, model, tx, train_state, mesh, limits):
        states.append(train_state)
        return compile_train_step(config, model, tx, train_state, mesh, limits)

    monkeypatch.setattr(step, "compile_train_step", watched)
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, ema_decay=decay))
    assert here._step_seconds(config, dataclasses.replace(MODEL, num_layers=1), RowLimits(documents=1)) > 0
    assert (states[0].ema is None) == (decay is None)


def test_large_batches_are_not_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 491,520 tokens of width 2,048 a product alone would take minutes and 17 GB."""
    asked = []
    monkeypatch.setattr(here, "_products", lambda *sizes: asked.append(sizes) or 1e11)
    shape = presets.gpt2(num_layers=1, embed_dim=2048, num_heads=16, context_length=1024)
    here.machine(Config(model=shape, train=TrainConfig(batch_size=480)))
    assert asked == [(4096, 2048, 8192)]


def test_steps_that_would_take_minutes_are_not_run(steps: list[int]) -> None:
    assert here.seconds_by_depth(CONFIG, MODEL, RowLimits(), 4000.0) is None and steps == []
