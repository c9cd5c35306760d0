"""How far the host may run ahead of the device.

Owns the wait before a step on CPUs, without which each step that is called ahead would hold temporaries of its own; refuses
what is computed.
"""

import time
from typing import Any, Final

import jax

from jgpt.runtime import allocated

LARGE: Final = (
    2**27
)  # bytes of temporaries from which on steps wait for them to be free; asking takes some 0.3 ms a step
LONGEST_WAIT: Final = 0.02  # seconds that a step is held back for it at most; a late thread had taken up to 15 ms
BETWEEN_LOOKS: Final = 1e-4


class Pace:
    """Lets few steps be called ahead on CPUs; on accelerators, whose memory is one ordered pool, as many as the host likes.

    XLA:CPU takes a step's temporaries when it is called, however long its inputs take, and frees them a moment after its
    results are there. What is called before that takes others, and the C library, set as `runtime` does, hands none back.
    6 layers of width 384, 16 x 256 tokens, 1.1 GB of temporaries: a process of 1.5 GB where each step waits for the last and
    its memory, 4.7 GB where it waits for the last alone, 6 to 8 GB where none waits, at the same speed. Steps with few
    temporaries are short, so that the wait would show: one may be called while another runs.
    """

    def __init__(self, platform: str, temporaries: float) -> None:
        """Pace steps on a platform (cpu, gpu or tpu) that take so many bytes of temporaries."""
        self._waits, self._large = platform == "cpu", temporaries >= LARGE
        self._temporaries = temporaries
        self._without = 0
        self._earlier: Any = None

    def settle(self, running: Any) -> None:
        """Return when a new step may be called; `running`: arrays that the last one returns, None where there is none."""
        if not self._waits:
            return
        jax.block_until_ready(running if self._large else self._earlier)
        self._earlier = running
        if self._large:
            latest = time.monotonic() + LONGEST_WAIT
            while running is not None and self._held() and time.monotonic() < latest:
                time.sleep(BETWEEN_LOOKS)
            self._without = allocated() or 0

    def _held(self) -> bool:
        """Return whether the last step's temporaries are still there."""
        return (allocated() or 0) > self._without + self._temporaries / 2
