"""Packing: documents of any length to rows of one length, without a target lost or a document seen by another.

A document of n tokens is n - 1 pairs (input, target). Rows are cut from pairs, never from tokens, so that every target
of a document appears exactly once and none crosses into the next document.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from jgpt.batch import PADDING_SEGMENT, Batch, Document, padding
from jgpt.check import require
from jgpt.data.stored import lengths_of, trained_of


class Piece(NamedTuple):
    """Pairs of a document that stand in a row: from `first` to the one before `stop`."""

    document: int
    first: int
    stop: int


class PackedRows(Sequence[Batch], ABC):
    """Rows cut from documents when they are asked for; holds indices, not copies.

    Args:
        documents: what is packed.
        length: pairs in a row [tokens].
        loss_weight: factor on the weight of every target.
        refresh: (index, epoch) to the document as that epoch sees it, for whole documents alone; at most as long as the
            one it stands for, and where it is shorter the row ends in padding. None = every epoch sees the same.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        length: int,
        loss_weight: float = 1.0,
        refresh: Callable[[int, int], Document] | None = None,
    ) -> None:
        self.documents = documents
        self.refresh = refresh
        self.sizes = lengths_of(documents) - 1
        self.length = length
        self.loss_weight = loss_weight
        self._counted = np.arange(length, dtype=np.int32)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _pieces(self, row: int, shift: int) -> list[Piece]:
        """Return the pieces of a row, in order."""

    @abstractmethod
    def max_documents(self) -> int:
        """Return how many documents a row holds at most, under any shift."""

    def max_targets(self) -> int:
        """Return how many targets that carry weight a row holds at most: all, where documents are cut or vary."""
        return self.length

    def __getitem__(self, row: int) -> Batch:  # type: ignore[override]  # slices of rows are never asked for
        """Return one row as the documents lie; every array is [S]. Raises IndexError past the last, which ends a loop."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.at(row, 0)

    def at(self, row: int, shift: int, epoch: int | None = None) -> Batch:
        """Return one row with all cuts `shift` pairs further on; every array is [S].

        Under one shift the rows hold every target once, whatever the shift. Where documents are never cut it does nothing.
        With an epoch, documents are as that epoch sees them (`refresh`), otherwise as they lie.
        """
        row_S = padding(self.length)
        self.write(row_S, row, shift, epoch)
        return row_S

    def write(self, into: Batch, row: int, shift: int = 0, epoch: int | None = None) -> None:
        """Write one row, as `at` returns it, into arrays [S] that hold padding."""
        begin = 0
        for segment, (index, first, stop) in enumerate(self._pieces(row, shift), start=PADDING_SEGMENT + 1):
            document = self.documents[index]
            if self.refresh is not None and epoch is not None:
                document = self._fresh(index, epoch)
                stop = len(document.tokens) - 1
            size = stop - first
            here = slice(begin, begin + size)
            into.tokens_BS[here] = document.tokens[first:stop]
            into.targets_BS[here] = document.tokens[first + 1 : stop + 1]
            if document.offset:  # after the ids have become int32: narrow ones would wrap
                into.tokens_BS[here] += document.offset
                into.targets_BS[here] += document.offset
            weights = 1.0 if document.weights is None else document.weights[first + 1 : stop + 1]
            into.weights_BS[here] = weights * np.float32(self.loss_weight)
            into.segments_BS[here] = segment
            into.positions_BS[here] = self._counted[:size]
            begin += size

    def pieces(self, row: int) -> list[Piece]:
        """Return the pieces of an unshifted row, in order."""
        return self._pieces(row, 0)

    def _fresh(self, index: int, epoch: int) -> Document:
        document = self.refresh(index, epoch) if self.refresh else self.documents[index]
        require(
            2 <= len(document.tokens) <= int(self.sizes[index]) + 1,
            f"document {index} has {len(document.tokens)} tokens in epoch {epoch} and {self.sizes[index] + 1} as it lies: "
            "what refreshes it may shorten it, never lengthen it.",
        )
        return document

    def fill(self) -> float:
        """Return the share of positions that hold a pair."""
        return float(self.sizes.sum()) / max(len(self) * self.length, 1)


class StreamRows(PackedRows):
    """Documents end to end, cut every `length` pairs; a long document spans many rows, the last row may be short."""

    def __init__(
        self,
        documents: Sequence[Document],
        length: int,
        loss_weight: float = 1.0,
        refresh: Callable[[int, int], Document] | None = None,
    ) -> None:
        require(refresh is None, "documents that are cut anywhere cannot be refreshed: pack them whole.")
        super().__init__(documents, length, loss_weight)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self._total = int(self._starts[-1])

    def __len__(self) -> int:
        return -(-self._total // self.length)

    def _pieces(self, row: int, shift: int) -> list[Piece]:
        begin = (row * self.length + shift) % self._total
        end = begin + min(self.length, self._total - row * self.length)
        if end <= self._total:
            return self._cut(begin, end)
        return self._cut(begin, self._total) + self._cut(0, end - self._total)  # the stream is a ring

    def max_documents(self) -> int:
        """Return how many documents a row holds at most, under any shift; two where one document bites its tail."""
        starts, total = self._starts[:-1], self._total
        ring = np.concatenate([starts, starts + total])
        lasts = self._starts[1:] - 1  # a row that begins with the last pair of a document meets the most
        after = np.searchsorted(ring, lasts + min(self.length, total), side="left")
        return int((after - np.arange(len(lasts))).max())

    def _cut(self, begin: int, end: int) -> list[Piece]:
        first = int(self._starts.searchsorted(begin, side="right")) - 1
        last = int(self._starts.searchsorted(end, side="left"))
        begins, ends = [0] * (last - first), self.sizes[first:last].tolist()
        begins[0], ends[-1] = begin - int(self._starts[first]), end - int(self._starts[last - 1])
        return list(map(Piece, range(first, last), begins, ends))


class WholeRows(PackedRows):
    """Every document in one row, by best fit: longest first, each into the fullest row it fits.

    Raises:
        ValueError: a document is longer than a row.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        length: int,
        loss_weight: float = 1.0,
        refresh: Callable[[int, int], Document] | None = None,
    ) -> None:
        super().__init__(documents, length, loss_weight, refresh)
        if self.sizes.size and self.sizes.max() > length:
            worst = int(self.sizes.argmax())
            raise ValueError(
                f"example {worst} has {self.sizes[worst] + 1} tokens and must stay whole, but a row holds {length + 1}: "
                "raise model.context_length, or shorten or leave out the example."
            )
        self._rows = _best_fit(self.sizes, length)

    def __len__(self) -> int:
        return len(self._rows)

    def max_documents(self) -> int:
        """Return how many documents a row holds at most."""
        return max(map(len, self._rows))

    def max_targets(self) -> int:
        """Return how many targets that carry weight a row holds at most; all, where documents vary."""
        if self.refresh is not None:
            return self.length
        trained = trained_of(self.documents)
        return max(int(trained[row].sum()) for row in self._rows)

    def _pieces(self, row: int, shift: int) -> list[Piece]:
        del shift
        documents = self._rows[row]
        return [Piece(index, 0, size) for index, size in zip(documents, self.sizes[documents].tolist(), strict=True)]


def _best_fit(sizes: np.ndarray, length: int) -> list[list[int]]:
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
    return rows


PACKINGS: Final[dict[str, type[PackedRows]]] = {"stream": StreamRows, "whole": WholeRows}


def pack(
    documents: Sequence[Document],
    packing: str,
    length: int,
    loss_weight: float = 1.0,
    refresh: Callable[[int, int], Document] | None = None,
) -> PackedRows:
    """Return the rows of `documents`.

    Args:
        documents: at least one.
        packing: "stream" (cut anywhere) or "whole" (never cut).
        length: pairs in a row [tokens].
        loss_weight: factor on the weight of every target.
        refresh: how whole documents vary from epoch to epoch, see `PackedRows`.

    Raises:
        ValueError: a document must stay whole and is longer than a row.
    """
    return PACKINGS[packing](documents, length, loss_weight, refresh)
