"""Int8 weights: what is lost is rounding alone, in every matrix, and both ways to multiply agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_matrices import LEFT, VARIANTS

from jgpt import presets
from jgpt.model import gpt
from jgpt.model.matrices import multiply, quantise_params
from jgpt.model.quantised import FEW_ROWS, LEVELS, Int8Rows, quantise

VOCAB = 21
DIGITS = 2e-4  # of the largest product: an input of 15 bits, over sums of 32


def test_every_weight_is_a_level_times_its_rows_scale() -> None:
    """No weight moves by more than half a level of its own output, the largest is kept exactly, and zeros stay zero."""
    matrix = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32) * np.logspace(-3, 3, 7, dtype=np.float32)
    matrix[:, 3] = 0
    rows = quantise(jnp.asarray(matrix))
    assert rows.levels.dtype == jnp.int8 and int(jnp.abs(rows.levels).max()) == LEVELS
    back = np.asarray(rows.dense())
    scale = np.abs(matrix).max(0) / LEVELS
    assert (np.abs(back - matrix) <= scale * 0.5001).all() and (back[:, 3] == 0).all()
    largest = np.abs(matrix).argmax(0)
    np.testing.assert_allclose(back[largest, range(7)], matrix[largest, range(7)], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 5, FEW_ROWS, FEW_ROWS + 1])
def test_few_rows_and_many_give_the_product_of_the_rounded_matrix(count: int) -> None:
    rng = np.random.default_rng(count)
    rows = quantise(jnp.asarray(rng.normal(size=(48, 33)), jnp.float32))
    x = rng.normal(size=(count, 48)).astype(np.float32) * np.logspace(-4, 4, count, dtype=np.float32)[:, None]
    x[0] = 0
    expected = x.astype(np.float64) @ np.asarray(rows.dense(), np.float64)
    got = np.asarray(jax.jit(multiply)(x, rows))
    largest = np.abs(expected).max(-1, keepdims=True) + 1e-30
    assert (np.abs(got - expected) / largest).max() < DIGITS
    assert (got[0] == 0).all()


@pytest.mark.parametrize("name", ["modern", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gpt2", "llama"))])
def test_a_quantised_model_is_the_model_of_its_rounded_weights(name: str) -> None:
    """Every matrix is int8, and multiplied out they give the same logits; blocks may be stacked or not."""
    cfg = gpt.resolve(VARIANTS[name], vocab_size=VOCAB, backend="cpu")
    params = jax.jit(gpt.init, static_argnums=0)(cfg, jax.random.key(0))
    params = jax.tree.map(lambda a: a + 0.1 * jnp.sin(jnp.arange(a.size, dtype=jnp.float32)).reshape(a.shape), params)
    small = quantise_params(params)
    leaves = jax.tree_util.tree_leaves_with_path(small, is_leaf=lambda leaf: isinstance(leaf, Int8Rows))
    left = {path[-1].key for path, leaf in leaves if not isinstance(leaf, Int8Rows)}
    assert left == LEFT[name]

    def rounded(matrix: jax.Array, like: Int8Rows | jax.Array) -> jax.Array:
        if not isinstance(like, Int8Rows):
            return matrix
        back = like.levels.astype(jnp.float32) * like.scale[..., None]
        if matrix.shape == back.shape:  # a table
            return back
        return jnp.swapaxes(back, -1, -2).reshape(matrix.shape)

    near = jax.tree.map(rounded, params, small)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (2, 20)), jnp.int32)
    positions = jnp.tile(jnp.arange(20)[None], (2, 1))
    apply = jax.jit(gpt.apply, static_argnums=0)
    expected, original = (apply(cfg, p, tokens, positions)[0] for p in (near, params))
    spread = float(jnp.abs(original).max())
    got = apply(cfg, small, tokens, positions)[0]
    np.testing.assert_allclose(got, expected, atol=1e-4 * spread)
    unstacked = apply(cfg, quantise_params(gpt.unstack(params)), tokens, positions)[0]
    np.testing.assert_allclose(unstacked, got, atol=1e-5 * spread)
    assert 1e-4 * spread < np.abs(np.asarray(got - original)).max() < 0.2 * spread  # rounded, and no more than that


def test_quantised_is_smaller_by_nearly_four() -> None:
    cfg = gpt.resolve(presets.modern(num_layers=2, embed_dim=128, num_heads=4), vocab_size=512, backend="cpu")
    params = jax.eval_shape(lambda: gpt.init(cfg, jax.random.key(0)))
    small = jax.eval_shape(quantise_params, params)
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert 3.8 < size(params) / size(small) < 4
