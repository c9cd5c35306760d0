"""Between the engine's thread and a client's connection: what was written goes over, and who has left is noticed.

Owns reading a body within its limits, waiting for an answer, and server-sent events. Refuses to know what is said.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from jgpt.serve.errors import RefusedError
from jgpt.serve.job import Job, Update

T = TypeVar("T")
BODY_SECONDS: Final = 30  # for a body to arrive


class ClientGoneError(Exception):
    """The client has closed the connection."""


@runtime_checkable
class Build(Protocol):
    """What becomes of updates: an `Answer` or a `Drawing`."""

    def add(self, index: int, update: Update) -> None:
        """Take an update."""
        ...

    def whole(self) -> dict[str, Any]:
        """Return the finished answer."""
        ...

    def begin(self) -> Any:
        """Yield the objects that a stream begins with."""
        ...

    def next(self, index: int, update: Update) -> Any:
        """Take an update, and yield the objects it makes."""
        ...

    def end(self) -> Any:
        """Yield the objects that a stream ends with."""
        ...


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request.

    Raises:
        RefusedError: by its own account it is no JSON, or packed (415), it is longer than `most` bytes (413), or does not
            come (408).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # also keeps out forms that a page elsewhere may send unasked
        raise RefusedError(415, f"the body is {kind or 'of no type'}: send application/json.")
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed != "identity":
        raise RefusedError(415, f"the body is said to be packed by {packed[:40]!r}: send it as it is.")
    told = request.headers.get("content-length", "0")
    body = bytearray()
    too_large = RefusedError(
        413, f"the body has more than {most} bytes, the most this server takes.", code="body_too_large"
    )
    if not told.isdigit() or int(told) > most:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise RefusedError(408, f"the body did not arrive within {BODY_SECONDS} s.") from None
    return bytes(body)


class Mailbox:
    """Updates of one request's jobs, from the engine's thread to the event loop.

    Args:
        observe: called with the seconds until the first update.
    """

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Update]]()
        self._began, self._observe = time.monotonic(), observe
        self._first = True

    def put(self, index: int, update: Update) -> None:
        """Hand over an update; called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, update))
        except RuntimeError:  # the loop has ended: nobody is left to be told
            return

    async def updates(self, jobs: int) -> AsyncIterator[tuple[int, Update]]:
        """Yield (number of the job, update) until all jobs have ended. Raises what a job failed with."""
        while jobs:
            index, update = await self._queue.get()
            if update.error is not None:
                raise update.error
            if self._first:
                self._first = False
                self._observe(time.monotonic() - self._began)
            jobs -= update.last
            yield index, update


class Reply(Response):
    """The answer to a request, whole or as events, as long as the client is there.

    Args:
        jobs: of the request; those that still run are cancelled when this ends, however it ends.
        mailbox: where their updates arrive.
        build: what becomes of them.
        stream: send events, else one JSON object.
        done: event that ends the stream; empty for none.
        named: give every event its type as its name.
        seconds: that a client may take to accept a piece.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        mailbox: Mailbox,
        build: Build,
        *,
        stream: bool,
        done: str = "",
        named: bool = False,
        seconds: float,
    ) -> None:
        super().__init__()
        self._jobs, self._mailbox, self._build, self._stream = jobs, mailbox, build, stream
        self._done, self._named, self._seconds = done, named, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        gone = asyncio.ensure_future(_left(receive))
        try:
            if self._stream:
                await self._events(gone, send)
            else:
                async for index, update in _while_there(self._mailbox.updates(len(self._jobs)), gone):
                    self._build.add(index, update)
                await JSONResponse(self._build.whole())(scope, receive, send)
        except ClientGoneError:
            pass
        finally:
            gone.cancel()
            for job in self._jobs:
                job.cancel()

    async def _events(self, gone: "asyncio.Future[None]", send: Send) -> None:
        """Send events; an error before the first one is an ordinary answer, later it is an event."""
        updates = _while_there(self._mailbox.updates(len(self._jobs)), gone)
        first = await anext(updates)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def write(*objects: Any, more: bool = True) -> None:
            data = b"".join(self._event(each) for each in objects)
            message = {"type": "http.response.body", "body": data, "more_body": more}
            await asyncio.wait_for(send(message), self._seconds)

        try:
            await write(*self._build.begin(), *self._build.next(*first))
            async for index, update in updates:
                await write(*self._build.next(index, update))
            await write(*self._build.end(), *([self._done] if self._done else []), more=False)
        except RefusedError as error:
            await write(error.body, more=False)
        except TimeoutError:
            raise ClientGoneError from None  # it is there, but does not read

    def _event(self, value: Any) -> bytes:
        data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        name = f"event: {value['type']}\n" if self._named and isinstance(value, dict) and "type" in value else ""
        return f"{name}data: {data}\n\n".encode()


async def _left(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _while_there(values: AsyncIterator[T], gone: "asyncio.Future[None]") -> AsyncIterator[T]:
    """Yield the values. Raises ClientGoneError as soon as the client has left."""
    while True:
        following: Awaitable[T] = anext(values)
        task = asyncio.ensure_future(following)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if not task.done():
            raise ClientGoneError
        try:
            yield task.result()
        except StopAsyncIteration:
            return
