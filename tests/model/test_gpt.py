"""The transformer's properties: causality, packing, caching, and that options which should not matter do not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt import layout, presets
from jgpt.config import ModelConfig
from jgpt.model import gpt
from jgpt.model.cache import init_cache
from jgpt.model.embedding import Embedding

SIZES = dict(num_layers=2, embed_dim=32, num_heads=4, context_length=24)
VARIANTS = {
    "gpt2": presets.gpt2(**SIZES),
    "llama": presets.llama(**SIZES, num_kv_heads=2),
    "modern": presets.modern(**SIZES),
    "windows": presets.modern(
        **SIZES,
        windows=(5, None),
        attention_softcap=10.0,
        logit_softcap=8.0,
        num_kv_heads=1,
        embedding_conv=3,
        attention_gates=True,
        embedding_skips=True,
    ),
    "ngrams": presets.modern(**SIZES, ngrams=(2, 4), ngram_rows=64, rotary_fraction=0.5, init="half"),
    "plane": presets.modern(
        **SIZES,
        positions="rotary_2d",
        image_start_id=3,
        picture_width=2,
        picture_cells=6,
        tokens_per_cell=1,
        patterns=("strided", "fixed"),
        pattern_stride=5,
    ),
    "looped": presets.modern(**SIZES, loops=2, windows=(4, None, 6)),
    "experts": presets.llama(**SIZES, num_experts=4, mlp_dim=24),
    "positionless": presets.llama(**SIZES, positions="none", head_dim=10),
}
LOGIT_TOLERANCE = 2e-5  # f32, two layers of width 32, logits of order 1
VOCAB = 21
init_params = jax.jit(gpt.init, static_argnums=0)  # compiled: op by op, most of a test's time would be dispatch
apply = jax.jit(gpt.apply, static_argnums=0)


def resolved(cfg: ModelConfig) -> ModelConfig:
    return gpt.resolve(cfg, vocab_size=VOCAB, backend="cpu")


def random_params(cfg, key):
    """Return parameters without the zeros of the zero init, so that nothing is hidden by them."""
    params = init_params(cfg, key)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, noisy)


def batch(rows=2, length=24, seed=0):
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (rows, length)).astype(np.int32)
    return jnp.asarray(tokens), jnp.tile(jnp.arange(length, dtype=jnp.int32)[None], (rows, 1))


# what the others are made of stands in these
FIRST = ("gpt2", "windows", "ngrams", "plane", "experts")


@pytest.fixture(
    params=[name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],
    scope="module",
)
def model(request):
    cfg = resolved(VARIANTS[request.param])
    return cfg, random_params(cfg, jax.random.key(1))


def test_no_logit_depends_on_a_later_token(model):
    cfg, params = model
    tokens, positions = batch(1)

    def logit_sum_at(embedded, at):
        changed = {**params, "embedding": {**params["embedding"], "tokens": embedded}}
        return apply(cfg, changed, jnp.arange(12, dtype=jnp.int32)[None], positions[:, :12])[0][0, at].sum()

    for at in (0, 5, 11):  # row i of the table is token i here, so its gradient is that of position i
        gradient = jax.jit(jax.grad(logit_sum_at))(params["embedding"]["tokens"], at)
        reached = np.abs(np.asarray(gradient)).sum(-1) > 0
        if not cfg.tie_embeddings and not cfg.ngrams:
            assert not reached[at + 1 :].any() and reached[at]
    later = tokens.at[0, 10:].set((tokens[0, 10:] + 1) % VOCAB)
    before, after = (apply(cfg, params, t, positions)[0] for t in (tokens, later))
    np.testing.assert_array_equal(before[0, :10], after[0, :10])
    assert np.abs(np.asarray(before[0, 10:] - after[0, 10:])).max() > 1e-3


def test_packed_documents_equal_each_alone(model):
    cfg, params = model
    tokens, _ = batch(1)
    sizes = (10, 3, 11)
    positions = jnp.concatenate([jnp.arange(n) for n in sizes])[None].astype(jnp.int32)
    segments = jnp.asarray(np.repeat([1, 2, 3], sizes)[None], jnp.int32)
    packed = apply(cfg, params, tokens, positions, segments)[0]
    start = 0
    for n in sizes:
        cut = slice(start, start + n)
        alone = apply(cfg, params, tokens[:, cut], positions[:, cut])[0]
        np.testing.assert_allclose(packed[:, cut], alone, atol=LOGIT_TOLERANCE, rtol=0)
        start += n


def test_cached_equals_uncached(model):
    cfg, params = model
    tokens, positions = batch(3)
    whole = apply(cfg, params, tokens, positions)[0]
    cache = init_cache(cfg, 3, 24, "float32")
    for cut in (slice(0, 7), slice(7, 8), slice(8, 20), slice(20, 24)):  # prefill, one token, prefill in chunks
        part, cache = apply(cfg, gpt.unstack(params), tokens[:, cut], positions[:, cut], cache=cache)
        np.testing.assert_allclose(part, whole[:, cut], atol=LOGIT_TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"remat": "dots", "scan_layers": True},
        pytest.param({"scan_layers": True}, marks=pytest.mark.slow),
        pytest.param({"remat": "full"}, marks=pytest.mark.slow),
    ],
)
def test_how_it_is_compiled_changes_nothing(model, options):
    cfg, params = model
    tokens, positions = batch()

    def loss(cfg, params):
        return jnp.sum(jnp.sin(apply(cfg, params, tokens, positions)[0]))

    loss_and_gradient = jax.jit(jax.value_and_grad(loss, 1), static_argnums=0)
    plain, gradient = loss_and_gradient(cfg, params)
    other, other_gradient = loss_and_gradient(dataclasses.replace(cfg, **options), params)
    np.testing.assert_allclose(plain, other, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3, rtol=1e-3), gradient, other_gradient)


def test_scan_keeps_the_window_of_each_layer():
    cfg = resolved(presets.modern(**{**SIZES, "num_layers": 3}, windows=(3, None)))  # not a whole number of periods
    params = random_params(cfg, jax.random.key(0))
    tokens, positions = batch()
    plain = apply(cfg, params, tokens, positions)[0]
    scanned = apply(dataclasses.replace(cfg, scan_layers=True), params, tokens, positions)[0]
    np.testing.assert_allclose(plain, scanned, atol=LOGIT_TOLERANCE, rtol=0)


def test_loops_run_the_same_layers_again():
    cfg = resolved(presets.modern(**SIZES, loops=3, windows=(3, None, None, 5)))
    params = random_params(cfg, jax.random.key(0))
    tokens, positions = batch()
    unrolled = dataclasses.replace(cfg, num_layers=6, loops=1)
    copies = {**params, "blocks": jax.tree.map(lambda a: jnp.concatenate([a] * 3), params["blocks"])}
    looped, plain = apply(cfg, params, tokens, positions)[0], apply(unrolled, copies, tokens, positions)[0]
    np.testing.assert_allclose(looped, plain, atol=LOGIT_TOLERANCE, rtol=0)
    once = apply(dataclasses.replace(cfg, loops=1), params, tokens, positions)[0]
    assert np.abs(np.asarray(once - looped)).max() > 100 * LOGIT_TOLERANCE


def test_window_limits_what_is_seen():
    cfg = resolved(presets.modern(**{**SIZES, "num_layers": 1}, windows=(4,)))
    params = random_params(cfg, jax.random.key(0))
    tokens, positions = batch(1)
    early = tokens.at[0, 0].set((tokens[0, 0] + 1) % VOCAB)
    before, after = (apply(cfg, params, t, positions)[0] for t in (tokens, early))
    np.testing.assert_array_equal(before[0, 4:], after[0, 4:])
    assert np.abs(np.asarray(before[0, 3] - after[0, 3])).max() > 0


def test_rotary_attention_sees_distances_alone():
    cfg = resolved(presets.modern(**SIZES))
    params = random_params(cfg, jax.random.key(0))
    tokens, positions = batch()
    here, there = (apply(cfg, params, tokens, positions + shift)[0] for shift in (0, 100))
    np.testing.assert_allclose(here, there, atol=10 * LOGIT_TOLERANCE, rtol=0)  # angles of 100 rad round more


def test_dropout_is_drawn_from_its_key_alone():
    cfg = resolved(presets.gpt2(**SIZES, dropout=0.5))
    params = random_params(cfg, jax.random.key(0))
    tokens, positions = batch()

    def run(key):
        return np.asarray(gpt.features(cfg, params, tokens, positions, dropout_key=key)[0])

    first, again, other, off = (run(k) for k in (jax.random.key(1), jax.random.key(1), jax.random.key(2), None))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1 and np.abs(first - off).max() > 0.1
    scanned = gpt.features(
        dataclasses.replace(cfg, scan_layers=True), params, tokens, positions, dropout_key=jax.random.key(1)
    )[0]
    np.testing.assert_allclose(first, scanned, atol=LOGIT_TOLERANCE, rtol=0)


def test_every_parameter_has_axes_with_a_rule(model):
    cfg, params = model
    axes = gpt.param_axes(cfg)
    flat = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert len(flat) == len(jax.tree.leaves(params))
    jax.tree.map(lambda leaf, names: len(layout.spec_of(names)) == leaf.ndim or pytest.fail(str(names)), params, axes)


def test_bfloat16_stays_near_float32(model):
    cfg, params = model
    tokens, positions = batch()
    exact = np.asarray(apply(cfg, params, tokens, positions)[0])
    rough = apply(dataclasses.replace(cfg, compute_dtype="bfloat16"), params, tokens, positions)[0]
    assert rough.dtype == jnp.float32
    error = np.abs(np.asarray(rough) - exact).mean() / np.abs(exact).mean()
    assert 0 < error < 0.05  # bf16 keeps 8 bits; a few roundings a layer


def test_resolve_fills_what_depends_on_the_run():
    cfg = gpt.resolve(ModelConfig(vocab_multiple=8), vocab_size=21, backend="cpu")
    assert (cfg.vocab_size, cfg.compute_dtype, cfg.attention) == (24, "float32", "blocked")
    cfg = gpt.resolve(ModelConfig(), vocab_size=24, backend="gpu")
    assert (cfg.vocab_size, cfg.compute_dtype, cfg.attention) == (24, "bfloat16", "cudnn")


def test_pixels_have_no_ngrams():
    cfg = resolved(presets.modern(**SIZES, ngrams=(2,), ngram_rows=64, ngram_ids=10))
    params = random_params(cfg, jax.random.key(0))["embedding"]
    positions = jnp.arange(3)[None]

    def embedded(*tokens):
        return Embedding(cfg).apply({"params": params}, jnp.asarray([tokens]), positions)[0]

    assert np.abs(np.asarray(embedded(1, 5, 3)[1] - embedded(2, 5, 3)[1])).max() > 0.01
    np.testing.assert_array_equal(embedded(1, 15, 3)[1], embedded(2, 15, 3)[1])


def test_ngrams_stop_at_the_start_of_their_document():
    check_documents_apart(resolved(presets.modern(**SIZES, ngrams=(2, 3), ngram_rows=64)))


def test_the_convolution_stops_at_the_start_of_its_document():
    check_documents_apart(resolved(presets.modern(**SIZES, embedding_conv=3)))


def check_documents_apart(cfg: ModelConfig) -> None:
    params = random_params(cfg, jax.random.key(0))["embedding"]
    positions = jnp.asarray([[0, 1, 0, 1]])
    one, other = (
        Embedding(cfg).apply({"params": params}, jnp.asarray([t]), positions)[0] for t in ([1, 2, 3, 4], [7, 8, 3, 4])
    )
    np.testing.assert_array_equal(one[2:], other[2:])
    assert np.abs(np.asarray(one[:2] - other[:2])).max() > 0.01


def test_the_convolution_adds_the_tokens_before():
    cfg = resolved(presets.modern(**SIZES, embedding_conv=3))
    params = random_params(cfg, jax.random.key(0))["embedding"]
    tokens = np.asarray([[5, 2, 9, 2, 7]])
    found = Embedding(cfg).apply({"params": params}, jnp.asarray(tokens), jnp.arange(5)[None])[0]
    rows, weights = np.asarray(params["tokens"])[tokens[0]], np.asarray(params["conv"])
    expected = rows + [sum((weights[i] * rows[t - 1 - i] for i in range(min(2, t))), np.zeros(32)) for t in range(5)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


PARTS = dict(embedding_conv=4, attention_gates=True, embedding_skips=True)


def test_parts_that_are_zero_change_nothing():
    """They begin that way, so that a model that has them begins as one without."""
    plain, cfg = (resolved(presets.modern(**SIZES, init="half", **options)) for options in ({}, PARTS))
    params = init_params(cfg, jax.random.key(0))
    params["head"]["kernel"] = jax.random.normal(jax.random.key(1), params["head"]["kernel"].shape)
    tokens, positions = batch()
    found, expected = (apply(each, params, tokens, positions)[0] for each in (cfg, plain))
    np.testing.assert_allclose(found, expected, atol=LOGIT_TOLERANCE, rtol=0)
    for path in (("embedding", "conv"), ("blocks", "attention", "gate"), ("blocks", "kept"), ("blocks", "again")):
        changed = jax.tree.map_with_path(
            lambda at, leaf, path=path: leaf + 0.3 * (tuple(key.key for key in at[: len(path)]) == path), params
        )
        assert np.abs(np.asarray(apply(cfg, changed, tokens, positions)[0] - expected)).max() > 0.01, path


def test_a_closed_gate_silences_its_head():
    cfg = resolved(presets.modern(**SIZES, attention_gates=True, norm="layernorm", use_bias=True))
    params = random_params(cfg, jax.random.key(0))
    blocks = params["blocks"]
    # every token's first channel is 1 behind the norm, and closes the gate of head 2
    blocks["attention_norm"] = {
        "scale": blocks["attention_norm"]["scale"].at[:, 0].set(0),
        "bias": blocks["attention_norm"]["bias"].at[:, 0].set(1),
    }
    blocks["attention"]["gate"]["kernel"] = jnp.zeros((2, 16, 4)).at[:, 0, 2].set(-100)
    tokens, positions = batch()

    def with_values(head: int) -> np.ndarray:
        values = blocks["attention"]["value"]
        attention = {**blocks["attention"], "value": {**values, "kernel": values["kernel"].at[:, :, head].add(1.0)}}
        return np.asarray(apply(cfg, {**params, "blocks": {**blocks, "attention": attention}}, tokens, positions)[0])

    before = np.asarray(apply(cfg, params, tokens, positions)[0])
    np.testing.assert_array_equal(with_values(2), before)
    assert np.abs(with_values(1) - before).max() > 1e-3


@pytest.mark.parametrize(("init", "gets_one"), [("zero", False), ("half", True), ("gpt2", True)])
def test_which_init_gives_attention_a_gradient_at_once(init, gets_one):
    cfg = resolved(presets.modern(**SIZES, init=init, tie_embeddings=True))
    params = init_params(cfg, jax.random.key(0))
    tokens, positions = batch()
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(apply(cfg, p, tokens, positions)[0])))(params)
    size = np.abs(np.asarray(gradient["blocks"]["attention"]["query"]["kernel"])).max()
    assert (size > 0) == gets_one
