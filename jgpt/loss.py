"""Weighted token cross-entropy as sums, so that micro-batches, devices and whole splits add up exactly.

Owns the loss, its gradient and how much of the logits stands in memory; refuses means, which depend on what is summed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgpt.layout import flatten, parts, unflatten

# Logits that stand in memory at once by default: 64 MiB in f32 on a CPU, 4 GiB on GPUs, 1 GiB elsewhere; on accelerators
# each piece reads and writes the whole gradient of the output matrix once more.
LOGITS_AT_ONCE: Final = {"cpu": 2**24, "gpu": 2**30, "tpu": 2**28}
LOWEST_LOGIT: Final = -1e30  # below every logit; finite, since inf - inf is not
TARGETS_STEP: Final = 32  # of the targets of a row that are kept: so many that pieces are of equal size
VOCAB_SLICES: Final = 32  # at most; their gradients then stay in a processor's cache

ToLogits = Callable[[Float[Array, "N D"], Float[Array, "D V"]], Float[Array, "N V"]]


class LossSums(NamedTuple):
    """Sums over tokens; divide by `weight` for means. They carry no gradient: the objective beside them does.

    Attributes:
        nats: weighted negative log-likelihood [nats].
        squared_log_z: weighted squares of the log-normaliser, for the z-loss.
        weight: sum of the weights.
    """

    nats: Float[Array, ""]
    squared_log_z: Float[Array, ""]
    weight: Float[Array, ""]


def logits_at_once(platform: str, devices: int = 1) -> int:
    """Return how many logits may stand in the memory of `devices` of a platform, over which they are spread."""
    return LOGITS_AT_ONCE.get(platform, LOGITS_AT_ONCE["tpu"]) * devices


def chunks_for(
    batch: int, seq: int, vocab: int, chunk_tokens: int | None, at_once: int | None = None, cut: int = 1
) -> int:
    """Return into how many equal pieces of the sequence axis the logits are cut: the fewest that fit.

    Args:
        batch: rows.
        seq: positions of each part of a row.
        vocab: padded vocabulary.
        chunk_tokens: tokens whose logits may stand in memory at once; None = as `at_once` says.
        at_once: logits that may; None = `logits_at_once` of one device of this process.
        cut: parts of a row.
    """
    at_once = logits_at_once(jax.default_backend()) if at_once is None else at_once
    budget = chunk_tokens if chunk_tokens is not None else max(at_once // vocab, 1)
    return next((c for c in range(1, seq + 1) if seq % c == 0 and batch * cut * seq // c <= budget), seq)


@dataclass(frozen=True)
class LossPlan:
    """What the loss is, and how it is computed.

    Attributes:
        chunk_tokens: see `chunks_for`.
        z_loss: weight of the squared log-normaliser (PaLM, Chowdhery et al. 2022, section 5).
        split_vocab: compute gradients of large logits a stretch of ids at a time, where one device holds all ids: the
            gradient of the output matrix is then added up in place.
        at_once: see `chunks_for`.
        online: find the log-normaliser in one pass over the logits instead of two, for devices that wait for memory.
        logits_dtype: in which logits wait between the passes over them; all that is computed from them is f32.
    """

    chunk_tokens: int | None = None
    z_loss: float = 0.0
    split_vocab: bool = False
    at_once: int | None = None
    online: bool = False
    logits_dtype: str = "float32"


def cross_entropy(
    to_logits: ToLogits,
    x_BSD: Float[Array, "B S D"],
    output_DV: Float[Array, "D V"],
    targets_BS: Int[Array, "B S"],
    weights_BS: Float[Array, "B S"],
    plan: LossPlan = LossPlan(),
) -> tuple[Float[Array, ""], LossSums]:
    """Return (sum of -log softmax(logits)[target] + z_loss log_z^2, weighted; the sums behind it), logits made in pieces.

    The gradient with respect to features and output matrix is computed in the forward pass, while a piece's logits are there
    (Hsu et al. 2024, Liger Kernel, section 3.2): logits are never kept and never computed twice. Pieces run along the
    sequence axis, so that a batch sharded over devices stays where it is.

    Args:
        to_logits: maps features and the output matrix to logits of `plan.logits_dtype`, each id's from its own column.
        x_BSD: features after the final norm.
        output_DV: output matrix.
        targets_BS: id to predict at each position.
        weights_BS: weight of each target; a constant, no gradient flows to it.
        plan: what the loss is, and how it is computed.
    """
    summed: Any = _sums(to_logits, plan, x_BSD, output_DV, targets_BS, weights_BS)  # custom_vjp hides the type
    objective, sums = summed
    return objective, jax.tree.map(jax.lax.stop_gradient, sums)


def kept_targets(seq: int, most: int | None) -> int:
    """Return of how many targets of a row logits are computed, at most `most` of which carry weight; None = not known."""
    return seq if most is None else min(seq, -(-max(most, 1) // TARGETS_STEP) * TARGETS_STEP)


def weighed(
    x_BSD: Float[Array, "B S D"],
    targets_BS: Int[Array, "B S"],
    weights_BS: Float[Array, "B S"],
    most: int | None,
) -> tuple[Float[Array, "B T D"], Int[Array, "B T"], Float[Array, "B T"]]:
    """Return features, targets and weights of each row's targets that carry weight and, up to T of `kept_targets`, of others.

    What is left out has no weight, so that the sums of `cross_entropy` stay, and most logits of prompts are never computed.

    Args:
        x_BSD: features after the final norm.
        targets_BS: id to predict at each position.
        weights_BS: weight of each target.
        most: of a row's targets that carry weight; None = not known, and all are returned.
    """
    S = targets_BS.shape[1]
    T = kept_targets(S, most)
    if T == S:
        return x_BSD, targets_BS, weights_BS
    first_BT = jnp.argsort(weights_BS == 0, axis=1, stable=True)[:, :T]
    x_BTD = jnp.take_along_axis(x_BSD, first_BT[..., None], axis=1)
    return x_BTD, *(jnp.take_along_axis(a, first_BT, axis=1) for a in (targets_BS, weights_BS))


def _slices_for(vocab: int, pieces: int, plan: LossPlan) -> int:
    """Return into how many equal stretches the ids are cut."""
    if pieces == 1 or not plan.split_vocab:
        return 1
    return next(n for n in range(VOCAB_SLICES, 0, -1) if vocab % n == 0)


class _Piece(NamedTuple):
    """A stretch of every row: features and targets."""

    x_BsD: Float[Array, "B s D"]
    targets_Bs: Int[Array, "B s"]
    weights_Bs: Float[Array, "B s"]


def _cut(plan: LossPlan, x_BSD: Array, output_DV: Array, targets_BS: Array, weights_BS: Array) -> _Piece:
    """Return the pieces along a new first axis; where rows are cut over devices, each has a stretch of every part."""
    B, S = targets_BS.shape
    cut = parts("seq")
    C = chunks_for(B, S // cut, output_DV.shape[1], plan.chunk_tokens, plan.at_once, cut)

    def pieces(a: Array) -> Array:
        a = a.reshape(B, cut, C, S // C // cut, *a.shape[2:])
        return jnp.moveaxis(a, 2, 0).reshape(C, B, S // C, *a.shape[4:])

    return _Piece(*(pieces(a) for a in (x_BSD, targets_BS, weights_BS)))


def _uncut(x_CBsD: Array) -> Array:
    """Return features of the pieces of `_cut` as they were."""
    C, B, s, D = x_CBsD.shape
    cut = parts("seq")
    return jnp.moveaxis(x_CBsD.reshape(C, B, cut, s // cut, D), 0, 2).reshape(B, C * s, D)


def online_logsumexp(logits_NV: Float[Array, "N V"]) -> Float[Array, " N"]:
    """Return the log-normalisers in one pass: (maximum, sum of exponentials below it), merged pair by pair.

    Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", section 3.
    """

    def merge(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        top = jnp.maximum(one[0], other[0])
        return top, one[1] * jnp.exp(one[0] - top) + other[1] * jnp.exp(other[0] - top)

    start = (jnp.float32(LOWEST_LOGIT), jnp.float32(0))
    top_N, total_N = jax.lax.reduce((logits_NV, jnp.ones_like(logits_NV)), start, merge, (1,))
    return top_N + jnp.log(total_N)


def _of_logits(logits_NV: Array, piece: _Piece, plan: LossPlan) -> tuple[tuple[Array, LossSums], Array]:
    """Return a piece's objective and sums, and its log-normalisers."""
    weights_N, logits_NV = flatten(piece.weights_Bs), logits_NV.astype(jnp.float32)
    log_z_N = online_logsumexp(logits_NV) if plan.online else jax.nn.logsumexp(logits_NV, axis=-1)
    target_N = jnp.take_along_axis(logits_NV, flatten(piece.targets_Bs)[:, None], axis=-1)[:, 0]
    nats, squared = jnp.sum(weights_N * (log_z_N - target_N)), jnp.sum(weights_N * jnp.square(log_z_N))
    return (nats + plan.z_loss * squared, LossSums(nats, squared, jnp.sum(weights_N))), log_z_N


