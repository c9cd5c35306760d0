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

QUERY_BLOCK: Final = (
    96  # queries a block, about; between two and four blocks of 132 to 264 tokens no clear winner was seen on CPU
)
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
    """Attend query block by query block, each to the keys up to its own end, with a hand-written backward pass.

    Keys must stand in the order of the queries (S = T, no cache): half of the scores are then never computed. The
    backward pass computes the scores again from the log-normaliser (Dao et al. 2022, algorithm 4) and passes over them
    twice, where automatic differentiation of softmax passes over them many times: on CPU that is half of the time.
    """
    B, S, H, K = q_BSHK.shape
    if S != k_BTGK.shape[1]:
        return einsum_attention(q_BSHK, k_BTGK, v_BTGK, visible, softcap)
    G = k_BTGK.shape[2]
    q_BGRSK = q_BSHK.reshape(B, S, G, H // G, K).transpose(0, 2, 3, 1, 4) * K**-0.5
    k_BGTK, v_BGTK = k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2)
    block = -(-S // max(1, round(S / QUERY_BLOCK)))
    outs = []
    for start in range(0, S, block):
        stop = min(start + block, S)
        q_cut, kv_cut = (slice(None), slice(start, stop)), (slice(None), slice(0, stop))
        seen = Visibility(
            visible.q_positions_BS[q_cut],
            visible.kv_positions_BT[kv_cut],
            None if visible.q_segments_BS is None else visible.q_segments_BS[q_cut],
            None if visible.kv_segments_BT is None else visible.kv_segments_BT[kv_cut],
            visible.window,
        )
        mask_B11ST = seen.mask()[:, None, None, :, :]
        q_cut_BGRSK = q_BGRSK[:, :, :, start:stop]
        outs.append(_core(q_cut_BGRSK, k_BGTK[:, :, :stop], v_BGTK[:, :, :stop], mask_B11ST, softcap))
    return jnp.concatenate(outs, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, S, H, K)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _core(q_BGRSK: Array, k_BGTK: Array, v_BGTK: Array, mask_B11ST: Array, softcap: float | None) -> Array:
    return _core_forward(q_BGRSK, k_BGTK, v_BGTK, mask_B11ST, softcap)[0]


def _scores(q_BGRSK: Array, k_BGTK: Array, softcap: float | None) -> Array:
    scores_BGRST = jnp.einsum("bgrsk,bgtk->bgrst", q_BGRSK, k_BGTK, preferred_element_type=jnp.float32)
    return scores_BGRST if softcap is None else softcap * jnp.tanh(scores_BGRST / softcap)


def _core_forward(
    q_BGRSK: Array, k_BGTK: Array, v_BGTK: Array, mask_B11ST: Array, softcap: float | None
) -> tuple[Array, tuple]:
    scores_BGRST = jnp.where(mask_B11ST, _scores(q_BGRSK, k_BGTK, softcap), MASKED)
    max_BGRS1 = scores_BGRST.max(-1, keepdims=True)
    exp_BGRST = jnp.exp(scores_BGRST - max_BGRS1)
    sum_BGRS1 = exp_BGRST.sum(-1, keepdims=True)
    weighted_BGRSK = jnp.einsum(
        "bgrst,bgtk->bgrsk", exp_BGRST.astype(v_BGTK.dtype), v_BGTK, preferred_element_type=jnp.float32
    )
    out_BGRSK = (weighted_BGRSK / sum_BGRS1).astype(q_BGRSK.dtype)
    return out_BGRSK, (q_BGRSK, k_BGTK, v_BGTK, mask_B11ST, out_BGRSK, max_BGRS1 + jnp.log(sum_BGRS1))


def _core_backward(softcap: float | None, saved: tuple, dout_BGRSK: Array) -> tuple[Array, Array, Array, None]:
    q_BGRSK, k_BGTK, v_BGTK, mask_B11ST, out_BGRSK, log_z_BGRS1 = saved
    dtype = q_BGRSK.dtype
    scores_BGRST = _scores(q_BGRSK, k_BGTK, softcap)
    weights_BGRST = jnp.where(mask_B11ST, jnp.exp(scores_BGRST - log_z_BGRS1), 0.0)
    dv_BGTK = jnp.einsum("bgrst,bgrsk->bgtk", weights_BGRST.astype(dtype), dout_BGRSK)
    dweights_BGRST = jnp.einsum("bgrsk,bgtk->bgrst", dout_BGRSK, v_BGTK, preferred_element_type=jnp.float32)
    delta_BGRS1 = jnp.sum((dout_BGRSK * out_BGRSK).astype(jnp.float32), axis=-1, keepdims=True)
    dscores_BGRST = weights_BGRST * (dweights_BGRST - delta_BGRS1)
    if softcap is not None:
        dscores_BGRST = dscores_BGRST * (1 - jnp.square(scores_BGRST / softcap))
    dscores_BGRST = dscores_BGRST.astype(dtype)
    dq_BGRSK = jnp.einsum("bgrst,bgtk->bgrsk", dscores_BGRST, k_BGTK)
    dk_BGTK = jnp.einsum("bgrst,bgrsk->bgtk", dscores_BGRST, q_BGRSK)
    return dq_BGRSK, dk_BGTK, dv_BGTK, None


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


def choose_attention(name: str, *, backend: str, softcap: float | None, dtype: str) -> str:
    """Return the registered name that `auto` stands for on this device; other names are returned as they are.

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
    return "cudnn" if backend == "gpu" and dtype == "bfloat16" else "xla"
