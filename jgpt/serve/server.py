"""The process: sockets, signals, and the order in which things start and end.

Owns uvicorn's settings. On SIGTERM or Ctrl-C it accepts nothing new, finishes what runs within its grace, and returns; a second
signal ends at once. Refuses to know requests.
"""

import asyncio
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn

from jgpt.check import require
from jgpt.completion import Model
from jgpt.serve.app import Limits, Service
from jgpt.serve.engine import Engine
from jgpt.serve.patience import PatientProtocol
from jgpt.serve.planning import Planner

LAST_WORDS: Final = 2  # seconds in which answers that were broken off are told so
KEEP_ALIVE: Final = 30  # seconds that a connection without a request stays open


class Server(uvicorn.Server):
    """uvicorn, but a signal ends it well: with the answers finished, and without being raised again."""

    def __init__(self, config: uvicorn.Config, service: Service, grace: float) -> None:
        super().__init__(config)
        self._service, self._grace = service, grace

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: `stopping` has them."""
        yield

    def stop(self) -> None:
        """Accept nothing new, and leave when what runs is finished, or the grace is over."""
        self._service.draining = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what runs; what is left after the grace is told that it will not be finished."""
        over = asyncio.get_running_loop().call_later(
            self._grace, self._service.engine.abort, f"the server has stopped, {self._grace:g} s after it was asked to."
        )
        await super().shutdown(sockets)
        over.cancel()


@contextmanager
def stopping(server: Server) -> Iterator[None]:
    """Have SIGTERM and SIGINT stop the server; the second one ends the process at once."""

    def handle(signum: int, frame: FrameType | None) -> None:
        del frame
        if server.should_exit:
            os.write(2, b"\nstopped at once\n")
            os._exit(128 + signum)
        os.write(2, b"\nstopping: finishing what runs (again to leave at once)\n")
        server.stop()

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; until it listens, clients are turned away rather than kept waiting.

    Raises:
        ValueError: nobody can listen there.
    """
    require(0 <= port < 2**16, f"port is {port}: use 1 to {2**16 - 1}, or 0 for any that is free.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --host or --port."
        ) from None
    return listener


def make(
    model: Model, name: str, *, step: int, slots: int, queue: int, limits: Limits, longest_output: int | None
) -> tuple[Planner, Engine, Callable[[], Service]]:
    """Return the parts of a server; the service needs a running engine."""
    require(limits.seconds > 0, f"timeout is {limits.seconds}: must be above 0 seconds.")
    require(limits.body >= 1, f"max_body is {limits.body}: must be at least 1 byte.")
    planner = Planner(model, name, longest_output)
    engine = Engine(planner.make_slots(slots), queue=queue)
    return planner, engine, lambda: Service(planner, engine, limits, step=step)


def serve(
    model: Model,
    name: str,
    *,
    step: int,
    host: str = "127.0.0.1",
    port: int = 8000,
    slots: int = 16,
    queue: int = 64,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    longest_output: int | None = None,
    grace: float = 30.0,
    say: Callable[[str], Any] = lambda text: print(text, file=sys.stderr, flush=True),
) -> None:
    """Serve a model until a signal comes.

    Args:
        model: to serve.
        name: by which clients know it.
        step: of its checkpoint.
        host: address to listen on.
        port: to listen on; 0 = any that is free.
        slots: rows decoded at once.
        queue: samples that may wait.
        limits: of requests.
        longest_output: tokens that a request may ask for; None = as the context allows.
        grace: seconds in which what runs is finished after a signal.
        say: called with what the operator should know.

    Raises:
        ValueError: a number is out of range, or the address is taken.
    """
    require(0 <= grace < math.inf, f"grace is {grace}: must be at least 0 seconds, and an end.")
    listener = listen(host, port)  # before minutes of compiling
    with listener:
        _, engine, service_of = make(
            model, name, step=step, slots=slots, queue=queue, limits=limits, longest_output=longest_output
        )
        for what in engine.slots.warm_up():
            say(f"compiling: {what}")
        with engine:
            service = service_of()
            config = uvicorn.Config(
                service.app(),
                log_level="warning",
                access_log=False,
                lifespan="off",
                http=PatientProtocol,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=int(grace) + LAST_WORDS,
                server_header=False,
            )
            server = Server(config, service, grace)
            address, at = listener.getsockname()[:2]
            shown = f"[{address}]" if ":" in address else address
            with stopping(server):
                say(f"ready: http://{shown}:{at}/  (model {name!r}, {slots} slots; Ctrl-C stops)")
                server.run([listener])
        say("stopped")
