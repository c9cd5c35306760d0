"""The loss against plain numpy, and that cutting it in pieces changes neither value nor gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt.loss import WHOLE_LOGITS, chunks_for, cross_entropy


def arrays(B=3, S=12, D=8, V=19):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(B, S, D)).astype(np.float32), rng.normal(size=(D, V)).astype(np.float32)
    targets, weights = rng.integers(0, V, (B, S)).astype(np.int32), rng.random((B, S)).astype(np.float32)
    return tuple(jnp.asarray(a) for a in (x, w, targets, weights))


def to_logits(x, w):
    return x @ w


def test_equals_numpy():
    x, w, targets, weights = arrays()
    sums = cross_entropy(to_logits, x, w, targets, weights)
    x, w, targets, weights = (np.asarray(a) for a in (x, w, targets, weights))
    logits = x.astype(np.float64) @ w
    log_z = np.log(np.exp(logits).sum(-1))
    nats = log_z - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(sums.nats, (weights * nats).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.squared_log_z, (weights * log_z**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.weight, weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 9, 18, 36])
def test_pieces_change_nothing(chunk_tokens):
    x, w, targets, weights = arrays()

    def total(x, w, chunk):
        sums = cross_entropy(to_logits, x, w, targets, weights, chunk)
        return sums.nats + 0.1 * sums.squared_log_z

    whole = jax.value_and_grad(total, (0, 1))(x, w, 10**9)
    cut = jax.value_and_grad(total, (0, 1))(x, w, chunk_tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), whole, cut)


def test_large_logits_never_stand_in_memory_whole():
    B, S, D, V = 2, 1024, 16, 50_304

    def total(x, w, targets, chunk):
        return cross_entropy(to_logits, x, w, targets, jnp.ones((B, S)), chunk).nats

    shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((B, S, D), "float32"), ((D, V), "float32"), ((B, S), "int32"))]
    step = jax.jit(jax.grad(total, (0, 1)), static_argnums=3)
    temporaries = [step.lower(*shapes, chunk).compile().memory_analysis().temp_size_in_bytes for chunk in (10**9, None)]
    assert temporaries[1] < temporaries[0] / 4


def test_fewest_pieces_that_fit():
    assert chunks_for(16, 256, 282, None) == 1
    assert chunks_for(2, 1024, 50_304, None) == 8
    assert 2 * 1024 // 8 * 50_304 <= WHOLE_LOGITS
    assert chunks_for(1, 7, 100, 3) == 7  # only whole divisors of the sequence are pieces
