"""The sampler's plan: weights and cache are those of the model, and more rows or a shorter cache change what they should."""

import dataclasses

import jax
import numpy as np
import pytest

from jgpt import presets
from jgpt.config import Config, MeshConfig
from jgpt.model import gpt
from jgpt.plan import decoding
from jgpt.plan.devices import Device, Machine

LAYERS, WIDTH, HEADS, KV_HEADS, CONTEXT = 2, 32, 4, 2, 64
CONFIG = Config(
    model=presets.modern(
        num_layers=LAYERS, embed_dim=WIDTH, num_heads=HEADS, num_kv_heads=KV_HEADS, context_length=CONTEXT
    ),
    mesh=MeshConfig(data=1),
)
MODEL = gpt.resolve(CONFIG.model, vocab_size=64, backend="cpu")
MACHINE = Machine(Device("x", 1e6, 1e12, 1e9, 1e9, None, "cpu", "", reached=(0.5, 0.5)), (1,))
F32 = 4


def plan(rows: int = 2, length: int = CONTEXT, cache_dtype: str | None = None) -> decoding.DecodeStep:
    return decoding.compile_decode(CONFIG, MODEL, jax.devices()[:1], rows=rows, length=length, cache_dtype=cache_dtype)


def test_weights_and_cache_are_those_of_the_model():
    step = plan()
    shapes = jax.tree.leaves(jax.eval_shape(lambda: gpt.init(MODEL, jax.random.key(0))))
    assert step.weights == F32 * sum(np.prod(shape.shape) for shape in shapes)
    keys_and_values = 2 * LAYERS * KV_HEADS * (WIDTH // HEADS)
    assert step.cache == F32 * 2 * CONTEXT * (keys_and_values + 1)  # and the ids
    assert step.total == step.weights + step.cache + step.temporaries


def test_rows_length_and_type_of_the_cache_count():
    step = plan()
    assert plan(rows=4).cache == 2 * step.cache and plan(rows=4).weights == step.weights
    assert plan(length=32).cache == step.cache / 2
    assert plan(cache_dtype="int8").cache < 0.5 * step.cache


def test_a_token_takes_at_least_as_long_as_reading_what_there_is():
    step = plan()
    assert step.bound(MACHINE) == pytest.approx((step.read + step.cache) / 1e9)
    table = F32 * 64 * WIDTH
    assert step.weights - step.read == table  # the embedding is looked up, the head is read
    slow = Machine(Device("x", 1e6, 1e12, 1e9, 1e9, None, "cpu", "", launch=1.0), (1,))
    assert step.expected(slow) >= len(step.kernels) > 10
    said = decoding.to_dict(step, MACHINE)
    assert said["fits"] is True and said["tokens_per_second"]["bound"] == pytest.approx(2 / step.bound(MACHINE))
    small = Machine(Device("x", 1e4, 1e12, 1e9, 1e9, None, "cpu", ""), (1,))
    assert decoding.to_dict(step, small)["fits"] is False


def test_rows_that_cannot_be_split_are_refused():
    config = Config(model=CONFIG.model, mesh=MeshConfig(data=2))
    with pytest.raises(ValueError, match="--sampler gives 3 rows"):
        decoding.compile_decode(config, MODEL, jax.devices()[:2], rows=3, length=CONTEXT)


@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 devices")
@pytest.mark.parametrize("experts", [None, 4])
def test_copies_decode_their_own_rows_and_tell_each_other_nothing(experts: int | None) -> None:
    model = dataclasses.replace(MODEL, num_experts=experts)
    one = decoding.compile_decode(CONFIG, model, jax.devices()[:1], rows=2, length=CONTEXT)
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(data=4))
    four = decoding.compile_decode(config, model, jax.devices()[:4], rows=8, length=CONTEXT)
    assert (four.weights, four.cache) == (one.weights, one.cache) and four.collectives == []
