"""Every registered attention against plain numpy, and its visibility rule by gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt.model.attention import ATTENTION, choose_attention
from jgpt.model.blocked import MAX_BLOCKS, block_bounds
from jgpt.model.visibility import Pattern, Visibility

ON_THIS_DEVICE = [name for name in ATTENTION if name != "cudnn" or jax.default_backend() == "gpu"]
WITHOUT_CAP = ("xla", "cudnn")
TOLERANCE = 2e-6  # f32 sums over at most 200 products of order 1
GRADIENT_TOLERANCE = 2e-5  # sums of sums


def numpy_attention(q, k, v, mask, softcap):
    """Attend head by head and query by query in float64."""
    B, S, H, K = q.shape
    out = np.zeros((B, S, H, K))
    for b in range(B):
        for s in range(S):
            for h in range(H):
                g = h // (H // k.shape[2])
                scores = k[b, :, g].astype(np.float64) @ q[b, s, h].astype(np.float64) / np.sqrt(K)
                if softcap is not None:
                    scores = softcap * np.tanh(scores / softcap)
                scores = scores[mask[b, s]]
                weights = np.exp(scores - scores.max())
                out[b, s, h] = (weights / weights.sum()) @ v[b, mask[b, s], g].astype(np.float64)
    return out


def in_pattern(query, key, pattern):
    """Write the sets of Child et al. 2019, section 4.3, as they stand there, for keys that are not later."""
    if pattern is None:
        return True
    stride = pattern.stride
    if pattern.kind == "strided":
        return key in {*range(max(0, query - stride + 1), query + 1)} or (query - key) % stride == 0
    return query // stride == key // stride or key % stride in range(stride - pattern.summary, stride)


def numpy_mask(positions, segments, window, pattern=None):
    B, S = positions.shape
    mask = np.zeros((B, S, S), bool)
    for b in range(B):
        for s in range(S):
            for t in range(S):
                distance = positions[b, s] - positions[b, t]
                near = window is None or distance < window
                here = segments[b, s] == segments[b, t] and in_pattern(positions[b, s], positions[b, t], pattern)
                mask[b, s, t] = distance >= 0 and near and here
    return mask


def packed(S, sizes):
    segments = np.repeat(np.arange(1, len(sizes) + 1), sizes)[:S]
    positions = np.concatenate([np.arange(n) for n in sizes])[:S]
    return positions[None].astype(np.int32), segments[None].astype(np.int32)


def visibility(positions, segments, window, pattern=None):
    positions, segments = jnp.asarray(positions), jnp.asarray(segments)
    return Visibility(positions, positions, segments, segments, window, pattern)


PATTERNS = (Pattern("strided", 7), Pattern("strided", 80), Pattern("fixed", 9, 2))


def allowed(name, softcap):
    """Return the soft-cap where a way to attend has one."""
    return None if name in WITHOUT_CAP else softcap


def test_patterns_as_in_their_worked_example():
    positions = jnp.arange(8)[None]
    for kind, expected in (("strided", [1, 4, 5, 6, 7]), ("fixed", [2, 5, 6, 7])):
        mask = Visibility(positions, positions, pattern=Pattern(kind, 3)).mask()
        assert np.flatnonzero(mask[0, 7]).tolist() == expected


@pytest.mark.parametrize("name", ON_THIS_DEVICE)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_patterns_equal_numpy(name, pattern):
    rng = np.random.default_rng(5)
    S = 150  # no multiple of a stride, more than one query block
    positions, segments = packed(S, [70, 1, 79])
    q, k, v = (rng.normal(size=(1, S, n, 8)).astype(np.float32) for n in (4, 2, 2))
    softcap = allowed(name, 4.0 if pattern.stride == 7 else None)
    attend = jax.jit(lambda q, k, v: ATTENTION[name](q, k, v, visibility(positions, segments, None, pattern), softcap))
    expected = numpy_attention(q, k, v, numpy_mask(positions, segments, None, pattern), softcap)
    np.testing.assert_allclose(attend(q, k, v), expected, atol=TOLERANCE * 10, rtol=0)


@pytest.mark.parametrize("name", ON_THIS_DEVICE)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_gradient_reaches_exactly_the_keys_of_the_pattern(name, pattern):
    rng = np.random.default_rng(6)
    S = 130
    positions, segments = packed(S, [60, 70])
    q, k, v = (jnp.asarray(rng.normal(size=(1, S, 2, 8)), jnp.float32) for _ in range(3))
    mask = numpy_mask(positions, segments, None, pattern)[0]
    visible = visibility(positions, segments, None, pattern)
    gradient = jax.jit(jax.grad(lambda v, at: jnp.sum(ATTENTION[name](q, k, v, visible, None)[0, at])))
    for query in (0, 59, 60, 100, 129):
        reached = np.abs(np.asarray(gradient(v, query)[0])).sum((1, 2)) > 0
        np.testing.assert_array_equal(reached, mask[query])


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_gradients_through_blocks_of_a_pattern_equal_automatic_differentiation(pattern):
    rng = np.random.default_rng(7)
    S = 150
    positions, segments = packed(S, [100, 50])
    q, k, v = (jnp.asarray(rng.normal(size=(2, S, n, 8)), jnp.float32) for n in (4, 2, 2))
    visible = visibility(np.tile(positions, (2, 1)), np.tile(segments, (2, 1)), None, pattern)

    def gradients(name):
        loss = lambda q, k, v: jnp.sum(jnp.sin(ATTENTION[name](q, k, v, visible, 4.0)))  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)

    for ours, theirs in zip(gradients("blocked"), gradients("einsum"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=GRADIENT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ON_THIS_DEVICE)
@pytest.mark.parametrize(
    ("heads", "groups", "window", "softcap"), [(4, 4, None, None), (4, 2, 9, None), (2, 1, None, 3.0), (4, 2, 33, 5.0)]
)
def test_equals_numpy(name, heads, groups, window, softcap):
    rng, softcap = np.random.default_rng(0), allowed(name, softcap)
    S = 200  # more than one query block
    positions, segments = packed(S, [70, 1, 129])
    q, k, v = (rng.normal(size=(1, S, n, 8)).astype(np.float32) for n in (heads, groups, groups))
    visible = visibility(positions, segments, window)
    out = ATTENTION[name](jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), visible, softcap)
    expected = numpy_attention(q, k, v, numpy_mask(positions, segments, window), softcap)
    np.testing.assert_allclose(out, expected, atol=TOLERANCE * 10, rtol=0)


@pytest.mark.parametrize("name", [n for n in ON_THIS_DEVICE if n != "einsum"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (20, 4.0)])
def test_gradients_equal_automatic_differentiation(name, window, softcap):
    rng, softcap = np.random.default_rng(1), allowed(name, softcap)
    S = 150
    positions, segments = packed(S, [100, 50])
    q, k, v = (jnp.asarray(rng.normal(size=(1, S, n, 8)), jnp.float32) for n in (4, 2, 2))
    visible = visibility(positions, segments, window)

    def loss(name):
        return jax.grad(lambda q, k, v: jnp.sum(jnp.sin(ATTENTION[name](q, k, v, visible, softcap))), (0, 1, 2))(
            q, k, v
        )

    for ours, theirs in zip(loss(name), loss("einsum"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=GRADIENT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ON_THIS_DEVICE)
def test_gradient_reaches_exactly_the_visible_keys(name):
    rng = np.random.default_rng(2)
    S, window = 130, 40
    positions, segments = packed(S, [60, 70])
    q, k, v = (jnp.asarray(rng.normal(size=(1, S, 2, 8)), jnp.float32) for _ in range(3))
    visible = visibility(positions, segments, window)
    mask = numpy_mask(positions, segments, window)[0]
    for query in (0, 59, 60, 100, 129):
        gradient = jax.grad(lambda v: jnp.sum(ATTENTION[name](q, k, v, visible, None)[0, query]))(v)  # noqa: B023
        reached = np.abs(np.asarray(gradient[0])).sum((1, 2)) > 0
        np.testing.assert_array_equal(reached, mask[query])


@pytest.mark.parametrize("name", ON_THIS_DEVICE)
def test_a_query_that_sees_nothing_stays_finite(name):
    q = jnp.ones((1, 4, 2, 8))
    positions = jnp.zeros((1, 4), jnp.int32)
    visible = Visibility(positions - 1, positions, None, None, None)  # every key lies in the future
    out, gradient = jax.value_and_grad(lambda q: jnp.sum(ATTENTION[name](q, q, q, visible, None)))(q)
    assert np.isfinite(out) and np.isfinite(np.asarray(gradient)).all()


@pytest.mark.parametrize("length", [1, 63, 64, 201, 5000])
@pytest.mark.parametrize("window", [None, 1, 28, 64, 300])
def test_blocks_are_few_cover_every_query_and_hold_every_key_in_reach(length, window):
    bounds = block_bounds(length, window)
    assert len(bounds) <= MAX_BLOCKS
    assert [i for _, start, stop in bounds for i in range(start, stop)] == list(range(length))
    for first, start, _ in bounds:
        assert first == (0 if window is None else max(0, start - window + 1))


def choose(name: str, backend: str, dtype: str = "bfloat16", softcap=None, length=256, width=64):
    return choose_attention(name, backend=backend, softcap=softcap, dtype=dtype, length=length, width=width)


def test_auto_follows_the_device():
    assert choose("auto", "cpu", "float32", softcap=3.0) == "blocked"
    assert choose("auto", "gpu") == "cudnn"
    assert (
        choose("auto", "gpu", length=201)
        == choose("auto", "gpu", width=20)
        == choose("auto", "gpu", width=256)
        == "xla"
    )
    assert choose("auto", "gpu", "float32") == "xla"
    assert choose("auto", "tpu", softcap=3.0) == "einsum"
    assert choose("xla", "cpu", "float32") == "xla"


def test_segments_of_one_side_alone_are_refused():
    positions, segments = (jnp.asarray(x) for x in packed(4, [4]))
    for sides in ((segments, None), (None, segments)):
        with pytest.raises(ValueError, match="of queries or of keys alone"):
            Visibility(positions, positions, *sides).mask()


@pytest.mark.parametrize("name", WITHOUT_CAP)
def test_a_soft_cap_is_refused_where_there_is_none(name):
    with pytest.raises(ValueError, match=f"softcap is 4.0: attention '{name}' has none"):
        ATTENTION[name](*[jnp.zeros((1, 4, 2, 8))] * 3, visibility(*packed(4, [4]), None), 4.0)


@pytest.mark.parametrize("width", [20, 264])
def test_cudnn_is_refused_for_heads_that_it_has_not(width):
    with pytest.raises(ValueError, match=f"heads of a multiple of 8 .* this run has {width}: use auto"):
        choose("cudnn", "gpu", width=width)
    assert choose("cudnn", "gpu", length=201, width=256) == "cudnn"


def test_cudnn_is_refused_where_it_cannot_run():
    with pytest.raises(ValueError, match="'cudnn' needs a GPU.*'cpu'.*use auto"):
        choose("cudnn", "cpu", "float32")
