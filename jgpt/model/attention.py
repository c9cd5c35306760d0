"""Attention: who may see whom, and the registered ways to compute it.

Owns the visibility rule and `ATTENTION`; refuses projections and rotary turns, which belong to the block. All functions
compute the same values; they differ in what stands in memory and in the device they suit.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

QUERY_BLOCK: Final = 64  # queries a block, about: the fastest of 25 to 100 for 134 to 256 tokens on two CPU cores
MAX_BLOCKS: Final = 16  # each block is compiled on its own
MASKED: Final = -1e30  # finite, so that a row without any visible key stays finite as well


class Visibility(NamedTuple):
    """What decides which keys a query sees: a key is seen if it is not later, in the same segment, and in the window.

    Worked example, one row packed with documents of 2 and 3 tokens: positions 0 1 0 1 2, segments 1 1 2 2 2; the query
    at index 3 sees index 2 and 3 alone. With window 2 the query at index 4 sees index 3 and 4.

    Attributes:
        q_positions_BS: position of each query in its document.
        kv_positions_BT: position of each key.
        q_segments_BS: document of each query; None where every row is one document.
        kv_segments_BT: document of each key; None as above.
        window: keys seen at most, the query's own included [tokens]; None for all.
    """

    q_positions_BS: Int[Array, "B S"]
    kv_positions_BT: Int[Array, "B T"]
    q_segments_BS: Int[Array, "B S"] | None = None
    kv_segments_BT: Int[Array, "B T"] | None = None
    window: int | None = None

    def mask(self) -> Bool[Array, "B S T"]:
        """Return true where the query at S sees the key at T."""
        distance_BST = self.q_positions_BS[:, :, None] - self.kv_positions_BT[:, None, :]
        mask_BST = distance_BST >= 0
        if self.window is not None:
            mask_BST &= distance_BST < self.window
        if self.q_segments_BS is not None and self.kv_segments_BT is not None:
            mask_BST &= self.q_segments_BS[:, :, None] == self.kv_segments_BT[:, None, :]
        return mask_BST


def einsum_attention(
    q_BSHK: Float[Array, "B S H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    visible: Visibility,
    softcap: float | None,
) -> Float[Array, "B S H K"]:
    """Attend with all scores in memory at once; softmax in f32. Works for every shape and option.

    Scaled dot products, Vaswani et al. 2017, equation 1; grouped queries, Ainslie et al. 2023; soft-cap
    c tanh(score / c), Gemma 2 report, section 2.
    """
    B, S, H, K = q_BSHK.shape
    G = k_BTGK.shape[2]
    q_BSGRK = q_BSHK.reshape(B, S, G, H // G, K)  # R: query heads that share one key-value head
    scores_BGRST = jnp.einsum("bsgrk,btgk->bgrst", q_BSGRK, k_BTGK, preferred_element_type=jnp.float32) * K**-0.5
    if softcap is not None:
        scores_BGRST = softcap * jnp.tanh(scores_BGRST / softcap)
    scores_BGRST = jnp.where(visible.mask()[:, None, None, :, :], scores_BGRST, MASKED)
    weights_BGRST = jax.nn.softmax(scores_BGRST, axis=-1).astype(v_BTGK.dtype)
    return jnp.einsum("bgrst,btgk->bsgrk", weights_BGRST, v_BTGK).reshape(B, S, H, K)


def blocked_attention(
    q_BSHK: Float[Array, "B S H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    visible: Visibility,
    softcap: float | None,
) -> Float[Array, "B S H K"]:
    """Attend query block by query block, each to the keys it can reach, with a hand-written backward pass.

    Keys must stand in the order of the queries, and documents in one piece (S = T, no cache): what lies after a block or
    before its window is then never computed. Scores are held keys first, [T S], so that all products but two small ones
    read their operands as they lie in memory. The backward pass computes the scores again from the log-normaliser
    (Dao et al. 2022, algorithm 4) and passes over them twice, where automatic differentiation passes over them many times.
    """
    B, S, H, K = q_BSHK.shape
    if S != k_BTGK.shape[1]:
        return einsum_attention(q_BSHK, k_BTGK, v_BTGK, visible, softcap)
    G, R = k_BTGK.shape[2], H // k_BTGK.shape[2]
    q_BSGRK = q_BSHK.reshape(B, S, G, R, K) * K**-0.5
    k_BGTK, v_BGKT = k_BTGK.swapaxes(1, 2), v_BTGK.transpose(0, 2, 3, 1)
    outs = []
    for first, start, stop in block_bounds(S, visible.window):
        q_cut, kv_cut = (slice(None), slice(start, stop)), (slice(None), slice(first, stop))
        seen = Visibility(
            visible.q_positions_BS[q_cut],
            visible.kv_positions_BT[kv_cut],
            None if visible.q_segments_BS is None else visible.q_segments_BS[q_cut],
            None if visible.kv_segments_BT is None else visible.kv_segments_BT[kv_cut],
            visible.window,
        )
        q_BGKQ = (
            q_BSGRK[:, start:stop].transpose(0, 2, 4, 3, 1).reshape(B, G, K, -1)
        )  # Q: (R, block), all heads of a group
        mask_B1TQ = jnp.tile(seen.mask().swapaxes(1, 2), (1, 1, R))[:, None]
        out_BGKQ = _core(q_BGKQ, k_BGTK[:, :, first:stop], v_BGKT[..., first:stop], mask_B1TQ, softcap)
        outs.append(out_BGKQ.reshape(B, G, K, R, stop - start))
    return jnp.concatenate(outs, axis=-1).transpose(0, 4, 1, 3, 2).reshape(B, S, H, K)


def block_bounds(length: int, window: int | None) -> list[tuple[int, int, int]]:
    """Return (first key, first query, query after the last) of each block; its keys end where its queries end.

    Worked example, 6 tokens in blocks of 3 with a window of 2: (0, 0, 3), (2, 3, 6).
    """
    size = QUERY_BLOCK if window is None else min(QUERY_BLOCK, max(window, QUERY_BLOCK // 2))
    size = -(-length // min(max(1, round(length / size)), MAX_BLOCKS))
    starts = range(0, length, size)
    return [(0 if window is None else max(0, a - window + 1), a, min(a + size, length)) for a in starts]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _core(q_BGKQ: Array, k_BGTK: Array, v_BGKT: Array, mask_B1TQ: Array, softcap: float | None) -> Array:
    return _core_forward(q_BGKQ, k_BGTK, v_BGKT, mask_B1TQ, softcap)[0]


def _scores(q_BGKQ: Array, k_BGTK: Array, softcap: float | None) -> Array:
    scores_BGTQ = jnp.einsum("bgtk,bgkq->bgtq", k_BGTK, q_BGKQ, preferred_element_type=jnp.float32)
    return scores_BGTQ if softcap is None else softcap * jnp.tanh(scores_BGTQ / softcap)


def _core_forward(
    q_BGKQ: Array, k_BGTK: Array, v_BGKT: Array, mask_B1TQ: Array, softcap: float | None
) -> tuple[Array, tuple]:
    scores_BGTQ = jnp.where(mask_B1TQ, _scores(q_BGKQ, k_BGTK, softcap), MASKED)
    max_BG1Q = scores_BGTQ.max(-2, keepdims=True)
    exp_BGTQ = jnp.exp(scores_BGTQ - max_BG1Q)
    sum_BG1Q = exp_BGTQ.sum(-2, keepdims=True)
    weighted_BGKQ = jnp.einsum(
        "bgkt,bgtq->bgkq", v_BGKT, exp_BGTQ.astype(v_BGKT.dtype), preferred_element_type=jnp.float32
    )
    out_BGKQ = (weighted_BGKQ / sum_BG1Q).astype(q_BGKQ.dtype)
    return out_BGKQ, (q_BGKQ, k_BGTK, v_BGKT, mask_B1TQ, out_BGKQ, max_BG1Q + jnp.log(sum_BG1Q))


def _core_backward(softcap: float | None, saved: tuple, dout_BGKQ: Array) -> tuple[Array, Array, Array, None]:
    q_BGKQ, k_BGTK, v_BGKT, mask_B1TQ, out_BGKQ, log_z_BG1Q = saved
    dtype = q_BGKQ.dtype
    # transposed copies of the small operands: XLA:CPU multiplies transposed ones in place, but outside its fast kernels
    v_BGTK, k_BGKT = jax.lax.optimization_barrier((v_BGKT.swapaxes(2, 3), k_BGTK.swapaxes(2, 3)))
    scores_BGTQ = _scores(q_BGKQ, k_BGTK, softcap)
    weights_BGTQ = jnp.where(mask_B1TQ, jnp.exp(scores_BGTQ - log_z_BG1Q), 0.0)
    dv_BGTK = jnp.einsum("bgtq,bgkq->bgtk", weights_BGTQ.astype(dtype), dout_BGKQ)
    dweights_BGTQ = jnp.einsum("bgtk,bgkq->bgtq", v_BGTK, dout_BGKQ, preferred_element_type=jnp.float32)
    delta_BG1Q = jnp.sum((dout_BGKQ * out_BGKQ).astype(jnp.float32), axis=-2, keepdims=True)
    dscores_BGTQ = weights_BGTQ * (dweights_BGTQ - delta_BG1Q)
    if softcap is not None:
        dscores_BGTQ = dscores_BGTQ * (1 - jnp.square(scores_BGTQ / softcap))
    dscores_BGTQ = dscores_BGTQ.astype(dtype)
    dq_BGKQ = jnp.einsum("bgkt,bgtq->bgkq", k_BGKT, dscores_BGTQ)
    dk_BGTK = jnp.einsum("bgtq,bgkq->bgtk", dscores_BGTQ, q_BGKQ)
    return dq_BGKQ, dk_BGTK, dv_BGTK.swapaxes(2, 3), None


_core.defvjp(_core_forward, _core_backward)


def _library_attention(implementation: str) -> Callable[..., Float[Array, "B S H K"]]:
    def attend(
        q_BSHK: Float[Array, "B S H K"],
        k_BTGK: Float[Array, "B T G K"],
        v_BTGK: Float[Array, "B T G K"],
        visible: Visibility,
        softcap: float | None,
    ) -> Float[Array, "B S H K"]:
        """Attend through `jax.nn.dot_product_attention`, which has no soft-cap."""
        if softcap is not None:
            return einsum_attention(q_BSHK, k_BTGK, v_BTGK, visible, softcap)
        mask_B1ST = visible.mask()[:, None, :, :]
        return jax.nn.dot_product_attention(  # pyright: ignore[reportCallIssue]
            q_BSHK, k_BTGK, v_BTGK, mask=mask_B1ST, implementation=implementation
        )

    return attend


ATTENTION: Final = {
    "einsum": einsum_attention,
    "blocked": blocked_attention,
    "xla": _library_attention("xla"),
    "cudnn": _library_attention("cudnn"),
}


def choose_attention(name: str, *, backend: str, softcap: float | None, dtype: str, length: int, width: int) -> str:
    """Return the registered name that `auto` stands for on this device; other names are returned as they are.

    cuDNN is chosen where jax passes a mask to it in training: an even `length` of the context, and a `width` of the heads
    that is a multiple of 8 up to 128 (jax 0.10, fused_attention_stablehlo.py).

    Raises:
        ValueError: cuDNN is asked for where there is no GPU, or in f32, which it does not compute.
    """
    if name == "cudnn" and (backend != "gpu" or dtype != "bfloat16"):
        raise ValueError(
            f"model.attention 'cudnn' needs a GPU and bfloat16, this run has {backend!r} and {dtype}: use auto."
        )
    if name != "auto":
        return name
    if backend == "cpu":
        return "blocked"
    if softcap is not None:
        return "einsum"
    fits = length % 2 == 0 and width % 8 == 0 and width <= 128
    return "cudnn" if backend == "gpu" and dtype == "bfloat16" and fits else "xla"
