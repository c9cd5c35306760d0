"""Who is still alive: each process says so every second, and all end when one has been silent for too long.

A process that dies leaves the others waiting in a collective, some with an error of the network, some for ever. Here every
process writes a beat, its last step and what it does into the key-value store of jax's coordinator, and watches the others':
who is silent is named, with the last step of each; so is who keeps the others waiting for its data; and where nobody gets on
for long all end. Owns the beats and the way out; refuses to start processes again.
"""

import ctypes
import os
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, runtime_checkable

from jgpt.rollcall import names

FOLDER: Final = "jgpt/beat/"
BEAT_SECONDS: Final = 1.0
LOST: Final = 75  # exit status, EX_TEMPFAIL of sysexits.h: run the same command again
OTHER_FAILED: Final = 2  # the same command would fail again
ABORTED: Final = (  # of process 0, of the others
    "jax has aborted this process, perhaps since it found another one dead (see above)",
    "process 0, which coordinates, is lost, or jax has aborted this process for another reason (see above)",
)
GOING, DONE, FAILED, LEFT = "going", "done", "failed", "left"
STARTS, SCORES = "starts", "scores"  # what may take any time: reading data and compiling; answering all questions
WHY_AT_MOST: Final = 1000  # characters of a reason that the others repeat
SLOW_SHARE: Final = 0.2  # of a step that one process waits for its data longer than the others do: it is named
SLOW_STEPS: Final = 20  # the last ones, over which that is counted


@runtime_checkable
class Store(Protocol):
    """What is used of jax's distributed client."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Write a value."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Return keys and values that begin so."""
        ...


@dataclass
class _Other:
    """What is known of a process: its beat, when and how often it changed, and what that says (see `Heartbeat._beat`)."""

    beat: str = ""
    changes: int = 0
    since: float = 0.0
    step: str = "-"
    doing: str = STARTS
    waits: float = 0.0
    state: str = GOING
    why: str = ""


