"""One request on its connection, for what ASGI has no words for: writes that never wait, several
that are sent as one, and being told at once that the client has gone or reads again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Scope

_NAME = "gateway.exchange"
Callback = Callable[[], None]


class Exchange:
    """Handed to the application in the scope's extensions, see `of`."""

    bodiless = False
    """Whether the answer is its headers alone."""
    __slots__ = ("_cork", "_cycle", "_on_gone", "on_writable")

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._cork = cycle.transport = Cork(cycle)
        self._on_gone: Callback | None = None
        self.on_writable: Callback | None = None
        cycle.scope.setdefault("extensions", {})[_NAME] = self

    @property
    def body(self) -> bytes | None:
        """The request's body, if all of it is here already, as nearly always."""
        if self._cycle.more_body:
            return None
        body, self._cycle.body = bytes(self._cycle.body), bytearray()
        return body

    @property
    def writable(self) -> bool:
        """Whether the client reads as fast as is written; what is written all the same is kept."""
        return not self._cycle.flow.write_paused

    def write(self, data: bytes) -> None:
        """Write a piece of an answer whose headers told no length, without waiting."""
        if data and not self._cycle.disconnected:
            self._cork.write(b"%x\r\n%b\r\n" % (len(data), data))

    def hold(self) -> None:
        """Send what is written from now on, here or through ASGI, as one piece: with a part of a
        body that comes through ASGI, or at `release`."""
        self._cork.hold()

    def release(self) -> None:
        """Send what is held; harmless where nothing is."""
        self._cork.release()

    def close(self) -> None:
        """The answer is complete: send what is held. Nothing is kept alive by this any more."""
        self.release()
        self._on_gone = self.on_writable = None
        self._cycle.scope.pop("extensions", None)

    def abort(self) -> None:
        """Cut the connection off, so that an answer that isn't whole doesn't look it."""
        self._cycle.transport.abort()

    async def drained(self) -> None:
        """Return once the client reads again, or has gone."""
        await self._cycle.flow.drain()

    def watch(self, on_gone: Callback | None) -> None:
        """Call `on_gone` when the client goes, at once where it has gone; None: no more."""
        self._on_gone = on_gone
        if on_gone is None:
            return
        # A large body has stopped the reading, and who doesn't read doesn't see a hang-up.
        self._cycle.flow.resume_reading()
        if self._cycle.disconnected:
            on_gone()

    def gone(self) -> None:
        """The connection tells that the client has gone."""
        if self._on_gone is not None:
            self._on_gone()

    def resumed(self) -> None:
        """The connection tells that the client reads again."""
        if self.on_writable is not None:
            self.on_writable()


class _Bodiless(Exchange):
    """Of a HEAD request."""

    bodiless = True
    __slots__ = ()

    def write(self, data: bytes) -> None:
        pass


class _Unchunked(Exchange):
    """Of a request in HTTP/1.0, which has no chunks and no `100 Continue`: where no length is told,
    the answer ends with its connection."""

    __slots__ = ("_open_ended", "_send")

    def __init__(self, cycle: Any) -> None:
        super().__init__(cycle)
        cycle.waiting_for_100_continue = cycle.keep_alive = False
        self._open_ended = False
        self._send = cycle.send
        cycle.send = self._send_unchunked

    def write(self, data: bytes) -> None:
        if data and not self._cycle.disconnected:
            self._cork.write(data)

    def close(self) -> None:
        super().close()
        vars(self._cycle).pop("send", None)

    async def _send_unchunked(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if b"content-length" not in names:
                self._open_ended, self._cycle.chunked_encoding = True, False
        elif self._open_ended:
            # uvicorn holds an answer to its length: let it be what is sent.
            self._cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)


class Cork:
    """A transport that can hold back what is written. A write is a system call, which costs more
    than all that led to it."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport: asyncio.Transport = cycle.transport
        self._held: list[bytes] = []
        self.write = self._transport.write

    def hold(self) -> None:
        self.write = self._held.append

    def release(self) -> None:
        self.write = self._transport.write
        if self._held and not self._transport.is_closing():
            self._transport.write(b"".join(self._held))
        self._held.clear()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.release()
        # An answer that came before its request's end would be lost: the connection lingers.
        if not (self._cycle.response_complete and self._cycle.more_body):
            self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()


def begin(cycle: Any) -> Exchange:
    """The exchange of uvicorn's `cycle`, as its request's method and version want it."""
    if cycle.scope["method"] == "HEAD":
        return _Bodiless(cycle)
    return Exchange(cycle) if cycle.scope["http_version"] == "1.1" else _Unchunked(cycle)


def of(scope: Scope) -> Exchange:
    """The exchange of a request."""
    found: Exchange = scope["extensions"][_NAME]
    return found
