"""Mixtures of experts against plain numpy, and the products by group that they are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt import presets, sharding
from jgpt.config import MeshConfig
from jgpt.layout import on_mesh
from jgpt.model import gpt, grouped
from jgpt.model.experts import Experts
from jgpt.model.grouped import grouped_product

TOLERANCE = 1e-5  # f32 sums over at most 48 products of order 1
D, F, E, X = 16, 24, 4, 2
CFG = presets.llama(
    embed_dim=D, num_heads=2, mlp_dim=F, num_experts=E, experts_per_token=X, context_length=16, compute_dtype="float32"
)
NORMAL = jax.nn.initializers.normal(0.5)


@pytest.mark.parametrize("rows", [1, 2, 128])
@pytest.mark.parametrize(
    "sizes",
    [[10, 10, 10, 10], [0, 0, 40, 0], [1, 37, 0, 2], [3, 0, 1, 2], [0, 0, 0, 0]],
    ids=["even", "one", "uneven", "rows behind", "none"],
)
def test_rows_are_multiplied_by_the_matrix_of_their_group(monkeypatch, rows, sizes):
    monkeypatch.setattr(grouped, "ROWS", rows)
    rng = np.random.default_rng(0)
    x, w, slope = (rng.normal(size=shape).astype(np.float32) for shape in ((40, D), (4, D, F), (40, F)))
    group = np.repeat(range(4), sizes)
    dense = np.zeros((40, 4), np.float32)
    dense[np.arange(len(group)), group] = 1

    def expected(x, w):
        return jnp.einsum("nd,ne,edf->nf", x, dense, w, precision="highest")

    results = []
    for product in (lambda x, w: grouped_product(x, w, jnp.array(sizes, jnp.int32)), expected):
        out, pull = jax.vjp(jax.jit(product), jnp.asarray(x), jnp.asarray(w))
        results.append((out, *pull(jnp.asarray(slope))))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_gradients_of_matrices_are_summed_in_f32_over_the_blocks_of_a_group(monkeypatch):
    """In bfloat16, 512 blocks of one group: the sum is as near as rounding once leaves it."""
    monkeypatch.setattr(grouped, "ROWS", 8)
    rng = np.random.default_rng(0)
    x, w, slope = (jnp.asarray(rng.normal(size=s) + 1, jnp.bfloat16) for s in ((4096, 8), (1, 8, 8), (4096, 8)))
    sizes = jnp.array([4096], jnp.int32)
    dw = jax.jit(lambda w: jax.vjp(lambda w: grouped_product(x, w, sizes), w)[1](slope)[0])(w)
    expected = np.asarray(x, np.float64).T @ np.asarray(slope, np.float64)
    np.testing.assert_allclose(np.asarray(dw[0], np.float64), expected, rtol=2**-8)


def test_experts_are_chosen_in_f32_whatever_a_device_does_by_itself():
    x, params, apply = made(dataclasses.replace(CFG, compute_dtype="bfloat16"))
    lines = [line for line in apply.lower(params, x).as_text().splitlines() if "dot_general" in line]
    (router,) = [line for line in lines if f"tensor<16x{D}xf32>, tensor<{D}x{E}xf32>" in line]
    assert "precision = [HIGHEST, HIGHEST]" in router


def made(cfg, rows=2, length=8):
    x = jax.random.normal(jax.random.key(0), (rows, length, D))
    module = Experts(cfg, NORMAL, NORMAL)
    params = jax.tree.map(
        lambda box: box.value,
        module.init(jax.random.key(1), x, None),
        is_leaf=lambda leaf: hasattr(leaf, "names"),
    )
    return x, params, jax.jit(lambda params, x, real=None: module.apply(params, x, real))


def in_numpy(cfg, params, x):
    """Compute each token by its experts alone, in f64."""
    own = {name: np.asarray(value, np.float64) for name, value in params["params"].items()}
    out = np.zeros(x.shape)
    for at in np.ndindex(x.shape[:2]):
        token = np.asarray(x[at], np.float64)
        logits = token @ own["router"]
        chosen = np.argsort(-logits)[: cfg.experts_per_token]
        share = np.exp(logits[chosen]) / np.exp(logits[chosen]).sum()
        for part, expert in zip(share, chosen, strict=True):
            if cfg.mlp == "swiglu":
                gate, up = token @ own["up"][expert, :, 0], token @ own["up"][expert, :, 1]
                hidden = gate / (1 + np.exp(-gate)) * up
            else:
                hidden = np.maximum(token @ own["up"][expert], 0) ** 2
            out[at] += part * (hidden @ own["down"][expert])
    return out


@pytest.mark.parametrize("mlp", ["swiglu", "relu2"])
@pytest.mark.parametrize("chosen", [1, 2, 4])
def test_a_token_is_computed_by_the_experts_it_prefers(mlp, chosen):
    cfg = dataclasses.replace(CFG, mlp=mlp, experts_per_token=chosen)
    x, params, apply = made(cfg)
    np.testing.assert_allclose(apply(params, x)[0], in_numpy(cfg, params, np.asarray(x)), atol=1e-4)


def test_balance_is_one_where_all_are_chosen_alike_and_counts_no_padding():
    x, params, apply = made(dataclasses.replace(CFG, experts_per_token=1))
    rows = jnp.concatenate([jnp.eye(E), jnp.zeros((D - E, E))])  # channel e prefers expert e
    params = {"params": params["params"] | {"router": 50 * rows}}
    even = jnp.tile(jnp.eye(E, D)[None], (2, 2, 1))
    one = jnp.tile(jnp.eye(E, D)[:1][None], (2, 8, 1))
    np.testing.assert_allclose(apply(params, even)[1].balance, 1.0, atol=TOLERANCE)
    np.testing.assert_allclose(apply(params, one)[1].balance, E, atol=TOLERANCE)
    half = jnp.arange(8)[None] < jnp.array([[4], [4]])
    np.testing.assert_allclose(
        apply(params, jnp.where(half[..., None], even, one), half)[1].balance, 1.0, atol=TOLERANCE
    )
    np.testing.assert_allclose(apply(params, one)[1].squared_log_z, 2500.0, rtol=TOLERANCE)


@pytest.mark.parametrize("remat", ["dots", "weights"])
def test_products_of_experts_are_kept_where_products_are(remat):
    x, params, _ = made(CFG)

    def run(params, x):
        return Experts(CFG, NORMAL, NORMAL).apply(params, x, None)[0].sum()

    def products(policy):
        return str(jax.make_jaxpr(jax.grad(jax.checkpoint(run, policy=policy)))(params, x)).count("custom_vmap_call")

    assert products(gpt.REMAT[remat]) < products(gpt.REMAT["full"])


def test_padding_is_not_computed():
    x, params, apply = made(CFG)
    real = jnp.arange(8)[None] < jnp.array([[5], [8]])
    out, _ = apply(params, x, real)
    expected = in_numpy(CFG, params, np.asarray(x))
    np.testing.assert_allclose(out[real], expected[np.asarray(real)], atol=1e-4)
    assert not np.asarray(out)[~np.asarray(real)].any()


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_what_exceeds_the_capacity_is_dropped_and_the_rest_is_exact():
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=2, expert=4))

    def on_devices(capacity):
        cfg = dataclasses.replace(CFG, expert_capacity=capacity, experts_per_token=1)
        x, params, _ = made(cfg, rows=8, length=16)
        run = jax.jit(
            on_mesh(mesh, lambda x: Experts(cfg, NORMAL, NORMAL).apply(params, x, None)[0]),
            in_shardings=jax.NamedSharding(mesh, jax.P()),
        )
        return np.asarray(run(x)), in_numpy(cfg, params, np.asarray(x))

    whole, expected = on_devices(None)
    np.testing.assert_allclose(whole, expected, atol=1e-4)
    np.testing.assert_array_equal(on_devices(4.0)[0], whole)  # room for all that 4 devices can send to one
    some, _ = on_devices(0.5)
    kept = np.abs(some).sum(-1) > 0
    np.testing.assert_allclose(some[kept], expected[kept], atol=1e-4)
    # each of 8 devices has 16 tokens and takes 2 from each of 4, itself included
    assert 0.3 < kept.mean() <= 0.5
