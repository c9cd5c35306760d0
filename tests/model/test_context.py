"""Rows cut over devices: their order, and attention across it, against attention to whole rows on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt import sharding
from jgpt.config import MeshConfig
from jgpt.layout import flatten, on_mesh, unflatten
from jgpt.model import context
from jgpt.model.attention import einsum_attention
from jgpt.model.visibility import Pattern, Visibility

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
TOLERANCE = 2e-6  # f32 sums over at most 32 products of order 1
GRADIENT_TOLERANCE = 2e-5  # sums of sums
B, S, H, G, K = 2, 32, 4, 2, 8


def mesh_of(**sizes):
    return sharding.make_mesh(MeshConfig(**({"data": 1} | sizes)))


def arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (B, S, H, K))
    k, v = (jax.random.normal(key, (B, S, G, K)) for key in keys[1:3])
    return q, k, v, jax.random.normal(keys[3], (B, S, H, K))


def packed():
    """Two rows: three documents and padding; one document."""
    sizes = [[5, 14, 9, 4], [S]]
    segments = np.array([np.repeat([1, 2, 3, 0], sizes[0]), np.ones(S, int)], np.int32)
    positions = np.array([np.concatenate([np.arange(n) for n in row]) for row in sizes], np.int32)
    return jnp.asarray(positions), jnp.asarray(segments)


def whole(rule, softcap):
    """Return the attention of whole rows, and its gradients."""
    positions, segments = packed()
    visible = Visibility(positions, positions, segments, segments, **rule)
    q, k, v, slope = arrays()
    out, pull = jax.vjp(lambda q, k, v: einsum_attention(q, k, v, visible, softcap), q, k, v)
    return out, pull(slope)


def cut(mesh, rule, softcap):
    """Return the same from rows that are cut, laid back in order."""
    positions, segments = packed()

    def run(q, k, v, slope):
        visible = Visibility(context.spread(positions), positions, context.spread(segments), segments, **rule)
        q, k, v, slope = (context.spread(x) for x in (q, k, v, slope))
        out, pull = jax.vjp(lambda q, k, v: context.attend(q, k, v, visible, softcap), q, k, v)
        order = context.spread(jnp.tile(jnp.arange(S)[None], (B, 1)))
        return order, out, pull(slope)

    order, out, slopes = jax.jit(on_mesh(mesh, run), in_shardings=jax.NamedSharding(mesh, jax.P()))(*arrays())
    back = np.argsort(np.asarray(order)[0])
    return np.asarray(out)[:, back], [np.asarray(slope)[:, back] for slope in slopes]


@pytest.mark.parametrize(
    "sizes",
    [
        dict(context=8),
        dict(data=2, context=2, tensor=2),
        pytest.param(dict(fsdp=2, context=4), marks=pytest.mark.slow),
        pytest.param(dict(expert=2, context=4), marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("rule", "softcap"),
    [({}, None), (dict(window=6), 5.0), (dict(pattern=Pattern("strided", 5)), None)],
    ids=["full", "window", "strided"],
)
def test_equals_attention_of_whole_rows(sizes, rule, softcap):
    out, slopes = cut(mesh_of(**sizes), rule, softcap)
    expected, expected_slopes = whole(rule, softcap)
    np.testing.assert_allclose(out, expected, atol=TOLERANCE)
    for slope, wanted in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(slope, wanted, atol=GRADIENT_TOLERANCE)


def test_pieces_are_equal_and_not_small():
    assert [context._pieces(n) for n in (8, 1024, 1031, 1536, 2062, 4096)] == [1, 1, 1, 2, 1, 4]


@pytest.mark.parametrize("queries", [1, 3, 4])
def test_pieces_of_queries_change_nothing(monkeypatch, queries):
    monkeypatch.setattr(context, "QUERIES_AT_ONCE", queries)  # of the 8 of a stretch
    out, slopes = cut(mesh_of(context=2), {}, None)
    expected, expected_slopes = whole({}, None)
    np.testing.assert_allclose(out, expected, atol=TOLERANCE)
    for slope, wanted in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(slope, wanted, atol=GRADIENT_TOLERANCE)


def test_the_order_of_the_worked_example():
    mesh = mesh_of(context=2)
    order = jax.jit(on_mesh(mesh, context.spread), in_shardings=jax.NamedSharding(mesh, jax.P()))(jnp.arange(8)[None])
    assert order.tolist() == [[0, 1, 6, 7, 2, 3, 4, 5]]
    first = next(shard for shard in order.addressable_shards if shard.index[1].start in (None, 0))
    assert first.data.tolist() == [[0, 1, 6, 7]]
    assert context.spread(jnp.arange(8)[None]).tolist() == [list(range(8))]  # no mesh: as it is


@pytest.mark.parametrize("sizes", [dict(fsdp=2, context=4), dict(fsdp=2, context=2, tensor=2), dict(fsdp=8)], ids=str)
def test_tokens_are_laid_behind_each_other_where_they_are_and_back(sizes):
    mesh = mesh_of(**sizes)
    x = jnp.arange(8 * 16 * 3, dtype=jnp.float32).reshape(8, 16, 3)

    def run(x):
        flat = flatten(x)
        return flat, unflatten(flat, 8)

    where = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), "context", None))
    compiled = jax.jit(on_mesh(mesh, run), in_shardings=where).lower(x).compile()
    flat, again = compiled(jax.device_put(x, where))
    np.testing.assert_array_equal(again, x)
    assert sorted(np.asarray(flat)[:, 0].tolist()) == np.asarray(x)[:, :, 0].ravel().tolist()
    assert not [word for word in ("all-gather", "all-to-all", "collective-permute") if word in compiled.as_text()]
