"""One row's work on its way through the engine: what is asked, and what comes back piece by piece.

Owns the text that grows with the ids and where it ends; refuses devices and protocols.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from jgpt.growing import GrowingText, tokens_before
from jgpt.serve.slots import Row

Decode = Callable[[Sequence[int] | np.ndarray], str]


@dataclass(frozen=True)
class Update:
    """What became known of a row.

    Attributes:
        ids: further ids, without the stop id.
        logprobs: their log-probabilities [nats].
        top: (ids, log-probabilities) of the most probable ids at each of them; empty where nobody asked.
        text: what of the text became certain; empty for pictures.
        finished: "stop" or "length" where this is the last update, "" where it goes on.
        error: why the row ends without a result; then the rest is empty.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[list[int], list[float]]] = field(default_factory=list)
    text: str = ""
    finished: str = ""
    error: BaseException | None = None

    @property
    def last(self) -> bool:
        """Nothing follows."""
        return bool(self.finished) or self.error is not None


@dataclass
class Job:
    """One row's work.

    Attributes:
        row: as a slot takes it. Rows of one request share the object that holds the prompt, and are prefilled once.
        top: most probable ids to report at each token.
        decode: ids to text; None for pictures, which have none.
        stops: strings that end the text.
        deliver: called with every `Update`, by the thread that owns the device: it must return at once.
        deadline: when the job fails for lack of time, on `time.monotonic`'s clock.
    """

    row: Row
    deliver: Callable[[Update], None]
    top: int = 0
    decode: Decode | None = None
    stops: tuple[str, ...] = ()
    deadline: float = float("inf")
    ids: list[int] = field(default_factory=list, init=False)
    cancelled: bool = field(default=False, init=False)
    ended: bool = field(default=False, init=False)
    joined: float = field(default=0.0, init=False)
    _text: GrowingText | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.decode is not None:
            self._text = GrowingText(self.decode, self.stops)

    def cancel(self) -> None:
        """Ask that the row ends: nobody waits for it any more. May be called from any thread."""
        self.cancelled = True

    @property
    def late(self) -> bool:
        """The deadline has passed."""
        return time.monotonic() > self.deadline

    def write(
        self, ids: list[int], logprobs: list[float], top: list[tuple[list[int], list[float]]], finished: str
    ) -> None:
        """Deliver what was drawn; a stop string may end the row before `finished` does."""
        before, text = len(self.ids), ""
        self.ids += ids
        if self._text is not None:
            text = self._text.feed(self.ids, final=bool(finished))
            if self._text.stopped:
                finished = "stop"
                kept = tokens_before(np.asarray(self.ids), self._text.decode, self.stops)
                self.ids = self.ids[:kept]
        new = max(0, len(self.ids) - before)  # what was delivered before the stop string was whole stays
        if new or finished:
            self.ended = bool(finished)
            self.deliver(Update(ids[:new], logprobs[:new], top[:new], text, finished))

    def fail(self, error: BaseException) -> None:
        """Deliver that there will be no result."""
        self.ended = True
        self.deliver(Update(error=error))
