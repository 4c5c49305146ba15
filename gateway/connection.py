"""uvicorn's HTTP connection with the limits it lacks: header size and time, connections, slow
readers; and OpenAI error bodies for what is refused below the application.

A client that ends its sending side counts as gone, as with most proxies: on TCP nothing but a
write tells the two apart, and an abandoned generation is dearer than a half-closed client.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from gateway import exchange
from gateway.asgi import API_VERSION
from gateway.config import ServerConfig
from gateway.cors import refusal_headers
from gateway.dialect import error_body
from gateway.errors import APIError, InvalidRequestError, UnavailableError
from gateway.ids import new_request_id

LINGER_S = 5.0
# Requests, and bytes of the body of one, that may wait behind the one that is answered. Who sends
# more has the connection closed behind what was taken; each would cost memory, and no key.
MAX_PIPELINED = 32
MAX_PIPELINED_BODY = 65_536
_UPGRADE = re.compile(rb"(?i)\r\nupgrade:[^\r\n]*")


def bounded_protocol(config: ServerConfig) -> type[HttpToolsProtocol]:
    """A connection class that keeps `config`'s limits; uvicorn wants a class, not an object."""
    return type("BoundedConnection", (_BoundedConnection,), {"limits": config})


class _BoundedConnection(HttpToolsProtocol):
    limits: ClassVar[ServerConfig]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self.url = b""
        self._header_bytes = 0
        self._in_headers = True
        self._in_request = False
        self._discarding = False
        self._answering: RequestResponseCycle | None = None
        self._exchange: exchange.Exchange | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(
                UnavailableError(
                    "The server has too many connections; retry shortly.", retry_after_s=1.0
                )
            )
            self.transport.close()  # lingering would keep it among those that are too many
            return
        self._start_header_timer()

    def eof_received(self) -> None:
        self._client_gone()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        self._stop_write_timer()
        self._client_gone()
        self._stop_flush_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over():
            return
        if self._in_headers:
            self._header_bytes += len(data)
            data = _without_upgrade(data)
        super().data_received(data)
        if self._is_over():
            return
        if not (self._in_request or self._owes_answer() or self._header_timer):
            # Bytes between requests, such as a lone line end, must not keep a connection open.
            self._start_header_timer()
        if self._in_headers and self._header_bytes > self.limits.max_header_bytes:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._is_over():
            return
        self._in_headers = self._in_request = True
        if self._header_timer is None:
            self._start_header_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:  # what comes after the body, trailers, would grow without limit
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_over():
            return
        self._stop_header_timer()
        self._in_headers = False
        self._header_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.max_header_bytes:
            self._refuse_headers()
            return
        if self.parser.should_upgrade():
            # The parser takes what follows for no body, but another request.
            self._refuse(
                InvalidRequestError(
                    "No other protocol is spoken here; send the request without 'Upgrade'.",
                    code="invalid_http",
                )
            )
            return
        if len(self.pipeline) == MAX_PIPELINED:
            self._discarding = True
            return
        super().on_headers_complete()
        # uvicorn stops reading behind a pipelined request, and so would miss a hang-up.
        self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        if self._is_over():
            return
        super().on_body(body)
        if self.pipeline and len(self.cycle.body) > MAX_PIPELINED_BODY:
            self.pipeline.popleft()
            self._discarding = True
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        self._in_request = False
        if self._is_over():
            return
        super().on_message_complete()
        self._in_headers = True

    def on_response_complete(self) -> None:
        cycle = self._answering
        if self._exchange is not None:
            self._exchange.close()  # before anything else is written, or the connection ended
        super().on_response_complete()
        self._expect_flush()
        if self.transport.is_closing() or cycle is None or self._owes_answer():
            return
        if cycle.more_body or self._discarding:
            self._linger()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        self._expect_flush()
        super().resume_writing()
        if self._exchange is not None:
            self._exchange.resumed()

    def _unsupported_upgrade_warning(self) -> None:
        """It was refused."""

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequestError(msg, code="invalid_http"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        self._exchange = exchange.begin(cycle)
        super()._start_asgi_task(cycle, app)

    def _is_over(self) -> bool:
        """Whether nothing more is read: the connection is closed, or its last answer is given."""
        return self._discarding or self.transport.is_closing()

    def _owes_answer(self) -> bool:
        cycle = self._answering
        return cycle is not None and not (cycle.response_complete or cycle.disconnected)

    def _client_gone(self) -> None:
        """uvicorn would tell only the newest of pipelined requests, and only later."""
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if self._exchange is not None:
                self._exchange.gone()
            self._expect_flush()

    def _linger(self) -> None:
        """The answer came before the request's end: let the client read it, then close. Closing
        with unread bytes resets the connection, and the answer is lost."""
        self._stop_header_timer()
        self._unset_keepalive_if_required()
        self._discarding = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

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
        if not self._header_bytes:
            self.transport.close()  # nothing was asked, nothing is answered
            return
        self._refuse(
            InvalidRequestError(
                f"The request headers did not arrive within {self.limits.header_timeout_s:g} s.",
                status=408,
                code="request_timeout",
            )
        )

    def _refuse(self, error: APIError) -> None:
        """Answer what the application is not to see the end of, and read no more."""
        if self._is_over():
            return
        cycle = self._answering
        if cycle is not None and self._owes_answer():
            if not cycle.more_body:
                # Requests that are whole are answered still.
                if self.pipeline and self.cycle.more_body:
                    self.pipeline.popleft()
                self._discarding = True
                return
            if cycle.response_started:
                self._client_gone()
                self.transport.close()  # nothing may be written into the answer under way
                return
            cycle.scope["state"]["status"] = error.status
            self._client_gone()
        self._write_error(error)
        self._expect_flush()
        self._linger()

    def _write_error(self, error: APIError) -> None:
        request_id = new_request_id()
        body = error_body(error, self.url.decode("latin-1").partition("?")[0], request_id)
        version, date = API_VERSION
        head = [STATUS_LINE[error.status]]
        head += [
            f"{name}: {value}\r\n".encode("latin-1")
            for name, value in {
                **error.headers,
                **refusal_headers(self.limits.cors, self.headers or ()),
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
                "x-request-id": request_id,
                version.decode(): date.decode(),
            }.items()
        ]
        self.transport.write(b"".join([*head, b"\r\n", body]))

    def _expect_flush(self) -> None:
        """Cut the client off if it takes nothing of what is left to write after an answer; while
        one is written, a full buffer tells."""
        self._stop_flush_timer()
        left = self.transport.get_write_buffer_size()
        if left and not self._owes_answer():
            self._flush_timer = self.loop.call_later(
                self.limits.write_timeout_s, self._look_at_flush, left
            )

    def _look_at_flush(self, before: int) -> None:
        if not self._owes_answer() and self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._expect_flush()

    def _stop_flush_timer(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

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


def _without_upgrade(data: bytes) -> bytes:
    """httptools drops the body of a request that offers an upgrade, as h2c clients do; no
    upgrade is taken here."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + rest
