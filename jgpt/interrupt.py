"""Leaving in good order: the first SIGTERM or Ctrl-C asks, the second one ends the process at once.

Of several processes only a second Ctrl-C does: jax has their SIGTERM.

Owns the two signal handlers for as long as training runs; what is saved before leaving belongs to the loop.
"""

import os
import signal
from types import FrameType
from typing import Any


class Interrupt:
    """A request to stop, as a context manager; `signum` is 0 until one arrives.

    Args:
        together: this process is one of several. Then jax hears SIGTERM, and settles on one step for all; Ctrl-C becomes one.
    """

    def __init__(self, together: bool = False) -> None:
        self.signum, self._together = 0, together
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        """Take over SIGINT and SIGTERM."""
        for signum in (signal.SIGINT,) if self._together else (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.signum:
            os.write(2, b"\nstopped at once; the last complete checkpoint is kept\n")
            os._exit(128 + signum)
        self.signum = signum
        if self._together:
            os.kill(os.getpid(), signal.SIGTERM)
        os.write(2, b"\nstopping after this step: saving a checkpoint (again to leave at once)\n")
