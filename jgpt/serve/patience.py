"""Connections without a request: closed after a while, so that slow or silent clients hold nothing.

uvicorn bounds how long a connection stays open behind an answer, and not how long a client takes to send a first request, or
the head of a next one, nor to read an answer that was written whole. Bodies have their own bound (`wire`), and streams. Owns
that clock.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 30.0  # in which the whole head of a request must come
LOOKS: Final = 4  # within them


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but a connection that has had no request for `HEAD_SECONDS` is closed.

    One that is closing, and of whose last answer nothing has been read for as long, is dropped with it.
    """

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._asked_at, self._unread = self.loop.time(), 0
        self._look()

    def _look(self) -> None:
        unread, before = self.transport.get_write_buffer_size(), self._unread
        self._unread = unread
        closing = self.transport.is_closing()
        busy = unread != before if closing else self.cycle is not None and not self.cycle.response_complete
        if busy:
            self._asked_at = self.loop.time()
        if self.loop.time() - self._asked_at > HEAD_SECONDS:
            end = self.transport.abort if closing else self.transport.close
            end()
        self._next: asyncio.TimerHandle = self.loop.call_later(HEAD_SECONDS / LOOKS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the waiting."""
        self._next.cancel()
        super().connection_lost(exc)
