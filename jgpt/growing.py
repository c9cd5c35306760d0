"""Text that grows with the ids that are drawn: what of it is certain already, and where a stop string ends it.

Owns the rules; refuses to draw. A stop string may begin in one token and end in another.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from jgpt.check import require

UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"  # what the bytes of half a character decode to


class GrowingText:
    """The text of ids that only ever grow.

    Args:
        decode: the text of ids; that of more ids begins with it, except for half a character at its end.
        stops: strings that end the text and are not part of it.

    Raises:
        ValueError: see `check_stops`.
    """

    def __init__(self, decode: Callable[[Sequence[int] | np.ndarray], str], stops: Sequence[str] = ()) -> None:
        check_stops(stops)
        self.decode, self.stops = decode, tuple(stops)
        self.given = ""
        self.stopped = False

    def feed(self, ids: Sequence[int] | np.ndarray, *, final: bool = False) -> str:
        """Return what has become certain since the last call.

        Args:
            ids: all so far.
            final: no more will come, so that nothing has to be held back.
        """
        if self.stopped:
            return ""
        text = self.decode(ids)
        place = find(text, self.stops)
        if place is not None:
            self.stopped, text = True, text[:place]
        elif not final:
            text = text.rstrip(UNFINISHED)
            text = text[: len(text) - max((_overlap(text, stop) for stop in self.stops), default=0)]
        new = text[len(self.given) :]
        self.given += new
        return new


def check_stops(stops: Sequence[str]) -> None:
    """Raise ValueError where a stop string is empty."""
    require(all(stops), f"the stop strings are {list(stops)}: an empty one would end every text; leave it out.")


def find(text: str, stops: Sequence[str]) -> int | None:
    """Return where the one of `stops` begins that is whole first, the longest of them; None where none is.

    So it depends on the text alone, not on how many characters came at once.
    """
    found = ((place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0)
    return min(found, default=(0, None))[1]


def tokens_before(ids: np.ndarray, decode: Callable[[np.ndarray], str], stops: Sequence[str]) -> int:
    """Return how many of `ids` were drawn until a stop string was whole, all where there is none."""
    return next((n for n in range(1, len(ids) + 1) if find(decode(ids[:n]), stops) is not None), len(ids))


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
