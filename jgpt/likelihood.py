"""The exact likelihood of documents, token by token: one forward pass over packed rows, no sampler and no loss weights.

Owns how per-token values come back from rows to documents. Sums over whole splits are `evaluate`'s, by `step.eval_step`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgpt.batch import Batch
from jgpt.config import ModelConfig
from jgpt.data.loader import eval_batches
from jgpt.data.packing import PackedRows
from jgpt.loss import chunks_for
from jgpt.model import gpt


@dataclass(frozen=True)
class Score:
    """How probable a text is to a model.

    Attributes:
        nats: negative log-likelihood of the whole text after its start marker [nats].
        tokens: number of them.
        bytes: of the text in UTF-8.
        per_token: each token as text with its negative log-likelihood [nats]; an id that is a part of a character reads as
            U+FFFD.
    """

    nats: float
    tokens: int
    bytes: int
    per_token: list[tuple[str, float]]

    @property
    def bits_per_byte(self) -> float:
        """Bits of a code for the text over its bytes."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Return e to the nats per token."""
        return math.exp(self.nats / self.tokens)


def token_nats(
    cfg: ModelConfig,
    params: Any,
    rows: PackedRows,
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[np.ndarray]:
    """Return the negative log-likelihood [nats] of every target of every document, f32 [tokens - 1] each.

    A target that stands in several rows (sliding windows) takes its value from the first, as in `SlidingRows`; targets that
    carry no weight, such as a prompt's, are scored all the same.

    Args:
        cfg: from `gpt.resolve`.
        params: from `gpt.init`.
        rows: packed documents, at least one.
        batch_size: rows a batch; the shape that is compiled.
        advance: called with the number of rows done since the last call.
    """
    out = [np.full(len(document.tokens) - 1, np.nan, np.float32) for document in rows.documents]
    for number, batch in enumerate(eval_batches(rows, batch_size=batch_size)):
        first = number * batch_size
        nats_BS = np.asarray(jax.device_get(_nats(cfg, params, jax.device_put(batch))))
        here = range(first, min(first + batch_size, len(rows)))
        for row in here:
            at = 0
            for index, start, stop in rows.pieces(row):
                values = out[index][start:stop]
                np.copyto(values, nats_BS[row - first, at : at + stop - start], where=np.isnan(values))
                at += stop - start
        advance(len(here))
    return out


def weighted_nats(rows: PackedRows, nats: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum [nats] of each document's targets by their weights, f64 [documents]; `nats` from `token_nats`."""
    sums = []
    for document, values in zip(rows.documents, nats, strict=True):
        weights = 1.0 if document.weights is None else document.weights[1:]
        sums.append(float(np.sum(values * weights, dtype=np.float64)))
    return np.array(sums)


@partial(jax.jit, static_argnums=0)
def _nats(cfg: ModelConfig, params: Any, batch: Batch) -> Float[Array, "B S"]:
    """Return the nats of each target; logits are made piece by piece, as the loss makes them."""
    x_BSD, *_ = gpt.features(cfg, params, batch.tokens_BS, batch.positions_BS, batch.segments_BS)
    output_DV = gpt.output_matrix(cfg, params)
    (B, S, D), V = x_BSD.shape, output_DV.shape[1]
    C = chunks_for(B, S, V, None)

    def piece(xs: tuple[Array, Array]) -> Array:
        x_BsD, targets_Bs = xs
        logits_NV = gpt.logits(cfg, x_BsD.reshape(-1, D), output_DV)
        target_N = jnp.take_along_axis(logits_NV, targets_Bs.reshape(-1, 1), axis=-1)[:, 0]
        return (jax.nn.logsumexp(logits_NV, axis=-1) - target_N).reshape(targets_Bs.shape)

    cut = (x_BSD.reshape(B, C, S // C, D).swapaxes(0, 1), batch.targets_BS.reshape(B, C, S // C).swapaxes(0, 1))
    return jax.lax.map(piece, cut).swapaxes(0, 1).reshape(B, S)
