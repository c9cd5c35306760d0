"""The loss against plain numpy, and that cutting it in pieces changes neither value nor gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt import loss
from jgpt.loss import LOGITS_AT_ONCE, LossPlan, chunks_for, cross_entropy, online_logsumexp


def arrays(B=3, S=12, D=8, V=19):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(B, S, D)).astype(np.float32), rng.normal(size=(D, V)).astype(np.float32)
    targets, weights = rng.integers(0, V, (B, S)).astype(np.int32), rng.random((B, S)).astype(np.float32)
    return tuple(jnp.asarray(a) for a in (x, w, targets, weights))


def to_logits(x, w):
    return x @ w


def test_equals_numpy():
    x, w, targets, weights = arrays()
    objective, sums = cross_entropy(to_logits, x, w, targets, weights, LossPlan(z_loss=0.1))
    x, w, targets, weights = (np.asarray(a) for a in (x, w, targets, weights))
    logits = x.astype(np.float64) @ w
    log_z = np.log(np.exp(logits).sum(-1))
    nats = log_z - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(sums.nats, (weights * nats).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.squared_log_z, (weights * log_z**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums.weight, weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(objective, (weights * (nats + 0.1 * log_z**2)).sum(), rtol=1e-5)


def capped(x, w):
    return 5 * jnp.tanh(x @ w / 5)


@pytest.mark.parametrize("split, online", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("chunk_tokens", [1, 9, 18, 36, None])
def test_pieces_change_nothing(chunk_tokens, split, online):
    x, w, targets, weights = arrays(V=24)  # 24 stretches of one id where they are split

    def total(x, w, chunk):
        return 0.7 * cross_entropy(capped, x, w, targets, weights, LossPlan(chunk, 0.1, split, online=online))[0]

    def plain(x, w):
        log_z = jax.nn.logsumexp(capped(x, w), axis=-1)
        chosen = jnp.take_along_axis(capped(x, w), targets[..., None], -1)[..., 0]
        return 0.7 * jnp.sum(weights * (log_z - chosen + 0.1 * log_z**2))

    whole = jax.value_and_grad(plain, (0, 1))(x, w)  # by automatic differentiation
    cut = jax.value_and_grad(total, (0, 1))(x, w, chunk_tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), whole, cut)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("chunk_tokens", [9, None])
def test_logits_that_wait_in_bfloat16_are_rounded_and_nothing_else_is(chunk_tokens: int | None, split: bool):
    x, w, targets, weights = arrays(V=24)

    def rounded(x, w):
        return (x @ w).astype(jnp.bfloat16)

    def total(x, w):
        plan = LossPlan(chunk_tokens, 0.1, split, logits_dtype="bfloat16")
        return cross_entropy(rounded, x, w, targets, weights, plan)[0]

    def plain(x, w):
        logits = x @ w + jax.lax.stop_gradient(rounded(x, w).astype(jnp.float32) - x @ w)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        return jnp.sum(weights * (log_z - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0] + 0.1 * log_z**2))

    (value, slopes), (expected, exact) = (jax.value_and_grad(f, (0, 1))(x, w) for f in (total, plain))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert (
        abs(value - jax.jit(lambda: cross_entropy(to_logits, x, w, targets, weights, LossPlan(z_loss=0.1))[0])()) > 1e-4
    )
    for slope, other in zip(slopes, exact, strict=True):  # a slope is rounded by up to 1/512 of it
        np.testing.assert_allclose(slope, other, rtol=0, atol=float(jnp.abs(other).max()) / 100)


@pytest.mark.parametrize("largest", [1.0, 80.0, 1e4, 1e30])
def test_one_pass_finds_the_normaliser_of_two(largest):
    logits = jax.random.uniform(jax.random.key(0), (5, 301), minval=-largest, maxval=largest)
    logits = logits.at[0].set(-largest).at[1, 7].set(-jnp.inf)  # all alike; one ruled out
    np.testing.assert_allclose(online_logsumexp(logits), jax.nn.logsumexp(logits, axis=-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("most", [0, 1, 5, 7, 12, None])
def test_what_carries_no_weight_is_left_out_and_neither_sums_nor_gradients_change(most, monkeypatch):
    monkeypatch.setattr(loss, "TARGETS_STEP", 4)
    x, w, targets, weights = arrays()
    S = targets.shape[1]
    places = np.random.default_rng(1).permuted(np.tile(np.arange(S), (3, 1)), axis=1)
    weights = jnp.where(places < np.minimum([[most or 0], [1], [3]], S if most is None else most), weights + 0.1, 0.0)

    def total(x, w, most):
        return cross_entropy(to_logits, *reordered(x, w, most), LossPlan(z_loss=0.1))

    def reordered(x, w, most):
        kept, *rest = loss.weighed(x, targets, weights, most)
        return kept, w, *rest

    kept = {None: S, 12: S, 7: 8, 5: 8, 1: 4, 0: 4}[most]
    assert loss.weighed(x, targets, weights, most)[0].shape == (3, kept, 8)
    (all_of_them, sums), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(x, w, None)
    (some, some_sums), some_slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(x, w, most)
    for a, b in zip(
        jax.tree.leaves((all_of_them, sums, slopes)), jax.tree.leaves((some, some_sums, some_slopes)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_large_logits_never_stand_in_memory_whole():
    B, S, D, V = 2, 1024, 768, 50_304

    def total(x, w, targets, chunk, split):
        return cross_entropy(to_logits, x, w, targets, jnp.ones((B, S)), LossPlan(chunk, split_vocab=split))[0]

    shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((B, S, D), "float32"), ((D, V), "float32"), ((B, S), "int32"))]
    step = jax.jit(jax.grad(total, (0, 1)), static_argnums=(3, 4))
    whole, pieces, stretches = (
        step.lower(*shapes, *plan).compile().memory_analysis().temp_size_in_bytes
        for plan in ((10**9, False), (None, False), (None, True))
    )
    logits = 4 * B * S * V  # automatic differentiation keeps twice this
    assert whole < 1.1 * logits and pieces < 0.6 * logits and stretches < 0.2 * logits


def test_fewest_pieces_that_fit():
    assert chunks_for(16, 256, 282, None) == 1
    assert chunks_for(2, 1024, 50_304, None) == 8
    assert 2 * 1024 // 8 * 50_304 <= LOGITS_AT_ONCE["cpu"]
    assert chunks_for(1, 7, 100, 3) == 7  # only whole divisors of the sequence are pieces


def test_the_sums_carry_no_gradient_and_the_value_alone_costs_one_product():
    x, w, targets, weights = arrays()

    def objective(x, w):
        return cross_entropy(to_logits, x, w, targets, weights)[0]

    assert not np.any(jax.grad(lambda x: cross_entropy(to_logits, x, w, targets, weights)[1].nats)(x))
    products = [jax.jit(f).lower(x, w).as_text().count("dot_general") for f in (objective, jax.grad(objective, (0, 1)))]
    assert products == [1, 3]
