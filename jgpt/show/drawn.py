"""Rows taken apart into what is drawn: documents, their tokens and pictures.

Owns what a drawing needs to know of a row, so that terminal and page show the same; refuses looks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jgpt.batch import PADDING_SEGMENT, Batch
from jgpt.check import counted
from jgpt.render import Piece, pieces
from jgpt.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Cell:
    """One place of a row.

    Attributes:
        token: the input, readable.
        target: what is to be predicted, readable.
        token_id: of the input.
        target_id: of the target.
        weight: of the target.
        position: in its document.
    """

    token: Piece
    target: Piece
    token_id: int
    target_id: int
    weight: float
    position: int


@dataclass(frozen=True)
class Drawn:
    """One document of a row.

    Attributes:
        segment: its number.
        cells: its places, in order.
    """

    segment: int
    cells: tuple[Cell, ...]

    def parts(self) -> Iterator[tuple[bool, tuple[Cell, ...]]]:
        """Yield (whether they are pixels, neighbouring cells), in order."""
        begin = 0
        for end in range(1, len(self.cells) + 1):
            if end == len(self.cells) or self._pixel(end) != self._pixel(begin):
                yield self._pixel(begin), self.cells[begin:end]
                begin = end

    def _pixel(self, at: int) -> bool:
        return self.cells[at].token.kind == "pixel"


def documents(vocabulary: Vocabulary, batch: Batch, row: int) -> list[Drawn]:
    """Return the documents of one row; padding is left out."""
    tokens, targets = pieces(vocabulary, batch.tokens_BS[row]), pieces(vocabulary, batch.targets_BS[row])
    segments = batch.segments_BS[row]
    out = []
    for number in np.unique(segments[segments != PADDING_SEGMENT]):
        cells = tuple(
            Cell(
                tokens[s],
                targets[s],
                int(batch.tokens_BS[row, s]),
                int(batch.targets_BS[row, s]),
                float(batch.weights_BS[row, s]),
                int(batch.positions_BS[row, s]),
            )
            for s in np.flatnonzero(segments == number)
        )
        out.append(Drawn(int(number), cells))
    return out


def summary(batch: Batch, row: int) -> str:
    """Return how full a row is, in words."""
    segments, weights = batch.segments_BS[row], batch.weights_BS[row]
    count = len(np.unique(segments[segments != PADDING_SEGMENT]))
    return (
        f"{counted(count, 'document')}, {(segments != PADDING_SEGMENT).sum()} of {len(segments)} places "
        f"filled, {(weights > 0).sum()} trained"
    )


def columns_of(grid: tuple[int, int, int] | None, count: int) -> int:
    """Return in how many columns `count` image ids stand: those of the grid, ids of a cell side by side; else a square.

    Args:
        grid: (rows, columns, ids of a cell) of the task's pictures; None where it is not known.
        count: ids to lay out.
    """
    return max(1, round(count**0.5)) if grid is None else grid[1] * grid[2]
