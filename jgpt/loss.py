"""Weighted token cross-entropy as sums, so that micro-batches, devices and whole splits add up exactly.

Owns the loss and how much of the logits stands in memory; refuses means, which depend on what is summed.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

WHOLE_LOGITS: Final = 2**24  # logits up to this many stand in memory at once by default: 64 MiB in f32


class LossSums(NamedTuple):
    """Sums over tokens; divide by `weight` for means.

    Attributes:
        nats: weighted negative log-likelihood [nats].
        squared_log_z: weighted squares of the log-normaliser, for the z-loss.
        weight: sum of the weights.
    """

    nats: Float[Array, ""]
    squared_log_z: Float[Array, ""]
    weight: Float[Array, ""]


def chunks_for(batch: int, seq: int, vocab: int, chunk_tokens: int | None) -> int:
    """Return into how many equal pieces of the sequence axis the logits are cut: the fewest that fit.

    Args:
        batch: rows.
        seq: positions a row.
        vocab: padded vocabulary.
        chunk_tokens: tokens whose logits may stand in memory at once; None = `WHOLE_LOGITS` over the vocabulary.
    """
    budget = chunk_tokens if chunk_tokens is not None else max(WHOLE_LOGITS // vocab, 1)
    return next((c for c in range(1, seq + 1) if seq % c == 0 and batch * seq // c <= budget), seq)


def cross_entropy(
    to_logits: Callable[[Float[Array, "N D"], Float[Array, "D V"]], Float[Array, "N V"]],
    x_BSD: Float[Array, "B S D"],
    output_DV: Float[Array, "D V"],
    targets_BS: Int[Array, "B S"],
    weights_BS: Float[Array, "B S"],
    chunk_tokens: int | None = None,
) -> LossSums:
    """Return the weighted sums of -log softmax(logits)[target], with logits made piece by piece where they are large.

    The pieces run along the sequence axis, so that a batch sharded over devices stays where it is; each piece's logits
    are computed again in the backward pass instead of being kept.

    Args:
        to_logits: maps features and the output matrix to f32 logits.
        x_BSD: features after the final norm.
        output_DV: output matrix.
        targets_BS: id to predict at each position.
        weights_BS: weight of each target.
        chunk_tokens: see `chunks_for`.
    """
    B, S, D = x_BSD.shape
    C = chunks_for(B, S, output_DV.shape[1], chunk_tokens)

    def piece(x_BsD: Array, targets_Bs: Array, weights_Bs: Array) -> LossSums:
        n = x_BsD.shape[0] * x_BsD.shape[1]
        logits_NV = to_logits(x_BsD.reshape(n, D), output_DV)
        log_z_N = jax.nn.logsumexp(logits_NV, axis=-1)
        target_N = jnp.take_along_axis(logits_NV, targets_Bs.reshape(n, 1), axis=-1)[:, 0]
        weights_N = weights_Bs.reshape(n)
        return LossSums(
            nats=jnp.sum(weights_N * (log_z_N - target_N)),
            squared_log_z=jnp.sum(weights_N * jnp.square(log_z_N)),
            weight=jnp.sum(weights_N),
        )

    if C == 1:
        return piece(x_BSD, targets_BS, weights_BS)

    def body(sums: LossSums, xs: tuple) -> tuple[LossSums, None]:
        return jax.tree.map(jnp.add, sums, jax.checkpoint(piece)(*xs)), None

    pieces = tuple(a.reshape(B, C, S // C, *a.shape[2:]).swapaxes(0, 1) for a in (x_BSD, targets_BS, weights_BS))
    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(body, LossSums(zero, zero, zero), pieces)[0]
