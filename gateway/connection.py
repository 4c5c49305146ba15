"""uvicorn's HTTP connection with the limits it lacks: header size and time, connections, slow
readers; and OpenAI error bodies for what is refused below the application."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.config import ServerConfig
from gateway.errors import APIError, InvalidRequestError, UnavailableError


def bounded_protocol(config: ServerConfig) -> type[HttpToolsProtocol]:
    """A connection class that keeps `config`'s limits; uvicorn wants a class, not an object."""
    return type("BoundedConnection", (_BoundedConnection,), {"limits": config})


class _BoundedConnection(HttpToolsProtocol):
    limits: ClassVar[ServerConfig]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(
                UnavailableError(
                    "The server has too many connections; retry shortly.",
                    retry_after_s=1.0,
                )
            )
            return
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > self.limits.max_header_bytes:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        if self._header_timer is None:
            self._start_header_timer()

    def on_headers_complete(self) -> None:
        self._stop_header_timer()
        self._in_headers = False
        self._header_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.max_header_bytes:
            self._refuse_headers()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequestError(msg, code="invalid_http"))

    def _refuse_headers(self) -> None:
        self._refuse(
            InvalidRequestError(
                f"The request headers are larger than the {self.limits.max_header_bytes} bytes "
                "this server accepts.",
                status=431,
                code="headers_too_large",
            )
        )

    def _headers_late(self) -> None:
        self._refuse(
            InvalidRequestError(
                f"The request headers did not arrive within {self.limits.header_timeout_s:g} s.",
                status=408,
                code="request_timeout",
            )
        )

    def _refuse(self, error: APIError) -> None:
        if self.transport.is_closing():
            return
        body = error.body()
        head = [STATUS_LINE[error.status]]
        head += [
            f"{name}: {value}\r\n".encode("latin-1")
            for name, value in {
                **error.headers,
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
            }.items()
        ]
        self.transport.write(b"".join([*head, b"\r\n", body]))
        self.transport.close()

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_timeout_s, self._headers_late)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
