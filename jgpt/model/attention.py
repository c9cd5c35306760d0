"""Attention: the registered ways to compute it.

Owns `ATTENTION`, and how a cache is attended to; refuses the rule of who sees whom (`visibility`), and projections and
rotary turns, which belong to the block. All functions compute the same values; they differ in what stands in memory and in
the device they suit.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jgpt.check import require
from jgpt.model import blocked, cudnn
from jgpt.model.visibility import MASKED, Visibility


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
    weights_BGRST = _weights(scores_BGRST, visible.mask()[:, None, None, :, :], softcap).astype(v_BTGK.dtype)
    return jnp.einsum("bgrst,btgk->bsgrk", weights_BGRST, v_BTGK).reshape(B, S, H, K)


def _weights(scores: Float[Array, "*A T"], seen: Bool[Array, "*C T"], softcap: float | None) -> Float[Array, "*A T"]:
    """Return what each key counts for: the softmax of the soft-capped scores of those that are seen."""
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    return jax.nn.softmax(jnp.where(seen, scores, MASKED), axis=-1)


def cached_attention(
    q_BSHK: Float[Array, "B S H K"],
    k_BGTK: Float[Array, "B G T K"],
    v_BGTK: Float[Array, "B G T K"],
    visible: Visibility,
    softcap: float | None,
) -> Float[Array, "B S H K"]:
    """Attend to keys and values as a cache keeps them (`cache`), with all scores in memory at once; softmax in f32."""
    B, S, H, K = q_BSHK.shape
    G = k_BGTK.shape[1]
    q_BGSRK = jnp.swapaxes(q_BSHK.reshape(B, S, G, H // G, K), 1, 2)
    scores_BGTSR = jnp.einsum("bgtk,bgsrk->bgtsr", k_BGTK, q_BGSRK, preferred_element_type=jnp.float32)
    # without the barrier XLA:CPU would swap the factors, and transpose the keys first
    scores_BGTSR = jax.lax.platform_dependent(scores_BGTSR, cpu=jax.lax.optimization_barrier, default=lambda x: x)
    scores_BGSRT = jnp.moveaxis(scores_BGTSR, 2, -1) * K**-0.5
    weights_BGSRT = _weights(scores_BGSRT, visible.mask()[:, None, :, None, :], softcap).astype(v_BGTK.dtype)
    out_BGSRK = jnp.einsum("bgsrt,bgtk->bgsrk", weights_BGSRT, v_BGTK)
    return jnp.swapaxes(out_BGSRK, 1, 2).reshape(B, S, H, K)


def blocked_attention(
    q_BSHK: Float[Array, "B S H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    visible: Visibility,
    softcap: float | None,
) -> Float[Array, "B S H K"]:
    """Attend query block by query block (see `blocked`)."""
    return blocked.attend(q_BSHK, k_BTGK, v_BTGK, visible, softcap)


def xla_attention(
    q_BSHK: Float[Array, "B S H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    visible: Visibility,
    softcap: float | None,
) -> Float[Array, "B S H K"]:
    """Attend through `jax.nn.dot_product_attention`. Raises ValueError for a soft-cap, which that has not."""
    _require_no_cap("xla", softcap)
    return jax.nn.dot_product_attention(  # pyright: ignore[reportCallIssue]
        q_BSHK, k_BTGK, v_BTGK, mask=visible.mask()[:, None, :, :], implementation="xla"
    )


def cudnn_attention(
    q_BSHK: Float[Array, "B S H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    visible: Visibility,
    softcap: float | None,
) -> Float[Array, "B S H K"]:
    """Attend by cuDNN's fused kernel on a GPU (see `cudnn`). Raises ValueError for a soft-cap, which that has not."""
    _require_no_cap("cudnn", softcap)
    return cudnn.attend(q_BSHK, k_BTGK, v_BTGK, visible)


def _require_no_cap(name: str, softcap: float | None) -> None:
    require(softcap is None, f"softcap is {softcap}: attention {name!r} has none; use 'einsum' or 'blocked'.")


ATTENTION: Final = {
    "einsum": einsum_attention,
    "blocked": blocked_attention,
    "xla": xla_attention,
    "cudnn": cudnn_attention,
}


def choose_attention(name: str, *, backend: str, softcap: float | None, dtype: str, length: int, width: int) -> str:
    """Return the registered name that `auto` stands for on this device; other names are returned as they are.

    cuDNN is chosen where jax passes a mask to it in training: an even `length` of the context, and a `width` of the heads
    that is a multiple of 8 up to 128 (jax 0.10, fused_attention_stablehlo.py).

    Raises:
        ValueError: cuDNN is asked for where there is no GPU, in f32, or for heads of a width that it does not compute.
    """
    if name == "cudnn" and (backend != "gpu" or dtype != "bfloat16"):
        raise ValueError(
            f"model.attention 'cudnn' needs a GPU and bfloat16, this run has {backend!r} and {dtype}: use auto."
        )
    if name == "cudnn" and (width % 8 or width > 256):
        raise ValueError(
            f"model.attention 'cudnn' needs heads of a multiple of 8 channels, up to 256 on Hopper and newer and 128 before, "
            f"this run has {width}: use auto."
        )
    if name != "auto":
        return name
    if backend == "cpu":
        return "blocked"
    if softcap is not None:
        return "einsum"
    fits = length % 2 == 0 and width % 8 == 0 and width <= 128
    return "cudnn" if backend == "gpu" and dtype == "bfloat16" and fits else "xla"
