"""Packing: documents of any length to rows of one length, without a target lost or a document seen by another.

A document of n tokens is n - 1 pairs (input, target). Rows are cut from pairs, never from tokens, so that every target
of a document appears exactly once and none crosses into the next document.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from jgpt.batch import PADDING_SEGMENT, Batch, Document

PACKINGS: Final = ("stream", "whole")


class PackedRows(Sequence[Batch]):
    """Rows cut from documents when they are asked for; holds indices, not copies.

    Args:
        documents: what is packed.
        slices: per row, [pieces, 3] of (document, first pair, pair after the last), in order.
        length: pairs in a row [tokens].
        loss_weight: factor on the weight of every target.
    """

    def __init__(
        self, documents: Sequence[Document], slices: Sequence[np.ndarray], length: int, loss_weight: float = 1.0
    ) -> None:
        self.documents = documents
        self.slices = slices
        self.length = length
        self.loss_weight = loss_weight

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, row: int) -> Batch:  # type: ignore[override]  # slices of rows are never asked for
        """Return one row; every array is [S]."""
        tokens, targets, segments, positions = (np.zeros(self.length, np.int32) for _ in range(4))
        weights = np.zeros(self.length, np.float32)
        at = 0
        for segment, (index, first, stop) in enumerate(self.slices[row], start=PADDING_SEGMENT + 1):
            document = self.documents[index]
            here = slice(at, at + stop - first)
            tokens[here] = document.tokens[first:stop].astype(np.int32) + document.offset  # narrow ids would wrap
            targets[here] = document.tokens[first + 1 : stop + 1].astype(np.int32) + document.offset
            weights[here] = 1.0 if document.weights is None else document.weights[first + 1 : stop + 1]
            segments[here] = segment
            positions[here] = np.arange(stop - first)
            at += stop - first
        return Batch(tokens, targets, weights * np.float32(self.loss_weight), segments, positions)

    def fill(self) -> float:
        """Return the share of positions that hold a pair."""
        used = sum(int((piece[:, 2] - piece[:, 1]).sum()) for piece in self.slices)
        return used / max(len(self) * self.length, 1)


def pack_stream(documents: Sequence[Document], length: int) -> list[np.ndarray]:
    """Return slices that lay the documents end to end and cut every `length` pairs; a long document spans many rows.

    The last row may be short; its rest is padding.
    """
    sizes = np.array([len(document.tokens) - 1 for document in documents], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = []
    for begin in range(0, int(starts[-1]), length):
        end = min(begin + length, int(starts[-1]))
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        last = int(np.searchsorted(starts, end, side="left"))
        index = np.arange(first, last)
        rows.append(
            np.stack(
                [index, np.maximum(begin - starts[index], 0), np.minimum(end - starts[index], sizes[index])], axis=1
            )
        )
    return rows


def pack_whole(documents: Sequence[Document], length: int) -> list[np.ndarray]:
    """Return slices that keep every document in one row, by best fit: longest first, each into the fullest row it fits.

    Raises:
        ValueError: a document is longer than a row.
    """
    sizes = np.array([len(document.tokens) - 1 for document in documents], np.int64)
    if sizes.size and sizes.max() > length:
        worst = int(sizes.argmax())
        raise ValueError(
            f"example {worst} has {sizes[worst] + 1} tokens and must stay whole, but a row holds {length + 1}: raise "
            "model.context_length, or shorten or leave out the example."
        )
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(length + 1)]  # rows that have exactly this many pairs left
    for index in np.argsort(-sizes, kind="stable"):
        size = int(sizes[index])
        space = next((s for s in range(size, length + 1) if by_space[s]), None)
        if space is None:
            rows.append([])
            row, space = len(rows) - 1, length
        else:
            row = by_space[space].pop()
        rows[row].append(int(index))
        by_space[space - size].append(row)
    return [np.array([(i, 0, sizes[i]) for i in row], np.int64) for row in rows]


def pack(documents: Sequence[Document], packing: str, length: int, loss_weight: float = 1.0) -> PackedRows:
    """Return the rows of `documents`.

    Args:
        documents: at least one.
        packing: "stream" (cut anywhere) or "whole" (never cut).
        length: pairs in a row [tokens].
        loss_weight: factor on the weight of every target.
    """
    slices = (pack_stream if packing == "stream" else pack_whole)(documents, length)
    return PackedRows(documents, slices, length, loss_weight)
