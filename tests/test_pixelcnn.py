"""The PixelCNN of bench/: a code sees exactly the codes before it, and the network learns."""

import argparse
import math
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture(scope="module")
def pixelcnn():
    """Return the benchmark as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        import pixelcnn as module

        yield module
        del sys.modules["pixelcnn"]


def sizes(pixelcnn, **changes):
    return pixelcnn.Sizes(levels=3, channels=2, words=4, width=16, layers=3, kernel=3)._replace(**changes)


def drawn(pixelcnn, shape):
    return jax.jit(partial(pixelcnn.initial, shape))(jax.random.key(0))


@pytest.mark.parametrize(("channels", "kernel"), [(1, 3), pytest.param(2, 3, marks=pytest.mark.slow), (1, 5)])
def test_a_code_sees_all_codes_before_it_and_no_other(pixelcnn, channels, kernel):
    shape = sizes(pixelcnn, channels=channels, kernel=kernel)
    params = drawn(pixelcnn, shape)
    random = np.random.default_rng(0)
    codes = random.integers(0, 3, (1, 3, 3, channels)).astype(np.int32)
    bags = np.array([[1, 0]], np.int32)
    run = jax.jit(lambda codes: pixelcnn.logits(params, codes, bags).reshape(-1, shape.levels))
    before, n = run(codes), codes.size
    reaches = np.zeros((n, n), bool)  # [changed code, code whose logits moved]
    for i in range(n):
        for other in {0, 1, 2} - {int(codes.reshape(-1)[i])}:
            changed = codes.reshape(-1).copy()
            changed[i] = other
            reaches[i] |= (run(changed.reshape(codes.shape)) != before).any(-1)
    np.testing.assert_array_equal(
        reaches, np.triu(np.ones((n, n), bool), 1)
    )  # three layers see all of a picture this small


@pytest.mark.slow
def test_the_gradient_is_zero_from_a_pixel_on(pixelcnn):
    shape = sizes(pixelcnn, channels=1)
    params = drawn(pixelcnn, shape)
    codes = jnp.arange(9, dtype=jnp.int32).reshape(1, 3, 3, 1)  # nine, so that each pixel has an embedding of its own
    params["pixels"] = jax.random.normal(jax.random.key(1), (1, 9, shape.width))

    def of_pixel(pixels, i):
        return pixelcnn.logits(params | {"pixels": pixels}, codes, jnp.zeros((1, 1), jnp.int32)).reshape(9, -1)[i].sum()

    slopes = jax.jit(jax.vmap(jax.grad(of_pixel), (None, 0)))(params["pixels"], jnp.arange(9))
    seen = np.abs(np.asarray(slopes))[:, 0].max(-1) > 0  # [pixel, pixel it depends on]
    np.testing.assert_array_equal(seen, np.tril(np.ones((9, 9), bool), -1))


def test_the_caption_counts_as_a_bag(pixelcnn):
    params = drawn(pixelcnn, sizes(pixelcnn))
    codes = np.zeros((4, 2, 2, 2), np.int32)
    bags = np.array([[1, 2, 0], [2, 1, 0], [1, 2, 3], [0, 0, 0]], np.int32)
    one, swapped, longer, none = jax.jit(pixelcnn.logits)(params, codes, bags)
    np.testing.assert_allclose(one, swapped, atol=1e-6)
    assert np.abs(one - longer).max() > 1e-3 and np.abs(one - none).max() > 1e-3


def test_nats_are_those_of_a_normalised_distribution(pixelcnn):
    """Over all pictures of 1 x 2 pixels, probabilities add up to one."""
    params = drawn(pixelcnn, sizes(pixelcnn))
    every = np.stack(np.meshgrid(*[np.arange(3)] * 4, indexing="ij"), -1).reshape(-1, 1, 2, 2).astype(np.int32)
    nats = jax.jit(pixelcnn.nats)(params, every, np.ones((len(every), 1), np.int32))
    assert np.exp(-np.asarray(nats, np.float64)).sum() == pytest.approx(1, abs=1e-5)
    pictures = pixelcnn.Pictures(every, np.ones((len(every), 1), np.int32))
    assert pixelcnn.score(params, pictures) == pytest.approx(np.asarray(nats, np.float64).mean(), rel=1e-6)


def test_the_width_follows_the_number_of_parameters(pixelcnn):
    shape = sizes(pixelcnn)
    for width in (8, 40):
        actual = jax.eval_shape(partial(pixelcnn.initial, shape._replace(width=width)), jax.random.key(0))
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(actual)) == pixelcnn.size_of(
            shape._replace(width=width)
        )
        assert pixelcnn.width_for(pixelcnn.size_of(shape._replace(width=width)) + 3, shape) == width


@pytest.mark.slow
def test_it_learns_what_follows_from_what(pixelcnn):
    random = np.random.default_rng(0)
    codes = (
        random.integers(0, 3, (64, 1, 1, 1)).repeat(3, 1).repeat(3, 2).astype(np.int32)
    )  # each picture of one colour
    pictures = pixelcnn.Pictures(codes, np.zeros((64, 1), np.int32))
    shape = sizes(pixelcnn, channels=1, width=8)
    options = argparse.Namespace(seconds=None, seed=0, lr=1e-2)
    params = drawn(pixelcnn, shape)
    before = pixelcnn.score(params, pictures)
    params, spent = pixelcnn.train(params, pictures, 16, options, 60)
    assert spent["steps"] == 60
    assert pixelcnn.score(params, pictures) < 1.4 < before  # log(3) = 1.1 for the first pixel, nothing for the others
