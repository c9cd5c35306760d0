"""The treaty between data and model: what a batch holds, field by field.

Data and tasks produce `Batch`, loss and step consume it, and neither side imports the other. Text, answers and
pictures differ only in which targets carry weight, so nothing below this line asks which task a row came from.
This module imports no jax: loader workers must never open an accelerator.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Integer

PADDING_SEGMENT = 0  # segments count from 1 within a row; 0 marks positions that hold no document


class Document(NamedTuple):
    """One encoded example before packing.

    Attributes:
        tokens: ids, start marker first and end marker last.
        weights: loss weight of each token *as a target*; `weights[0]` is never used, since nothing predicts it. None
            trains every target.
        offset: added to every token when a row is cut, so that a memory-mapped file of ids is used where it lies.
    """

    tokens: Integer[np.ndarray, "n"]
    weights: Float32[np.ndarray, "n"] | None = None
    offset: int = 0


class Batch(NamedTuple):
    """Packed rows, ready for the device. Every array is [B, S].

    Attributes:
        tokens_BS: input ids.
        targets_BS: the id that follows each input in its own document.
        weights_BS: loss weight of each target; 0 where the target is padding or given (a prompt).
        segments_BS: number of the document within the row, from 1; 0 is padding. Segments do not see each other.
        positions_BS: position within the document's part of the row, from 0.
    """

    tokens_BS: Int32[np.ndarray, "B S"]
    targets_BS: Int32[np.ndarray, "B S"]
    weights_BS: Float32[np.ndarray, "B S"]
    segments_BS: Int32[np.ndarray, "B S"]
    positions_BS: Int32[np.ndarray, "B S"]


def padding(*shape: int) -> Batch:
    """Return a batch of padding alone, whose arrays have `shape` and lie in one block of memory."""
    tokens, targets, bits, segments, positions = np.zeros((5, *shape), np.int32)
    return Batch(tokens, targets, bits.view(np.float32), segments, positions)


@dataclass(frozen=True)
class RowLimits:
    """What a row of a run's data holds at most, under any order and in any epoch; None = not known.

    Compiled steps rely on it: a row beyond its limits would be computed wrongly.

    Attributes:
        documents: how many, which spares a GPU the scores between documents.
        targets: how many that carry weight, which spares the logits of the others.
    """

    documents: int | None = None
    targets: int | None = None


ANY_ROWS: Final = RowLimits()


def require_weight(batch: Batch, most: int | None = None) -> Batch:
    """Return `batch` unchanged, or refuse it when no target carries weight, or when more do than a step computes.

    Args:
        batch: rows on the host.
        most: targets of a row that a step was compiled for (`RowLimits.targets`); None = any number.

    Raises:
        ValueError: every weight is zero, so that the mean loss would be 0 / 0, or a row has more than `most`.
    """
    trained = int(np.count_nonzero(batch.weights_BS, axis=1).max())
    if most is not None and trained > most:
        raise ValueError(
            f"a row has {trained} targets that carry weight, and the step was compiled for {most} at most: the data have "
            "changed since they were packed, or `PackedRows.max_targets` is wrong. Start the run again."
        )
    if trained == 0:
        raise ValueError(
            f"all {batch.weights_BS.size} loss weights of a batch are zero (rows {batch.weights_BS.shape[0]}, "
            f"positions {batch.weights_BS.shape[1]}): at least one target must be trained. Raise data.tasks.*.weight "
            "or loss_weight of a task with targets, or train.batch_size."
        )
    return batch
