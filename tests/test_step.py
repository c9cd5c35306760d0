"""One optimizer step: micro-batches equal the whole, meshes equal one device, the average follows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt import layout, loss, optim, presets, sharding, state, step
from jgpt.batch import ANY_ROWS, Batch, RowLimits
from jgpt.config import Config, MeshConfig, OptimConfig, TrainConfig
from jgpt.loss import LossPlan
from jgpt.model import gpt

STEPS = 5
MESH_TOLERANCE = 1e-5  # f32 sums in another order, over five steps
CONFIG = Config(
    model=presets.llama(num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, context_length=16),
    optim=OptimConfig(name="adamw", peak_lr=0.01, weight_decay=0.1, warmup_steps=2),
    train=TrainConfig(steps=STEPS, batch_size=8),
)


def batches(count=STEPS, rows=8, length=16):
    rng = np.random.default_rng(0)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    for _ in range(count):
        tokens = rng.integers(0, 32, (rows, length + 1)).astype(np.int32)
        weights = (rng.random((rows, length)) < rng.random((rows, 1))).astype(np.float32)  # rows of unequal weight
        segments = np.ones((rows, length), np.int32)
        yield Batch(*(jnp.asarray(a) for a in (tokens[:, :-1], tokens[:, 1:], weights, segments, positions)))


ONE_DEVICE = {}  # what was trained before, by config: most tests compare with the same


def run_on_one_device(config):
    key = repr(config)
    if key not in ONE_DEVICE:
        ONE_DEVICE[key] = run(config)
    return ONE_DEVICE[key]


def run(config, mesh_config=None, seed=0, rows=None, limits=ANY_ROWS):
    """Train on `rows`, STEPS random batches by default, and return (losses, final state)."""
    mesh = sharding.make_mesh(mesh_config or MeshConfig(data=1))
    model = gpt.resolve(config.model, vocab_size=32, backend="cpu")
    tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(model))
    train_state = state.create(model, tx, mesh, seed=seed, ema=config.optim.ema_decay is not None)
    train_step = step.compile_train_step(config, model, tx, train_state, mesh, limits)
    losses = []
    for batch in rows or batches():
        train_state, metrics = train_step(train_state, sharding.shard_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
    return np.array(losses), train_state


def test_it_learns_and_counts():
    losses, final = run_on_one_device(CONFIG)
    assert losses[-1] < losses[0] and int(final.step) == STEPS


@pytest.mark.parametrize("parts", [2, 8])
def test_micro_batches_equal_the_whole_batch(parts):
    whole, whole_state = run_on_one_device(CONFIG)
    cut = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, accumulation_steps=parts))
    losses, cut_state = run(cut)
    np.testing.assert_allclose(losses, whole, atol=MESH_TOLERANCE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), whole_state.params, cut_state.params)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize(
    ("shape", "optimizer"),
    [
        ((8, 1, 1), "adamw"),
        ((2, 2, 2), "muon"),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ((2, 2, 2), "adamw"),
                ((8, 1, 1), "muon"),
                *(((1, 8, 1), name) for name in ("adamw", "muon")),
                *(((2, 4, 1), name) for name in ("adamw", "muon")),
                *(((4, 1, 2), name) for name in ("adamw", "muon")),
            )
        ],
    ],
)
def test_sharded_equals_one_device(shape, optimizer):
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, name=optimizer))
    single, _ = run_on_one_device(config)
    data, fsdp, tensor = shape
    losses, final = run(config, MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    np.testing.assert_allclose(losses, single, atol=MESH_TOLERANCE)
    leaf = final.params["blocks"]["mlp"]["up"]["kernel"]
    assert leaf.addressable_shards[0].data.size == leaf.size // (fsdp * tensor)
    embedding = final.params["embedding"]["tokens"]
    assert embedding.addressable_shards[0].data.size == embedding.size // (fsdp * tensor)


CUT = dict(
    ngrams=(2,), windows=(5, None), tie_embeddings=True, positions="learned", embedding_conv=3, embedding_skips=True
)
EXPERTS = dict(num_experts=8, mlp_dim=48)


SLOW = pytest.mark.slow
MESHES = {
    "data": (dict(data=8), {}, {}),
    "fsdp": (dict(fsdp=8), {}, {}),
    "tensor": (dict(tensor=2), {}, {}),
    "slice alone": (dict(slice=8), {}, {}),
    "data fsdp tensor": (dict(data=2, fsdp=2, tensor=2), {}, dict(accumulation_steps=2)),
    "context": (dict(context=8), {}, {}),
    "data context": (dict(data=2, context=4), CUT, dict(loss_chunk_tokens=32)),
    "fsdp context tensor": (
        dict(fsdp=2, context=2, tensor=2),
        dict(scan_layers=True, remat="full", embedding_conv=4, embedding_skips=True, attention_gates=True),
        dict(accumulation_steps=2),
    ),
    "slice": (dict(slice=2, data=2, fsdp=2), {}, {}),
    "expert": (dict(expert=8), EXPERTS, {}),
    "experts": (dict(data=8), EXPERTS | dict(mlp="relu2", experts_per_token=1), {}),
    "fsdp expert tensor": (
        dict(fsdp=2, expert=2, tensor=2),
        EXPERTS | dict(scan_layers=True, remat="dots"),
        dict(loss_chunk_tokens=64),
    ),
    "slice expert": (dict(slice=2, expert=2, context=2), EXPERTS | dict(mlp="gelu"), {}),
    "slice context": (dict(slice=2, context=2, tensor=2), {}, dict(accumulation_steps=2, loss_chunk_tokens=64)),
}
MESHES_FIRST = ("data fsdp tensor", "expert", "slice context")  # every axis stands in one of these


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("name", [name if name in MESHES_FIRST else pytest.param(name, marks=SLOW) for name in MESHES])
def test_losses_and_gradients_on_every_mesh_equal_one_device(name):
    mesh, model, train = MESHES[name]
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, **model), train=dataclasses.replace(CONFIG.train, **train)
    )
    single, alone = run_on_one_device(config)
    losses, final = run(config, MeshConfig(**({"data": 1} | mesh)))
    np.testing.assert_allclose(losses, single, atol=MESH_TOLERANCE)
    one, many = gradients(config, MeshConfig(data=1)), gradients(config, MeshConfig(**({"data": 1} | mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=MESH_TOLERANCE), one, many)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-4), alone.params, final.params)


def gradients(config, mesh_config):
    """Return the gradients of the first step, from parameters that are no zeros."""
    mesh = sharding.make_mesh(mesh_config)
    model = gpt.resolve(config.model, vocab_size=32, backend="cpu")
    tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(model))
    where = state.shardings_of(state.abstract_state(model, tx, mesh)).params
    shapes, treedef = jax.tree.flatten(jax.eval_shape(lambda: gpt.init(model, jax.random.key(0))))
    keys = jax.random.split(jax.random.key(1), len(shapes))
    drawn = [np.asarray(jax.random.normal(k, s.shape)) * 0.2 for k, s in zip(keys, shapes, strict=True)]
    params = jax.device_put(jax.tree.unflatten(treedef, drawn), where)

    def run(params, batch):
        return step.gradients(config, model, params, batch, jax.random.key(2), step.loss_plan(config.train, mesh))[0]

    compiled = jax.jit(
        layout.on_mesh(mesh, run), in_shardings=(where, sharding.batch_sharding(mesh)), out_shardings=where
    )
    return jax.device_get(compiled(params, sharding.shard_batch(next(batches(1)), mesh)))


@pytest.mark.parametrize(
    "name",
    [
        "one",
        *(
            pytest.param(name, marks=pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices"))
            for name in MESHES_FIRST
        ),
    ],
)
def test_losses_stay_where_logits_of_prompts_are_left_out(name, monkeypatch):
    mesh, model, train = MESHES.get(name, ({}, {}, {}))
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, **model), train=dataclasses.replace(CONFIG.train, **train)
    )
    third = jnp.arange(16)[None] % 3 == 0
    sparse = [batch._replace(weights_BS=batch.weights_BS * third) for batch in batches()]
    most = max(int((batch.weights_BS > 0).sum(1).max()) for batch in sparse)
    monkeypatch.setattr(loss, "TARGETS_STEP", 2)
    assert most <= 6
    all_targets, _ = run(config, rows=sparse)
    picked: list[int] = []
    weighed = step.weighed

    def watched(*arguments):
        kept = weighed(*arguments)
        picked.append(kept[0].shape[1])
        return kept

    monkeypatch.setattr(step, "weighed", watched)
    losses, _ = run(config, MeshConfig(**({"data": 1} | mesh)), rows=sparse, limits=RowLimits(targets=most))
    assert set(picked) == {16 if "context" in mesh else 6}
    np.testing.assert_allclose(losses, all_targets, atol=MESH_TOLERANCE)


@pytest.mark.parametrize("remat", ["weights", "offload"])
def test_what_is_recomputed_or_kept_elsewhere_changes_nothing(remat):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, remat=remat, scan_layers=True))
    np.testing.assert_allclose(run(config)[0], run_on_one_device(CONFIG)[0], atol=MESH_TOLERANCE)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_gradients_rounded_between_slices_are_those_of_one_device_but_for_that():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(slice=2, slice_reduction="bfloat16"))
    one, rounded = gradients(CONFIG, MeshConfig(data=1)), gradients(config, MeshConfig(slice=2, data=2, fsdp=2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(rounded), strict=True):
        np.testing.assert_allclose(a, b, atol=2**-7 * np.abs(a).max())  # two parts of 8 bits each
    assert any(not np.allclose(a, b, atol=1e-6) for a, b in zip(*map(jax.tree.leaves, (one, rounded)), strict=True))


@pytest.mark.slow
def test_experts_are_evenly_used_where_the_loss_asks_for_it():
    def balance(weight):
        config = dataclasses.replace(
            CONFIG,
            model=dataclasses.replace(CONFIG.model, **EXPERTS, experts_per_token=1),
            train=dataclasses.replace(CONFIG.train, load_balance_loss=weight),
        )
        model = gpt.resolve(config.model, vocab_size=32, backend="cpu")
        tx = optim.make_optimizer(config.optim, STEPS, gpt.param_axes(model))
        mesh = sharding.make_mesh(MeshConfig(data=1))
        train_state = state.create(model, tx, mesh, seed=0)
        train_step = step.compile_train_step(config, model, tx, train_state, mesh)
        for batch in batches():
            train_state, metrics = train_step(train_state, sharding.shard_batch(batch, mesh))
        return float(metrics["load_balance"])

    assert 1 <= balance(10.0) < (1 + balance(0.0)) / 2


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_the_normaliser_of_one_pass_gives_the_same_steps_where_ids_are_split(monkeypatch):
    plain, _ = run_on_one_device(CONFIG)
    plan = step.loss_plan
    monkeypatch.setattr(step, "loss_plan", lambda *a: dataclasses.replace(plan(*a), online=True))  # as on a GPU
    losses, _ = run(CONFIG, MeshConfig(data=2, fsdp=2, tensor=2))
    np.testing.assert_allclose(losses, plain, atol=MESH_TOLERANCE)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_state_is_born_alike_on_every_mesh():
    model = gpt.resolve(CONFIG.model, vocab_size=32, backend="cpu")
    tx = optim.make_optimizer(CONFIG.optim, STEPS, gpt.param_axes(model))
    states = [
        state.create(model, tx, sharding.make_mesh(MeshConfig(data=d, fsdp=f, tensor=t)), seed=3)
        for d, f, t in ((1, 1, 1), (1, 4, 2))
    ]
    jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)


def test_all_weights_zero_do_not_poison_the_parameters():
    model = gpt.resolve(CONFIG.model, vocab_size=32, backend="cpu")
    batch = next(batches())._replace(weights_BS=jnp.zeros((8, 16)))
    params = jax.jit(gpt.init, static_argnums=0)(model, jax.random.key(0))
    grads, sums = jax.jit(lambda p: step.gradients(CONFIG, model, p, batch, jax.random.key(0), LossPlan()))(params)
    assert float(sums.loss.weight) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_average_follows_the_parameters():
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, ema_decay=0.9))
    _, averaged = run(config)
    _, plain = run_on_one_device(CONFIG)
    jax.tree.map(np.testing.assert_array_equal, averaged.params, plain.params)  # it does not touch training
    start = state.create(
        gpt.resolve(CONFIG.model, vocab_size=32, backend="cpu"),
        optim.make_optimizer(
            CONFIG.optim, STEPS, gpt.param_axes(gpt.resolve(CONFIG.model, vocab_size=32, backend="cpu"))
        ),
        sharding.make_mesh(MeshConfig(data=1)),
        seed=0,
    ).params
    kernel = [p["blocks"]["mlp"]["up"]["kernel"] for p in (start, averaged.ema, averaged.params)]
    assert 0 < jnp.linalg.norm(kernel[1] - kernel[2]) < jnp.linalg.norm(kernel[0] - kernel[2])
    assert averaged.eval_params() is averaged.ema and plain.eval_params() is plain.params


def test_rounded_logits_change_training_alone():
    """Losses of training stay within what rounding costs, but are not the same; held-out data are scored in f32."""
    rounded = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, logits_dtype="bfloat16"))
    (exact, final), (other, _) = run_on_one_device(CONFIG), run(rounded)
    assert 0 < np.abs(exact - other).max() < 0.02
    model = gpt.resolve(CONFIG.model, vocab_size=32, backend="cpu")
    mesh = sharding.make_mesh(MeshConfig(data=1))
    scored = [
        step.compile_eval_step(model, c.train, mesh)(final.params, next(batches(1))).nats for c in (CONFIG, rounded)
    ]
    assert scored[0] == scored[1]


def test_z_loss_pulls_the_normaliser_to_zero():
    def log_z(config):
        _, final = run_on_one_device(config)
        model = gpt.resolve(config.model, vocab_size=32, backend="cpu")
        sums = jax.jit(lambda p: step.loss_sums(model, p, next(batches(1)), LossPlan())[1])(final.params)
        return float(sums.squared_log_z / sums.weight)

    assert log_z(dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, z_loss=1.0))) < log_z(CONFIG)


def test_dropout_depends_on_seed_and_step_alone():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.3))
    first, again = run(config)[0], run(config)[0]
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - run_on_one_device(CONFIG)[0]).max() > 1e-3
