"""Optimizers and schedules: contracts over the registries, and Muon's direction."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jgpt import optim, presets, sharding, state
from jgpt.config import MeshConfig, OptimConfig
from jgpt.model import gpt
from jgpt.muon import orthogonalise, scale_by_muon

CFG = gpt.resolve(presets.gpt2(num_layers=2, embed_dim=16, num_heads=2, context_length=8), vocab_size=16, backend="cpu")
AXES = gpt.param_axes(CFG)
INIT = jax.jit(lambda key: gpt.init(CFG, key))


def make(name, **options):
    return optim.make_optimizer(OptimConfig(name=name, warmup_steps=1, **options), 100, AXES)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_loss_falls_on_a_quadratic(name):
    target = jax.tree.map(lambda a: 0.1 * jnp.ones_like(a), INIT(jax.random.key(0)))
    params = INIT(jax.random.key(1))
    tx = make(
        name, peak_lr=0.1 if name == "muon" else 0.02, adam_lr=0.02
    )  # Muon moves a matrix by its rate in every direction
    opt_state = jax.jit(tx.init)(params)

    def loss(params):
        return optax.tree.norm(optax.tree.sub(params, target), squared=True)

    before = loss(params)

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(60):
        params, opt_state = step(params, opt_state)
    assert loss(params) < before / 10


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_moments_are_sharded_like_their_parameters(name):
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    abstract = state.abstract_state(CFG, make(name), mesh)
    params = {(leaf.shape, leaf.sharding.spec) for leaf in jax.tree.leaves(abstract.params)}
    moments = [leaf for leaf in jax.tree.leaves(abstract.opt_state) if leaf.ndim > 0]
    assert moments and all((leaf.shape, leaf.sharding.spec) in params for leaf in moments)
    assert any(leaf.sharding.spec != jax.sharding.PartitionSpec() for leaf in moments)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_only_matrices_are_decayed(name):
    params = jax.tree.map(jnp.ones_like, INIT(jax.random.key(0)))
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = make(name, weight_decay=0.1)
    updates, _ = jax.jit(tx.update)(zero, jax.jit(tx.init)(params), params)
    moved = jax.tree.map(lambda u: bool(jnp.abs(u).max() > 0), updates)
    expected = jax.tree.map(lambda names: "embed" in names, AXES, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert moved == expected
    assert not moved["head"]["norm"]["scale"] and not moved["blocks"]["mlp"]["up"]["bias"]
    assert moved["embedding"]["tokens"] and moved["blocks"]["attention"]["out"]["kernel"]


def test_muon_leaves_embedding_and_head_to_adam():
    labels = optim.muon_labels(AXES)
    assert labels["embedding"] == {"tokens": "adam", "positions": "adam"}
    assert set(jax.tree.leaves(labels["head"])) == {"adam"}
    assert labels["blocks"]["attention"]["query"] == {"kernel": "muon", "bias": "adam"}


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 32)])
def test_orthogonalised_singular_values_are_near_one(shape):
    u, _, vt = np.linalg.svd(np.random.default_rng(0).normal(size=shape), full_matrices=False)
    spectrum = np.linspace(0.1, 1.0, shape[1])  # five steps lift values above 2 % of the norm, Jordan et al. 2024
    x = (u * spectrum @ vt).astype(np.float32)
    y = np.asarray(orthogonalise(jnp.asarray(x), 5))
    values = np.linalg.svd(y, compute_uv=False)
    assert values.min() > 0.5 and values.max() < 1.3  # the quintic's band, Jordan et al. 2024
    cosine = (y * (u @ vt)).sum((1, 2)) / np.linalg.norm(y, axis=(1, 2)) / np.sqrt(shape[1])
    assert cosine.min() > 0.95  # the same singular vectors


def test_orthogonalise_equals_the_plain_iteration():
    x = np.random.default_rng(1).normal(size=(1, 8, 16))
    plain = x[0] / np.linalg.norm(x[0])
    for _ in range(5):
        gram = plain @ plain.T
        plain = 3.4445 * plain + (-4.7750 * gram + 2.0315 * gram @ gram) @ plain
    np.testing.assert_allclose(orthogonalise(jnp.asarray(x, jnp.float32), 5)[0], plain, atol=2e-4)


def test_small_singular_values_survive_as_products_are_those_of_f32_everywhere():
    """Of a spectrum such as gradients have the iteration lifts the rounding of a Gram matrix, where that is coarse."""
    u, _, vt = np.linalg.svd(np.random.default_rng(0).normal(size=(32, 96)), full_matrices=False)
    x = (u * np.logspace(0, -4, 32) @ vt).astype(np.float32)
    plain = x.astype(np.float64) / np.linalg.norm(x)
    for _ in range(5):
        gram = plain @ plain.T
        plain = 3.4445 * plain + (-4.7750 * gram + 2.0315 * gram @ gram) @ plain
    np.testing.assert_allclose(orthogonalise(jnp.asarray(x[None]), 5)[0], plain, atol=0.01)
    lowered = jax.jit(orthogonalise, static_argnums=1).lower(x[None], 5).as_text().splitlines()
    products = [line for line in lowered if "dot_general" in line]
    assert len(products) >= 10 and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_muon_treats_each_layer_and_each_direction_alone():
    rng = np.random.default_rng(2)
    axes = {
        "read": ("layers", "embed", "mlp"),
        "write": ("layers", "mlp", "embed"),
        "gated": ("layers", "embed", "gate", "mlp"),
    }
    shapes = {"read": (2, 8, 24), "write": (2, 24, 8), "gated": (2, 8, 2, 24)}
    grads = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    tx = scale_by_muon(axes, momentum=0.0, steps=5)
    out, _ = tx.update(grads, tx.init(grads))
    for layer in range(2):
        alone = orthogonalise(grads["read"][layer][None], 5)[0] * np.sqrt(24 / 8)
        np.testing.assert_allclose(out["read"][layer], alone, atol=1e-5)
        alone = orthogonalise(grads["write"][layer].T[None], 5)[0].T
        np.testing.assert_allclose(out["write"][layer], alone, atol=1e-5)
        values = np.linalg.svd(np.asarray(out["gated"][layer][:, 1]), compute_uv=False)
        assert values.min() / values.max() > 0.5  # each branch is a matrix of its own


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_schedule_warms_up_to_the_peak_and_ends_where_it_should(name):
    cfg = OptimConfig(schedule=name, warmup_steps=10, final_lr_fraction=0.1, decay_fraction=0.25)
    values = np.asarray([optim.make_schedule(cfg, 110)(step) for step in range(111)])
    np.testing.assert_allclose(values[:10], np.arange(1, 11) / 10, rtol=1e-5)
    np.testing.assert_allclose(values[10], 1.0, rtol=1e-5)
    np.testing.assert_allclose(values[110], 1.0 if name == "constant" else 0.1, rtol=1e-5)
    assert (np.diff(values[10:]) <= 1e-6).all()
    if name == "wsd":
        np.testing.assert_allclose(values[85], 1.0, rtol=1e-5)
        assert values[87] < 1.0


def test_unknown_names_are_refused_with_the_nearest():
    cfg = OptimConfig()
    object.__setattr__(cfg, "name", "adamv")  # past the type checker, as a config read from JSON would be
    with pytest.raises(ValueError, match="unknown optim.name 'adamv'. Did you mean 'adamw'"):
        optim.make_optimizer(cfg, 10, AXES)
    object.__setattr__(cfg, "schedule", "cosin")
    with pytest.raises(ValueError, match="unknown optim.schedule 'cosin'. Did you mean 'cosine'"):
        optim.make_schedule(cfg, 10)
