"""How far the host may run ahead of the device.

Owns the wait before a step on CPUs, without which each step that is called ahead would hold temporaries of its own, and of
several devices all might wait for ever; knows nothing of what is computed.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import jax

from jgpt.runtime import allocated

# Bytes of temporaries from which on steps wait for them to be free; asking takes some 0.3 ms a step.
LARGE: Final = 2**27
# Steps from one wait to the next, where their temporaries are small enough to be there several times.
MOST_AT_ONCE: Final = 4
# Seconds that a step is held back for it at most; threads were seen up to 15 ms late.
LONGEST_WAIT: Final = 0.02
BETWEEN_LOOKS: Final = 1e-4
T = TypeVar("T")


class Pace:
    """Lets few steps be called ahead on CPUs; on accelerators, whose memory is one ordered pool, as many as the host likes.

    XLA:CPU takes a step's temporaries when it is called, however long its inputs take, and frees them a moment after its
    results are there. What is called before that takes others, and the C library, set as `runtime` does, hands none back.
    6 layers of width 384, 16 x 256 tokens, 1.1 GB of temporaries: a process of 1.5 GB where each step waits for the last and
    its memory, 4.7 GB where it waits for the last alone, 6 to 8 GB where none waits, at the same speed.

    Steps with few temporaries are short, so that the wait would show: each time the thread wakes, it takes a core from the
    step that runs. They are called in groups, one while another runs, of as many as hold LARGE bytes together. Of a step of
    43 ms on two cores, the loop's batches took 0.8 % with a wait at each step, 0.6 % with one in two, 0.2 % with one in four.

    With several devices in a process many calls ahead can also stop for ever (jaxlib 0.10.2): a device takes 32, the next one
    waits for room in a thread of the pool, and what would make room, a collective of all devices, finds no thread left.
    """

    def __init__(self, platform: str, temporaries: float, most_at_once: int = MOST_AT_ONCE) -> None:
        """Pace steps.

        Args:
            platform: cpu, gpu or tpu.
            temporaries: bytes that a step takes in this process.
            most_at_once: steps of a group, where they are small.
        """
        self._waits, self._large = platform == "cpu", temporaries >= LARGE
        self._temporaries = temporaries
        self._group = max(1, min(most_at_once, int(LARGE // max(temporaries, 1))))
        self._called, self._earlier = 0, None

    def settle(self, running: Any) -> None:
        """Return when a new step may be called; `running`: arrays that the last one returns, None where there is none."""
        if not self._waits:
            return
        if not self._large:
            if self._called % self._group == 0:
                jax.block_until_ready(self._earlier)
                self._earlier = running
            self._called += 1
        elif not all(array.is_ready() for array in jax.tree.leaves(running)):
            beside = (allocated() or 0) - self._temporaries / 2  # while it runs, they are there
            jax.block_until_ready(running)
            latest = time.monotonic() + LONGEST_WAIT
            while (allocated() or 0) > beside and time.monotonic() < latest:
                time.sleep(BETWEEN_LOOKS)


def in_turn(call: Callable[[Any], T], inputs: Iterable[Any], platform: str) -> list[T]:
    """Return what `call` makes of each input, of which few run at a time on CPUs; arrays may not be ready yet.

    Args:
        call: a compiled step.
        inputs: taken one by one.
        platform: cpu, gpu or tpu.
    """
    pace, results = Pace(platform, 0, most_at_once=1), []
    for value in inputs:
        pace.settle(results[-1] if results else None)
        results.append(call(value))
    return results
