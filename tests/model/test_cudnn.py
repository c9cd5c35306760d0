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

from jgpt import layout, optim, sharding, state, step
from jgpt.batch import RowLimits
from jgpt.config import Config, MeshConfig, ModelConfig, TrainConfig
from jgpt.model import cudnn, gpt
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


def documented(query, key, value, *, q_seqlen, q_offsets, scale, **_):
    """As `as_documented`, in jax: what is traced and differentiated."""
    positions = jnp.arange(query.shape[1])[None, :]
    begun = (positions[:, :, None] >= q_offsets[:, None, :]) & (q_offsets[:, None, :] >= 0)
    document = begun.sum(-1)
    seen = (document[:, :, None] == document[:, None, :]) & jnp.tri(query.shape[1], dtype=bool)[None]
    return masked(query, key, value, mask=seen[:, None], scale=scale)


def masked(query, key, value, *, mask, scale=None, implementation="cudnn"):
    """Return `jax.nn.dot_product_attention` by XLA, of arrays that vmap has not touched."""
    assert query.ndim == 4 and mask.ndim == 4 and implementation == "cudnn"
    return PLAIN(query, key, value, mask=mask, scale=scale, implementation="xla")


PLAIN = jax.nn.dot_product_attention
DEVICES = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


@DEVICES
@pytest.mark.parametrize("mesh", [dict(data=2), dict(slice=2, data=2, fsdp=2)], ids=lambda mesh: " ".join(mesh))
@pytest.mark.parametrize("documents", [3, None], ids=["packed", "mask"])
def test_copies_of_a_model_attend_as_one(mesh, documents, monkeypatch):
    """Values and gradients within `over_copies` and `each_copy` are those of all rows on one device."""
    monkeypatch.setattr(fused, "dot_product_attention", documented)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", masked)
    segments = np.tile(packed_rows([[5, 7, 12], [4, 4], [24], [9, 1, 3]]), (2, 1))
    visible = seen_by(segments, documents=documents)
    arrays = (*queries(8), visible.q_positions_BS, visible.q_segments_BS)
    slopes = jax.random.normal(jax.random.key(1), arrays[0].shape)

    def attend(q, k, v, positions, segments, attention):
        seen = Visibility(positions, positions, segments, segments, documents=documents)
        return attention(q, k, v, seen, None)

    def scaled(scale, batch, key=None, attention=cudnn_attention):
        *arrays, slopes = batch
        q, *rest = arrays
        return jax.grad(lambda s: (attend(q * s, *(x * s for x in rest[:2]), *rest[2:], attention) * slopes).sum())(
            scale
        )

    on = sharding.make_mesh(MeshConfig(**({"data": 1} | mesh)))
    rows = jax.device_put((*arrays, slopes), sharding.batch_sharding(on))
    out = jax.jit(layout.on_mesh(on, layout.each_copy(lambda _, *a: attend(*a, cudnn_attention))))(0, *rows[:-1])
    np.testing.assert_allclose(out, attend(*arrays, einsum_attention), atol=F32_TOLERANCE)
    got = jax.jit(layout.on_mesh(on, layout.over_copies(scaled)))(jnp.ones(()), rows, jax.random.key(0))
    expected = scaled(jnp.ones(()), (*arrays, slopes), attention=einsum_attention)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@DEVICES
@pytest.mark.parametrize("options", [{}, dict(scan_layers=True, remat="full")], ids=["plain", "scan remat"])
@pytest.mark.parametrize("documents", [1, 4, None])
def test_a_step_of_copies_is_a_program_for_gpus(documents, options, monkeypatch):
    """Of jax's own function: the whole training step is traced with its batching rules, and lowered."""
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: False)
    config = Config(
        model=ModelConfig(num_layers=2, embed_dim=32, num_heads=4, context_length=64, windows=(None, 16), **options),
        train=TrainConfig(batch_size=8),
        mesh=MeshConfig(data=2, fsdp=2),
    )
    model, mesh = gpt.resolve(config.model, vocab_size=64, backend="gpu"), sharding.make_mesh(config.mesh)
    assert model.attention == "cudnn"
    tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(model))
    abstract = state.abstract_state(model, tx, mesh)
    batch = sharding.abstract_batch(8, 64, mesh)
    compiled = step.compile_train_step(config, model, tx, abstract, mesh, RowLimits(documents=documents))
    text = compiled.trace(abstract, batch).lower(lowering_platforms=("cuda",)).as_text()
    assert "CustomSPMDPartitioning" in text  # what jax cuts cuDNN's calls by
