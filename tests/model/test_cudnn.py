"""cuDNN's forms: which one a visibility takes, and that rows told document by document mean what their segments mean.

No GPU is needed: programs are lowered for one, and jax's packed attention is stood in for by what its documentation says.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.model import cudnn
from jgpt.model.attention import cudnn_attention, einsum_attention
from jgpt.model.visibility import Pattern, Visibility

fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")

F32_TOLERANCE = 1e-5
LENGTH = 24


def packed_rows(cuts: list[list[int]]) -> np.ndarray:
    """Return segments of rows whose documents have these lengths, padding behind them."""
    rows = np.zeros((len(cuts), LENGTH), np.int32)
    for row, sizes in zip(rows, cuts, strict=True):
        ends = np.minimum(np.cumsum(sizes), LENGTH)
        for number, (first, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), start=1):
            row[first:end] = number
    return rows


def seen_by(segments: np.ndarray, **fields) -> Visibility:
    starts = np.maximum.accumulate(
        np.where(np.diff(segments, axis=1, prepend=-1) != 0, np.arange(LENGTH)[None, :], 0), axis=1
    )
    positions = jnp.asarray(np.arange(LENGTH)[None, :] - starts)
    return Visibility(positions, positions, jnp.asarray(segments), jnp.asarray(segments), **fields)


def queries(rows: int, heads: int = 4, kv_heads: int = 2, width: int = 8, dtype=jnp.float32) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    return [
        jax.random.normal(key, (rows, LENGTH, n, width), dtype)
        for key, n in zip(keys, (heads, kv_heads, kv_heads), strict=True)
    ]


def as_documented(query, key, value, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type):
    """Return what `fused.dot_product_attention` documents: causal attention in every stretch (offset, length) of a row."""
    assert key.shape[2] == query.shape[2]  # jax 0.10 mistakes the offsets of grouped keys
    assert mask_type == fused.MaskType.PADDING_CAUSAL and q_offsets.shape[1] == q_seqlen.shape[1] + 1
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.full(query.shape, np.nan, np.float32)
    for row in range(query.shape[0]):
        found = [(o, n) for o, n in zip(q_offsets[row].tolist(), q_seqlen[row].tolist(), strict=False) if n >= 0]
        assert [o for o in q_offsets[row].tolist() if o >= 0] == [o for o, _ in found]
        for offset, length in found:
            here = slice(offset, offset + length)  # in numpy: every length would be compiled anew
            scores = np.einsum("shk,thk->hst", query[row, here], key[row, here]) * scale
            seen = np.where(np.tri(length), np.exp(scores - scores.max(-1, keepdims=True)), 0)
            out[row, here] = np.einsum("hst,thk->shk", seen / seen.sum(-1, keepdims=True), value[row, here])
    return jnp.asarray(out)


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=3), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_packed_documents_mean_what_their_segments_mean(cuts, more):
    segments = packed_rows(cuts)
    q, k, v = queries(len(cuts))
    visible = seen_by(segments, documents=max(int(segments.max()), 2) + more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "dot_product_attention", as_documented)
        patch.setattr(fused, "check_compute_capability", lambda capability: True)
        packed = cudnn_attention(q, k, v, visible, None)
    assert not np.isnan(packed).any()  # padding too: what is not computed may be anything, and 0 times it is not 0
    expected = einsum_attention(q, k, v, visible, None)
    np.testing.assert_allclose(packed, expected, atol=F32_TOLERANCE)


def test_documents_are_found_where_they_lie():
    lengths, starts = cudnn.extents(jnp.array([[1, 1, 2, 0, 0], [1, 1, 1, 1, 1], [1, 3, 3, 4, 0]]), 4)
    assert lengths.tolist() == [[2, 1, 2, -1, -1], [5, -1, -1, -1, -1], [1, -1, 2, 1, 1]]
    assert starts.tolist() == [[0, 2, 3, -1, -1], [0, -1, -1, -1, -1], [0, -1, 1, 3, 4]]


@pytest.fixture
def lowered(monkeypatch):
    """Return what gives the calls of cuDNN in a visibility's program, forward and backward, lowered for a GPU."""
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: False)

    def calls(visible: Visibility) -> tuple[list[str], str]:
        q, k, v = queries(visible.q_positions_BS.shape[0], dtype=jnp.bfloat16)

        def total(q, k, v):
            return cudnn_attention(q, k, v, visible, None).astype(jnp.float32).sum()

        traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(q, k, v)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        return re.findall(r"__cudnn\$\w+", text), text

    return calls


ONE = packed_rows([[LENGTH], [9]])
SEVERAL = packed_rows([[5, 7, 12], [4, 4]])
FORMS = {
    "rows without segments": (Visibility(*2 * (jnp.tile(jnp.arange(LENGTH), (2, 1)),)), "CAUSAL", 0, 1),
    "one document a row": (seen_by(ONE, documents=1), "CAUSAL", 0, 1),
    "one document, window": (seen_by(ONE, documents=1, window=6), "CAUSAL", 6, 1),
    "packed": (seen_by(SEVERAL, documents=3), "PADDING_CAUSAL", 0, 4),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_a_visibility_hides_is_not_computed(name, lowered):
    visible, mask, window, stretches = FORMS[name]
    calls, text = lowered(visible)
    assert calls == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]  # no Bias: no mask is added
    for field, value in {"mask_type": mask, "sliding_window_length": window, "max_seg_per_batch": stretches}.items():
        found = re.findall(rf"\\22{field}\\22: (?:\\22(\w+)\\22|(\d+))", text) or re.findall(
            rf'"{field}": (?:"(\w+)"|(\d+))', text
        )
        assert {word or number for word, number in found} == {str(value)}, field


def test_gpus_before_hopper_take_the_mask(lowered, monkeypatch):
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: float(capability) <= 8.0)
    calls, _ = lowered(seen_by(SEVERAL, documents=3))
    assert calls == ["__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"]
    calls, _ = lowered(seen_by(ONE, documents=1))
    assert calls == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]


@pytest.mark.parametrize(
    "visible",
    [
        seen_by(SEVERAL),
        seen_by(SEVERAL, documents=cudnn.MANY_DOCUMENTS + 1),
        seen_by(SEVERAL, documents=3, window=4),
        seen_by(ONE, documents=1, pattern=Pattern("strided", 4)),
    ],
    ids=["unknown number", "too many", "window", "pattern"],
)
def test_what_has_no_form_takes_the_mask(visible, lowered):
    calls, _ = lowered(visible)
    assert calls == ["__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"]
