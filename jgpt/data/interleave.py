"""Which task, and which of its rows, stands at each place of a mixture.

Owns the arithmetic of shares and of tasks that join later; every place is computed on its own, so that a run resumes and
processes split the rows without walking through what came before.
"""

import bisect
import sys
from collections.abc import Sequence
from typing import Final

import grain.python as grain

_PARTS: Final = 2**20  # shares are rounded to this fraction of the whole


class Interleaving(grain.DatasetSelectionMap):
    """From the place of a row in the endless mixture to (task, row of the task).

    Every task is spread evenly over the places in which it takes part, and gives its rows in order, one by one.

    Worked example, shares 2 and 1 from the first row on: tasks 0 1 0 | 0 1 0 ... (whichever order, two of the first in
    each three); where the first task joins at row 4: 1 1 1 1 0 1 0 ...

    Args:
        weights: share of each task, relative to the others.
        starts: row of the mixture from which each task takes part; at least one must be 0.
    """

    def __init__(self, weights: Sequence[float], starts: Sequence[int]) -> None:
        self._begins = sorted({0, *starts})
        self._parts: list[list[int]] = []  # of each phase: the shares of the tasks, 0 before their start
        self._before = [[0] * len(weights)]  # of each phase: rows that each task gave before it
        for phase, begin in enumerate(self._begins):
            active = [weight if start <= begin else 0.0 for weight, start in zip(weights, starts, strict=True)]
            self._parts.append([max(1, round(_PARTS * weight / sum(active))) if weight else 0 for weight in active])
            if phase + 1 < len(self._begins):
                given = _given(self._begins[phase + 1] - begin, self._parts[-1])
                self._before.append([a + b for a, b in zip(self._before[-1], given, strict=True)])

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> tuple[int, int]:
        """Return (task, row of the task, counted from 0 and on over its epochs)."""
        phase = bisect.bisect_right(self._begins, place) - 1
        task, row = _at(place - self._begins[phase], self._parts[phase])
        return task, self._before[phase][task] + row


def _given(count: int, parts: Sequence[int]) -> list[int]:
    """Return how many of the first `count` places each task has.

    The first task takes its share of the places, the second its share of those that are left, and so on.
    """
    rest, given = sum(parts), []
    for part in parts:
        left = count * (rest - part) // rest if rest else 0
        given.append(count - left)
        count, rest = left, rest - part
    return given


def _at(place: int, parts: Sequence[int]) -> tuple[int, int]:
    """Return (task at `place`, places before that are the same task's)."""
    before, upto = _given(place, parts), _given(place + 1, parts)
    task = next(i for i, (a, b) in enumerate(zip(before, upto, strict=True)) if b > a)
    return task, before[task]