def _slope(logits_NV: Array, log_z_N: Array, piece: _Piece, z_loss: float, first: int | Array = 0) -> Array:
    """Return the gradient of the objective with respect to logits, those of the ids from `first` on, in their type."""
    targets_N, weights_N = flatten(piece.targets_Bs), flatten(piece.weights_Bs)
    ids_1V = first + jnp.arange(logits_NV.shape[1])[None, :]
    pull_N = weights_N * (1 + 2 * z_loss * log_z_N)  # along log_z
    softmax_NV = jnp.exp(logits_NV.astype(jnp.float32) - log_z_N[:, None])
    slope_NV = softmax_NV * pull_N[:, None] - jnp.where(ids_1V == targets_N[:, None], weights_N[:, None], 0.0)
    return slope_NV.astype(logits_NV.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(
    to_logits: ToLogits, plan: LossPlan, x_BSD: Array, output_DV: Array, targets_BS: Array, weights_BS: Array
) -> tuple[Array, LossSums]:
    pieces = _cut(plan, x_BSD, output_DV, targets_BS, weights_BS)

    def body(sums: tuple, piece: _Piece) -> tuple[tuple, None]:
        logits_NV = to_logits(flatten(piece.x_BsD), output_DV)
        return jax.tree.map(jnp.add, sums, _of_logits(logits_NV, piece, plan)[0]), None

    return _scan(body, _no_sums(), pieces)[0]


def _forward(
    to_logits: ToLogits, plan: LossPlan, x_BSD: Array, output_DV: Array, targets_BS: Array, weights_BS: Array
) -> tuple[tuple[Array, LossSums], tuple[Array, Array]]:
    pieces = _cut(plan, x_BSD, output_DV, targets_BS, weights_BS)
    n = _slices_for(output_DV.shape[1], len(pieces.x_BsD), plan)
    width = output_DV.shape[1] // n

    def body(carry: tuple, piece: _Piece) -> tuple[tuple, Array]:
        sums, doutput_DV = carry
        x_ND = flatten(piece.x_BsD)
        if n == 1:
            logits_NV, pull = jax.vjp(to_logits, x_ND, output_DV)
            new, log_z_N = _of_logits(logits_NV, piece, plan)
            dx_ND, dpiece_DV = pull(_slope(logits_NV, log_z_N, piece, plan.z_loss))
            doutput_DV = doutput_DV + dpiece_DV
        else:
            logits_NV = to_logits(x_ND, output_DV)
            new, log_z_N = _of_logits(logits_NV, piece, plan)

            def stretch(i: Array, sofar: tuple[Array, Array]) -> tuple[Array, Array]:
                dx_ND, doutput_DV = sofar
                some_DV, logits_Nv, old_DV = (
                    jax.lax.dynamic_slice_in_dim(a, i * width, width, 1) for a in (output_DV, logits_NV, doutput_DV)
                )
                pull = jax.vjp(to_logits, x_ND, some_DV)[1]
                dpart_ND, dpart_DV = pull(_slope(logits_Nv, log_z_N, piece, plan.z_loss, i * width))
                doutput_DV = jax.lax.dynamic_update_slice_in_dim(doutput_DV, old_DV + dpart_DV, i * width, 1)
                return dx_ND + dpart_ND, doutput_DV

            dx_ND, doutput_DV = jax.lax.fori_loop(0, n, stretch, (jnp.zeros_like(x_ND), doutput_DV))
        return (jax.tree.map(jnp.add, sums, new), doutput_DV), unflatten(dx_ND, len(piece.x_BsD))

    (sums, doutput_DV), dx_CBsD = _scan(body, (_no_sums(), jnp.zeros_like(output_DV)), pieces)
    return sums, (_uncut(dx_CBsD), doutput_DV)


def _backward(to_logits: ToLogits, plan: LossPlan, saved: tuple[Array, Array], slope: tuple[Array, LossSums]) -> tuple:
    del to_logits, plan
    dx_BSD, doutput_DV = saved
    return (slope[0] * dx_BSD).astype(dx_BSD.dtype), slope[0] * doutput_DV, None, None


_sums.defvjp(_forward, _backward)


def _no_sums() -> tuple[Array, LossSums]:
    zero = jnp.zeros((), jnp.float32)
    return zero, LossSums(zero, zero, zero)


def _scan(body: Callable[[Any, _Piece], tuple[Any, Any]], start: Any, pieces: _Piece) -> tuple[Any, Any]:
    """Return `jax.lax.scan`; a single piece is not wrapped in a loop, so that it is fused with what surrounds it."""
    if len(pieces.x_BsD) > 1:
        return jax.lax.scan(body, start, pieces)
    carry, out = body(start, jax.tree.map(lambda a: a[0], pieces))
    return carry, None if out is None else out[None]
