"""Matrices with their outputs first: the same product and the same model, of few tokens and of many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt import presets
from jgpt.decoder import decoder_for
from jgpt.model import gpt
from jgpt.model.matrices import FEW_TOKENS, OutputsFirst, is_stored, multiply, outputs_first, quantise_params

SIZES = dict(num_layers=2, embed_dim=32, num_heads=4, context_length=24)
VARIANTS = {
    "gpt2": presets.gpt2(**SIZES),
    "llama": presets.llama(**SIZES, num_kv_heads=2),
    "modern": presets.modern(
        **SIZES, init="half", ngrams=(2,), ngram_rows=16, head_dim=6, embedding_conv=3, attention_gates=True,
        embedding_skips=True,
    ),
}  # fmt: skip
LEFT = {  # what is no matrix
    "gpt2": {"scale", "bias", "positions"},
    "llama": {"scale"},
    "modern": {"scale", "conv", "kept", "again"},
}


@pytest.mark.parametrize("count", [1, 3, FEW_TOKENS, FEW_TOKENS + 1])
def test_it_is_the_product(count: int) -> None:
    rng = np.random.default_rng(count)
    x, matrix = rng.normal(size=(count, 40)).astype(np.float32), rng.normal(size=(40, 7)).astype(np.float32)
    got = jax.jit(multiply)(jnp.asarray(x), OutputsFirst(jnp.asarray(matrix.T)))
    np.testing.assert_allclose(got, x.astype(np.float64) @ matrix, atol=1e-4)


@pytest.mark.parametrize("name", ["modern", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gpt2", "llama"))])
@pytest.mark.parametrize("rows", [2, 4])  # tokens below and above FEW_TOKENS
def test_a_model_stays_the_model(name: str, rows: int) -> None:
    """Every matrix and table is stored outputs first, and logits are what they were; doing it twice changes nothing."""
    cfg = gpt.resolve(VARIANTS[name], vocab_size=21, backend="cpu")
    params = jax.jit(gpt.init, static_argnums=0)(cfg, jax.random.key(0))
    params = jax.tree.map(lambda a: a + 0.1 * jnp.sin(jnp.arange(a.size, dtype=jnp.float32)).reshape(a.shape), params)
    stored = outputs_first(gpt.unstack(params))
    leaves = jax.tree_util.tree_leaves_with_path(stored, is_leaf=is_stored)
    assert {path[-1].key for path, leaf in leaves if not is_stored(leaf)} == LEFT[name]
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 21, (rows, 20)), jnp.int32)
    positions = jnp.tile(jnp.arange(20)[None], (rows, 1))
    apply = jax.jit(gpt.apply, static_argnums=0)
    expected, got = (apply(cfg, p, tokens, positions)[0] for p in (params, stored))
    np.testing.assert_allclose(got, expected, atol=1e-5 * float(jnp.abs(expected).max()))
    again = outputs_first(stored)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(stored), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices decode inputs first")
def test_a_decoder_prepares_once_and_leaves_int8_as_it_is() -> None:
    cfg = gpt.resolve(VARIANTS["gpt2"], vocab_size=21, backend="cpu")
    params, decoder = gpt.init(cfg, jax.random.key(0)), decoder_for(cfg)
    ready = decoder.prepare(params)
    assert isinstance(ready["blocks"][0]["mlp"]["up"]["kernel"], OutputsFirst) and decoder.prepare(ready) is ready
    small = decoder.prepare(quantise_params(params))
    kinds = {type(leaf) for leaf in jax.tree.leaves(small, is_leaf=is_stored) if is_stored(leaf)}
    assert OutputsFirst not in kinds and len(kinds) == 1
