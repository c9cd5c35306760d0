"""cuDNN's fused attention on GPUs: scores never stand in memory, and what causality or documents hide is not computed.

Owns which of cuDNN's forms a visibility is: causal, causal in a window, documents packed in a row, or a mask that is added
to the scores, which computes everything. Refuses the choice between cuDNN and others (`attention`).
"""

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgpt.batch import PADDING_SEGMENT
from jgpt.layout import across_copies, copies, place
from jgpt.model.visibility import Visibility

# that a row may hold; beyond, the mask: softmax statistics are kept for every document that there could be. Not tuned.
MANY_DOCUMENTS: Final = 16


def attend(
    q_BSHK: Float[Array, "B S H K"],
    k_BSGK: Float[Array, "B S G K"],
    v_BSGK: Float[Array, "B S G K"],
    visible: Visibility,
) -> Float[Array, "B S H K"]:
    """Return the attention of tokens to each other; needs a GPU and bfloat16.

    Rows whose segments are given and hold at most `visible.documents` documents, padding last, are attended to document by
    document. Positions rise by one within a document, so that order in the row is order in the document.
    """
    documents = visible.documents
    if visible.pattern is None and (visible.q_segments_BS is None or documents == 1):  # padding is last, nobody sees it
        return _causal(q_BSHK, k_BSGK, v_BSGK, visible.window)
    plain = visible.pattern is None and visible.window is None
    if plain and documents is not None and documents <= MANY_DOCUMENTS and _can_pack():
        places = extents(visible.q_segments_BS, documents)
        return _of_all_copies(_packed)(q_BSHK, k_BSGK, v_BSGK, *(place(x, "batch", None) for x in places))
    return _of_all_copies(_masked)(q_BSHK, k_BSGK, v_BSGK, visible.mask())


def _of_all_copies(attention: Callable[..., Array]) -> Callable[..., Array]:
    """Return `attention` (queries, keys, values, *whom they see), called once where the model is copied.

    jax's batching rules for cuDNN take neither documents nor masks of one head (0.10 to 0.12). The backward pass then runs the
    forward kernel again, since the functions of jax that are called here do not return its statistics.
    """
    if copies() == 1:
        return attention

    def slopes(slope_BSHK: Array, *arrays: Array) -> tuple[Array, ...]:
        return jax.vjp(lambda *qkv: attention(*qkv, *arrays[3:]), *arrays[:3])[1](slope_BSHK)

    forward, backward = across_copies(attention), across_copies(slopes)
    attend = jax.custom_vjp(lambda *arrays: forward(*arrays))
    attend.defvjp(
        lambda *arrays: (forward(*arrays), arrays),
        lambda saved, slope_BSHK: (*backward(slope_BSHK, *saved), *[None] * (len(saved) - 3)),
    )
    return attend


def _masked(q_BSHK: Array, k_BSGK: Array, v_BSGK: Array, mask_BST: Array) -> Array:
    """Return attention to what a mask shows; everything is computed."""
    return jax.nn.dot_product_attention(  # pyright: ignore[reportCallIssue]
        q_BSHK, k_BSGK, v_BSGK, mask=mask_BST[:, None, :, :], implementation="cudnn"
    )


def _causal(q_BSHK: Array, k_BSGK: Array, v_BSGK: Array, window: int | None) -> Array:
    """Return causal attention, in a window of so many keys where there is one."""
    return jax.nn.dot_product_attention(  # pyright: ignore[reportCallIssue]
        q_BSHK,
        k_BSGK,
        v_BSGK,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )


def _can_pack() -> bool:
    """Return whether cuDNN tells documents apart on this process's GPU: from Hopper on; no where a plan is for another."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    return fused.check_compute_capability("9.0")


def _packed(q_BSHK: Array, k_BSGK: Array, v_BSGK: Array, lengths_BM: Array, starts_BM: Array) -> Array:
    """Return causal attention within each document of a row, which `extents` found.

    jax's public function does not pass documents on; the one beneath it does (jax 0.10 to 0.12).
    """
    from jax._src.cudnn import fused_attention_stablehlo as fused

    # jax before 0.11 finds the keys of grouped heads at the queries' distances; so every query head gets its own
    k_BSHK, v_BSHK = (jnp.repeat(x, q_BSHK.shape[2] // x.shape[2], axis=2) for x in (k_BSGK, v_BSGK))
    offsets = jnp.pad(starts_BM, ((0, 0), (0, 1)), constant_values=-1)
    return fused.dot_product_attention(
        q_BSHK,
        k_BSHK,
        v_BSHK,
        q_seqlen=lengths_BM,
        kv_seqlen=lengths_BM,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=q_BSHK.shape[-1] ** -0.5,
        mask_type=fused.MaskType.PADDING_CAUSAL,
    )


def extents(segments_BS: Int[Array, "B S"], documents: int) -> tuple[Int[Array, "B M"], Int[Array, "B M"]]:
    """Return (length, start) of every document in its row, in order; -1 where a row has fewer.

    Padding at the end of a row counts as one more document, so that every position is computed.

    Worked example, segments 1 1 2 0 0 and up to 3 documents: lengths 2 1 2 -1, starts 0 2 3 -1.
    """
    last_B1 = jnp.max(segments_BS, axis=1, keepdims=True)
    number_BS = jnp.where(segments_BS == PADDING_SEGMENT, last_B1 + 1, segments_BS)
    lengths_BM = jnp.sum(number_BS[:, :, None] == jnp.arange(1, documents + 2)[None, None, :], axis=1, dtype=jnp.int32)
    starts_BM = jnp.cumsum(lengths_BM, axis=1, dtype=jnp.int32) - lengths_BM
    there_BM = lengths_BM > 0
    return jnp.where(there_BM, lengths_BM, -1), jnp.where(there_BM, starts_BM, -1)
