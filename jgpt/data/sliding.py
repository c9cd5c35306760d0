"""Sliding windows: long documents scored so that every target but the first few sees much of what came before it.

Owns which window scores which target; what a row holds is packing's. For scores alone: nothing is trained on these rows.
"""

from collections.abc import Sequence

import numpy as np

from jgpt.batch import Batch, Document
from jgpt.check import require
from jgpt.data.packing import PackedRows, Piece, WholeRows


class SlidingRows(PackedRows):
    """Documents in windows of `length` pairs that move on by `stride`; each target carries weight in one window alone.

    Worked example, a document of 7 pairs, length 4, stride 2; the pairs of each window, those that carry weight in brackets:

        [0 1 2 3]
             2 3 [4 5]
                3 4 5 [6]

    So every target but those of the first window is predicted from at least length - stride earlier tokens besides its
    input. The last window moves on by what is left. Documents that fit one row share rows as in training, and are
    scored as there.

    Args:
        documents: what is scored; a document never sees another.
        length: pairs in a window [tokens].
        stride: pairs by which a window moves on, 1 to length; a smaller one costs length / stride times the work.

    Raises:
        ValueError: the stride is out of range.
    """

    def __init__(self, documents: Sequence[Document], length: int, stride: int) -> None:
        super().__init__(documents, length)
        require(
            1 <= stride <= length,
            f"eval.stride is {stride}: windows of model.context_length {length} must move on by 1 to {length} tokens; use "
            "--eval.stride (jgpt evaluate: --stride) within these, half of the context for instance.",
        )
        self.stride = stride
        self._short = np.flatnonzero(self.sizes <= length)
        self._long = np.flatnonzero(self.sizes > length)
        self._shared = WholeRows([documents[i] for i in self._short.tolist()], length)
        windows = 1 + -(-(self.sizes[self._long] - length) // stride)
        self._firsts = len(self._shared) + np.concatenate(
            [[0], np.cumsum(windows)]
        )  # row of each document's first window

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def write(self, into: Batch, row: int, shift: int = 0, epoch: int | None = None) -> None:
        """Write one row into arrays [S]; what an earlier window has scored carries no weight."""
        super().write(into, row, shift, epoch)
        into.weights_BS[: self._seen(row)] = 0

    def max_documents(self) -> int:
        """Return how many documents a row holds at most."""
        return self._shared.max_documents() if len(self._shared) else 1

    def _pieces(self, row: int, shift: int) -> list[Piece]:
        del shift
        if row < len(self._shared):
            return [piece._replace(document=int(self._short[piece.document])) for piece in self._shared.pieces(row)]
        document, window = self._window(row)
        stop = min(self.length + window * self.stride, int(self.sizes[document]))
        return [Piece(document, stop - self.length, stop)]

    def _seen(self, row: int) -> int:
        """Return how many pairs at the beginning of a row carried weight in an earlier one."""
        if row < len(self._shared):
            return 0
        document, window = self._window(row)
        start = min(self.length + window * self.stride, int(self.sizes[document])) - self.length
        return 0 if window == 0 else self.length + (window - 1) * self.stride - start

    def _window(self, row: int) -> tuple[int, int]:
        """Return (document, number of the window within it)."""
        at = int(np.searchsorted(self._firsts, row, side="right")) - 1
        return int(self._long[at]), row - int(self._firsts[at])
