"""This machine's plan: a step is told from shallower ones."""

import dataclasses

import pytest

from jgpt import presets
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

    def seconds(config, model, max_documents):
        ran.append(model.num_layers)
        return 10.0 + 3.0 * model.num_layers

    monkeypatch.setattr(here, "_step_seconds", seconds)
    return ran


def test_every_further_layer_takes_what_the_second_did(steps):
    assert here.seconds_by_depth(CONFIG, MODEL, None) == pytest.approx(10 + 3 * 6)
    assert steps == [1, 2]


def test_where_windows_alternate_a_layer_is_a_period_of_them(steps):
    model = dataclasses.replace(MODEL, windows=(8, None))
    assert here.seconds_by_depth(CONFIG, model, None) == pytest.approx(10 + 3 * 6)
    assert steps == [2, 4]
    assert here.seconds_by_depth(CONFIG, dataclasses.replace(model, num_layers=2), None) is None


def test_steps_of_a_shallow_model_really_run():
    assert 0 < (here.seconds_by_depth(CONFIG, dataclasses.replace(MODEL, num_layers=2), 1) or 0) < 60
