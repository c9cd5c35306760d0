"""A cluster on one machine: real processes of `train.py` on CPU, each with its own devices.

Owns the children: their start, their output, and what is said when one is missing. What they do among themselves is
`jgpt.distributed`'s, the same as on a cluster. Imports no jax.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from jgpt.check import require
from jgpt.heartbeat import LOST
from jgpt.rollcall import names

COMMAND: Final = "JGPT_COMMAND"  # the variable that tells a process what to say starts its run again
POLL_SECONDS: Final = 0.05


@dataclass
class Child:
    """A process of the run and the thread that passes on what it says."""

    process: subprocess.Popen[str]
    reader: threading.Thread


class Simulation:
    """The processes of one run, as a context manager; those that still run when it is left are killed.

    Args:
        arguments: of `train.py`: a run card, and overrides.
        processes: to start.
        devices: of each.
        say: called with each line of output.
    """

    def __init__(
        self, arguments: Sequence[str], processes: int, devices: int, say: Callable[[str], Any] = print
    ) -> None:
        require(processes >= 1, f"processes is {processes}: must be at least 1.")
        require(devices >= 1, f"devices-per-process is {devices}: must be at least 1.")
        self._script = Path(__file__).parents[1] / "train.py"
        if not self._script.is_file():
            raise FileNotFoundError(
                f"{self._script} is missing: run from a clone of jgpt, installed with pip install -e ."
            )
        self._arguments, self._count, self._devices, self._say = arguments, processes, devices, say
        self.children: list[Child] = []
        self.unheard = threading.Event()  # nobody takes what is said any more

    def __enter__(self) -> "Simulation":
        """Start all processes."""
        port = free_port()
        try:
            for number in range(self._count):
                self.children.append(self._start(number, port))
        except BaseException:
            self.__exit__()
            raise
        pids = ", ".join(f"{number}: {child.process.pid}" for number, child in enumerate(self.children))
        self._tell(f"processes and their pids: {pids}")
        return self

    def _start(self, number: int, port: int) -> Child:
        place = ["--distributed.coordinator", f"127.0.0.1:{port}", "--distributed.num-processes", str(self._count)]
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={self._devices}".strip()
        process = subprocess.Popen(
            [sys.executable, str(self._script), *self._arguments, *place, "--distributed.process-id", str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": flags,
                "NPROC": _threads(self._count),
                "PYTHONUNBUFFERED": "1",
                COMMAND: f"jgpt simulate --processes {self._count} --devices-per-process {self._devices}",
            },
            start_new_session=True,  # Ctrl-C reaches the children once, through this process
        )
        reader = threading.Thread(target=self._pass_on, args=(number, process.stdout), daemon=True)
        reader.start()
        return Child(process, reader)

    def _pass_on(self, number: int, lines: Any) -> None:
        for line in lines:  # to the end, heard or not: a process must not wait for its pipe to be read
            self._tell(f"[{number}] {line.rstrip()}")

    def _tell(self, line: str) -> None:
        try:
            self._say(line)
        except OSError:  # of a closed pipe
            self.unheard.set()

    def wait(self, grace: float) -> int:
        """Return the exit status of the whole: 0; 75 where a process was lost, whichever; or that of one that ended otherwise.

        The first of those is named at once. Once any has ended the others have `grace` seconds to do so; then they are killed.
        Where nobody hears what they say any more they are asked to save and stop.
        """
        first: float | None = None
        asked = False
        statuses: list[int | None] = [None] * self._count
        while any(status is None for status in statuses):
            for number, child in enumerate(self.children):
                if statuses[number] is None and child.process.poll() is not None:
                    named, statuses[number] = any(statuses), child.process.returncode
                    if child.process.returncode and not named:
                        self._tell(f"process {number} {ending(child.process.returncode)}")
                    first = time.monotonic() if first is None else first
            if self.unheard.is_set() and not asked:
                self.signal(signal.SIGTERM)
                asked, first = True, time.monotonic() if first is None else first
            if first is not None and time.monotonic() - first > grace:
                left = [number for number, status in enumerate(statuses) if status is None]
                self._tell(f"{names(left)} did not end within {grace:g} s and must be killed")
                self.signal(signal.SIGKILL)
                first = float("inf")
            time.sleep(POLL_SECONDS)
        for child in self.children:
            child.reader.join()
        ended = [status or 0 for status in statuses]
        if any(ended):
            self._tell("; ".join(f"process {number} {ending(status)}" for number, status in enumerate(ended)))
        if LOST in ended:
            return LOST  # of those that noticed; the lost one itself ended by some signal
        return next((128 - status if status < 0 else status for status in ended if status), 0)

    def signal(self, signum: int) -> None:
        """Send a signal to every process that still runs."""
        for child in self.children:
            if child.process.poll() is None:
                child.process.send_signal(signum)

    def __exit__(self, *_: object) -> None:
        """Leave no process behind."""
        self.signal(signal.SIGKILL)
        for child in self.children:
            child.process.wait()


def simulate(
    arguments: Sequence[str], processes: int, devices: int, *, grace: float, say: Callable[[str], Any] = print
) -> int:
    """Return the exit status of a run in several processes.

    SIGTERM and Ctrl-C ask all of them to save and stop, a second one kills them.

    Args:
        arguments: as in `Simulation`.
        processes: as in `Simulation`.
        devices: as in `Simulation`.
        grace: seconds in which processes must notice that one is lost.
        say: called with each line of output.

    Raises:
        ValueError: a number is out of range.
        FileNotFoundError: this is no clone of jgpt.
    """
    with Simulation(arguments, processes, devices, say) as simulation:
        asked: list[int] = []

        def stop(signum: int, frame: FrameType | None) -> None:
            del frame
            simulation.signal(signal.SIGKILL if asked else signal.SIGTERM)
            asked.append(signum)

        before = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
        try:
            status = simulation.wait(grace)
            if simulation.unheard.is_set():
                print("nobody reads what the processes say (a closed pipe): they were stopped", file=sys.stderr)
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still holds for it
            return status
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def ending(status: int) -> str:
    """Return how a process ended, in words."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return "is done" if status == 0 else f"ended with status {status}"


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _threads(processes: int) -> str:
    """Return how many threads XLA gives each process: its share of the cores. jax's CPU client reads it from NPROC.

    Processes are not bound to cores: a collective's threads would wait for their turn on them, 4 ms for each.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return str(max(1, cores // processes))