class Heartbeat:
    """Beats in a thread of its own while it is entered, and ends this process when another one is lost.

    Args:
        store: where beats are written.
        process: this one's number.
        processes: of the run.
        seconds: of silence after which a process counts as lost.
        stalled_seconds: after which, where no process has begun anything new, all end; None = never.
        leave: called with the exit status; `os._exit`, since other threads may hang in a collective.
    """

    def __init__(
        self,
        store: Store,
        process: int,
        processes: int,
        seconds: float,
        *,
        stalled_seconds: float | None = None,
        leave: Callable[[int], Any] = os._exit,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._stalled, self._got_on = stalled_seconds, time.monotonic()
        self._store, self._process, self._seconds, self._leave = store, process, seconds, leave
        self._pause = beat_seconds
        self._others = {i: _Other(since=time.monotonic()) for i in range(processes) if i != process}
        self._step, self._doing, self._count, self._state, self._why = 0, STARTS, 0, GOING, ""
        self._waited: deque[float] = deque(maxlen=SLOW_STEPS)  # seconds that each of the last steps waited for its data
        self._given: deque[float] = deque(maxlen=SLOW_STEPS)  # when they were given to the device
        self._named = False
        self._at_end: list[Callable[[], Any]] = []
        self._ended = threading.Event()
        self._on_abort: Any = None
        self._before: Any = None
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def reach(self, step: int, doing: str) -> None:
        """Take note of a step that this process has come to, and of what it does now."""
        self._step, self._doing, self._got_on = step, doing, time.monotonic()

    def took(self, waited: float) -> None:
        """Take note that a step has been given to the device, for whose data this process waited so long [seconds]."""
        self._waited.append(waited)
        self._given.append(time.monotonic())

    def at_end(self, call: Callable[[], Any]) -> None:
        """Have something called when this process ends by itself or must, once the others have been told."""
        self._at_end.append(call)

    def __enter__(self) -> "Heartbeat":
        """Begin to beat, and have the last word where jax ends the process."""
        self._thread.start()
        self._take_abort()
        return self

    def _take_abort(self) -> None:
        """Say who is lost where jax calls abort() from a thread of its own, as it does once the coordinator is gone.

        jax's callback for this cannot be Python's (jaxlib 0.10: bad_cast). abort() raises SIGABRT in the thread that calls it,
        so that a handler in Python may run there; Python's own signal handlers would wait for the main thread, for ever.
        """
        if threading.current_thread() is not threading.main_thread() or os.name != "posix":
            return
        libc = ctypes.CDLL(None)
        libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(
            lambda signum: self._end(ABORTED[self._process > 0], alone=True)
        )
        self._before = libc.signal(signal.SIGABRT, ctypes.cast(self._on_abort, ctypes.c_void_p))

    def _give_abort(self) -> None:
        if self._on_abort is not None:
            ctypes.CDLL(None).signal(ctypes.c_int(signal.SIGABRT), ctypes.c_void_p(self._before))
            self._on_abort = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say that this process is done, or what it failed of, and stop watching.

        An error may be another process's death: a collective or a barrier that broke. So until all others have been heard twice
        more (one beat may have been on its way), the watch is given the time to find the dead one; it names it, and ends
        this process.
        """
        heard = {i: other.changes for i, other in self._others.items()}
        while error is not None and not self._ended.wait(self._pause):
            if all(other.state != GOING or other.changes > heard[i] + 1 for i, other in self._others.items()):
                break
        self._state, self._why = (DONE, "") if error is None else (FAILED, _first_line(error))
        self._ended.set()
        self._thread.join()
        self._give_abort()
        self._last_word()
        for call in self._at_end:
            call()

    def _last_word(self) -> None:
        """Beat once more; where this process holds the store, which ends with it, wait until every other one has read that."""
        try:
            self._beat()
            until = time.monotonic() + self._seconds
            while self._process == 0 and self._state in (FAILED, LEFT) and time.monotonic() < until:
                self._take(dict(self._store.key_value_dir_get(FOLDER)))
                if not any(other.state == GOING and not self._lost(other) for other in self._others.values()):
                    break
                time.sleep(self._pause)
        except RuntimeError:
            pass  # the coordinator is gone; what ends this process is said elsewhere

    def _beat(self) -> None:
        self._count += 1
        waits = statistics.fmean(self._waited or [0.0])
        value = f"{self._count}\t{self._step}\t{self._doing}\t{waits:.3f}\t{self._state}\t{self._why}"
        self._store.key_value_set(f"{FOLDER}{self._process}", value, allow_overwrite=True)

    def _watch(self) -> None:
        """Beat and look at the others, until this process has ended or must."""
        heard = time.monotonic()
        while not self._ended.wait(self._pause):
            try:
                self._beat()
                beats = dict(self._store.key_value_dir_get(FOLDER))
                heard = time.monotonic()
            except RuntimeError as error:  # jax's errors of the network
                if time.monotonic() - heard > self._seconds / 2 or self._others.keys() == {0}:
                    return self._end(
                        f"process 0, which coordinates, cannot be reached: {_first_line(error)}", alone=True
                    )
                continue
            self._take(beats)
            failed = {i: other for i, other in self._others.items() if other.state == FAILED}
            silent = [i for i, other in self._others.items() if self._lost(other)]
            if failed:
                return self._end("; ".join(f"process {i} failed: {o.why}" for i, o in failed.items()), OTHER_FAILED)
            if silent:
                return self._end(f"{names(silent)} said nothing for {self._seconds:g} s, and must be taken for dead")
            bounded = self._doing not in (STARTS, SCORES)
            if self._stalled is not None and bounded and heard - self._got_on > self._stalled:
                return self._end(f"no process has begun anything new for {self._stalled:g} s: {self._doings()}")
            self._name_the_slow()
        return None

    def _doings(self) -> str:
        mine = {self._process: self._doing} | {i: other.doing for i, other in self._others.items()}
        return "; ".join(
            f"{names(i for i in mine if mine[i] == what)}: {what}" for what in dict.fromkeys(mine.values())
        )

    def _name_the_slow(self) -> None:
        """Say once, on process 0, which process the others wait for."""
        if self._process > 0 or self._named or len(self._given) < SLOW_STEPS:
            return
        step_seconds = (self._given[-1] - self._given[0]) / (len(self._given) - 1)
        waits = {0: statistics.fmean(self._waited)} | {i: other.waits for i, other in self._others.items()}
        slowest = max(waits, key=lambda i: waits[i])
        usual = statistics.median(seconds for i, seconds in waits.items() if i != slowest)
        if waits[slowest] - usual > SLOW_SHARE * step_seconds:
            self._named = True
            print(
                f"process {slowest} waits {waits[slowest]:.2f} s a step for its data, the others {usual:.2f} s, and all wait "
                "for it. See its disk and what else runs on its host; a larger data.prefetch_batches evens out bursts.",
                file=sys.stderr,
                flush=True,
            )

    def _take(self, beats: Mapping[str, str]) -> None:
        for i, other in self._others.items():
            beat = beats.get(f"{FOLDER}{i}", "")
            if beat != other.beat:
                before = other.step, other.doing
                other.beat, other.since, other.changes = beat, time.monotonic(), other.changes + 1
                _, other.step, other.doing, waits, other.state, other.why = beat.split("\t", 5)
                other.waits = float(waits)
                if (other.step, other.doing) != before:
                    self._got_on = other.since

    def _lost(self, other: _Other) -> bool:
        return other.state == GOING and time.monotonic() - other.since > self._seconds - 2 * self._pause

    def _end(self, why: str, status: int = LOST, alone: bool = False) -> None:
        """Say why, with the last step of each process, and leave; `alone`: there is nobody to tell any more."""
        steps = {self._process: str(self._step)} | {i: other.step for i, other in self._others.items()}
        table = ", ".join(f"{i}: {steps[i]}" for i in sorted(steps))
        once = "once that is mended, " if status == OTHER_FAILED else ""
        print(
            f"error: {why.rstrip('.')}.\n  last steps heard of, by process: {table}.\n"
            f"  Process {self._process} ends; what was saved is kept: {once}the same command on all "
            "processes goes on from the newest checkpoint, or begins anew where none is yet.",
            file=sys.stderr,
            flush=True,
        )
        if not alone:
            self._state = LEFT
            self._last_word()
        for call in self._at_end:
            call()
        self._leave(status)
        self._ended.set()  # reached in tests alone


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    line = (lines[0] if lines else repr(error)).replace("\t", " ")
    return line if len(line) <= WHY_AT_MOST else f"{line[: WHY_AT_MOST - 3]}..."
