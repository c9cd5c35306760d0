"""Surprise: the bits of pixels add up to what `evaluate` reports, and stand where they belong."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_gallery import picture, task_data

from jgpt import evaluate, sharding, step, surprise
from jgpt.config import Config, MeshConfig, ModelConfig
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.tasks.mixture import Mixture

# One pass alone and the same row packed beside others sum in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    """Return an untrained model, whose likelihoods differ from pixel to pixel, and its data."""
    data = task_data([picture("a"), picture("bcd")], [picture("a" * n) for n in (1, 4, 2, 3, 1)])
    words = data.task.vocabulary
    config = ModelConfig(num_layers=1, embed_dim=16, num_heads=2, context_length=64, init="gpt2")
    cfg = gpt.resolve(config, vocab_size=words.size, backend="cpu", text_end=words.text_ids.stop)
    params = jax.tree.map(lambda a: 4 * a, jax.jit(gpt.init, static_argnums=0)(cfg, jax.random.key(1)))
    return GPT(params, Config(), cfg, words, {"p": data.task}, 0), data


def test_the_mean_over_held_out_pictures_is_the_bits_per_dim_of_evaluate(model):
    loaded, data = model
    mesh = sharding.make_mesh(MeshConfig(data=1))
    run = step.compile_eval_step(loaded.model, loaded.config.train, mesh)
    scores = evaluate.likelihoods(loaded.params, run, Mixture(loaded.tokenizer, {"p": data}), mesh, 2)
    found = surprise.surprise(loaded, "p", data.splits.validation)
    mean = sum(item.bits_per_dim for item in found) / len(found)
    assert mean == pytest.approx(scores["p/bits_per_dim"], rel=TOLERANCE)
    for item in found:
        assert item.bits.shape == (3, 2) and (item.bits >= 0).all()
        assert (item.bits.sum() + item.end_bits) / 6 == pytest.approx(item.bits_per_dim)


def test_batches_of_rows_change_nothing(model, monkeypatch):
    loaded, data = model
    whole = surprise.surprise(loaded, "p", data.splits.validation)
    monkeypatch.setattr(surprise, "ROWS_AT_ONCE", 1)
    for one, other in zip(whole, surprise.surprise(loaded, "p", data.splits.validation), strict=True):
        np.testing.assert_allclose(one.bits, other.bits, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_pixel_changes_the_bits_of_itself_and_of_later_ones_alone(model):
    loaded, data = model
    example = data.splits.validation[0]
    pixels = example.pixels.copy()
    pixels[1, 0] ^= 255
    one, other = surprise.surprise(loaded, "p", [example, dataclasses.replace(example, pixels=pixels)])
    changed = np.abs(one.bits - other.bits).reshape(-1) > TOLERANCE
    assert changed.tolist() == [False, False, True, True, True, True]


def test_bits_are_those_of_the_models_probabilities(model):
    loaded, data = model
    example = data.splits.validation[0]
    tokens = data.task.encode(example).tokens
    inputs, positions = (jnp.asarray(a, jnp.int32)[None] for a in (tokens[:-1], np.arange(len(tokens) - 1)))
    logits, _ = jax.jit(gpt.apply, static_argnums=0)(loaded.model, loaded.params, inputs, positions)
    probabilities = np.asarray(jax.nn.softmax(logits[0]))[np.arange(len(tokens) - 1), tokens[1:]]
    bits = -np.log2(probabilities)[-7:]
    (found,) = surprise.surprise(loaded, "p", [example])
    np.testing.assert_allclose(found.bits.reshape(-1), bits[:-1], rtol=1e-4)
    assert found.end_bits == pytest.approx(bits[-1], rel=1e-4)


def test_a_lossy_code_has_no_bits_per_dim():
    exact, lossy = surprise.Surprise(np.ones((2, 2)), 2.0, 1.2, 1.5), surprise.Surprise(np.ones((2, 2)), 1.0, 1.0, None)
    assert surprise.mean([exact, exact]) == (1.5, "bits per dim")
    assert surprise.mean([exact, lossy]) == (pytest.approx(1.1), "bits per token")


def test_codes_of_channels_and_of_blocks_find_their_pixels():
    np.testing.assert_array_equal(surprise.on_pixels(np.arange(6.0), (2, 3)), [[0, 1, 2], [3, 4, 5]])
    channels = surprise.on_pixels(np.array([1.0, 2, 3, 10, 20, 30]), (1, 2, 3))
    np.testing.assert_array_equal(channels, [[6, 60]])
    np.testing.assert_array_equal(surprise.on_pixels(np.array([5.0, 7]), (1, 2, 3)), [[5, 7]])
    blocks = surprise.on_pixels(np.array([4.0, 8]), (2, 4, 3))
    np.testing.assert_array_equal(blocks, [[1, 1, 2, 2], [1, 1, 2, 2]])
    with pytest.raises(ValueError, match="5 codes cover a picture of 2 x 3 pixels and 1 channels in no square blocks"):
        surprise.on_pixels(np.arange(5.0), (2, 3))


def test_the_sheet_holds_every_picture_with_its_bits(model):
    loaded, data = model
    held = data.splits.validation
    found = surprise.surprise(loaded, "p", held)
    assert surprise.sheet_of(held, found).height > surprise.sheet_of(held[:1], found[:1]).height
    assert math.isfinite(found[0].bits_per_dim)


def test_refusals_name_value_and_fix(model):
    loaded, data = model
    with pytest.raises(ValueError, match="uint8 of shape"):
        surprise.surprise(
            loaded, "p", [dataclasses.replace(data.splits.validation[0], pixels=np.zeros((2, 2), np.uint8))]
        )
    short = dataclasses.replace(loaded, model=dataclasses.replace(loaded.model, context_length=4))
    with pytest.raises(
        ValueError, match="has 10 tokens and must stay whole, but a row holds 5: raise model.context_length"
    ):
        surprise.surprise(short, "p", data.splits.validation[:1])
