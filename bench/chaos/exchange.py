"""One request on the wire, and all that its client saw of the answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, Final

import aiohttp

_BUFFER: Final = 4096
_GIVE_UP_S: Final = 180.0
_DATA: Final = b"data: "


@dataclass(frozen=True, slots=True)
class Ask:
    """A request and its client's manners.

    The client hangs up after `hang_up_s`, and reads nothing for `stall_s` once the answer has
    begun. `text` is what a whole answer has to say; None: whatever it likes.
    """

    path: str
    body: bytes
    stream: bool = False
    hang_up_s: float | None = None
    stall_s: float = 0.0
    wrong: bool = False
    text: str | None = None


@dataclass(slots=True)
class Seen:
    """What came back. Times are perf_counter's; `status` 0: not even a head came.

    `whole` is an answer that said it is complete: `[DONE]`, or a body to its end. `error` is the
    code of an error, in an event or a body; `cut` is why it ended otherwise.
    """

    ask: Ask
    asked_at: float
    request_id: str = ""
    status: int = 0
    text: str = ""
    whole: bool = False
    error: str = ""
    usage: tuple[int, int] | None = None
    cut: str = ""
    retry_after_s: float = 0.0
    first_at: float | None = None
    ended_at: float = 0.0

    @property
    def answered(self) -> bool:
        """Whether the client has its whole answer, and no error."""
        return self.status == 200 and self.whole and not self.error

    @property
    def altered(self) -> bool:
        """Whether it isn't the text it has to be."""
        return self.answered and self.ask.text is not None and self.text != self.ask.text


def seen_as(seen: Iterable[Seen]) -> dict[str, int]:
    """How many ended how."""
    return dict(sorted(Counter(map(_kind, seen)).items()))


def _kind(one: Seen) -> str:
    if one.answered:
        return "answered"
    if one.cut:
        return "hung up" if one.cut == "hung up" else "cut off"
    return one.error or f"HTTP {one.status}"


class Client:
    """Asks one server, each request on a connection of its own."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self._ordinary = _session(headers, aiohttp.TCPConnector(limit=0, force_close=True))
        # The kernel would take megabytes for a client that reads nothing.
        tight = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_tight)
        self._tight = _session(headers, tight)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._ordinary.close()
        await self._tight.close()

    async def ask(self, ask: Ask) -> Seen:
        """Send it and read the answer in its client's manner. Raises nothing."""
        seen = Seen(ask, perf_counter())
        await self.follow(seen)
        return seen

    async def follow(self, seen: Seen) -> None:
        """As `ask`, for somebody who looks on."""
        ask = seen.ask
        try:
            async with asyncio.timeout(ask.hang_up_s or _GIVE_UP_S):
                await self._converse(ask, seen)
        except TimeoutError:
            seen.cut = "hung up" if ask.hang_up_s else f"not whole after {_GIVE_UP_S:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            seen.cut = type(error).__name__
        seen.ended_at = perf_counter()

    async def get(self, path: str, timeout_s: float = 5.0) -> tuple[int, str]:
        """Status and body; (0, why) where the server can't be asked."""
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._ordinary.get(self.url + path) as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return 0, type(error).__name__

    async def _converse(self, ask: Ask, seen: Seen) -> None:
        session = self._tight if ask.stall_s else self._ordinary
        headers = {"content-type": "application/json"}
        url = self.url + ask.path
        async with session.post(url, data=ask.body, headers=headers) as answer:
            seen.status = answer.status
            seen.request_id = answer.headers.get("x-request-id", "")
            seen.retry_after_s = float(answer.headers.get("retry-after", 0))
            if answer.content_type != "text/event-stream":
                _body(await answer.read(), seen)
                return
            async for line in answer.content:
                if line.startswith(_DATA):
                    await _event(line[len(_DATA) :].strip(), seen)
            if not seen.whole and not seen.error:
                seen.cut = "ended without an end"


async def _event(content: bytes, seen: Seen) -> None:
    if seen.first_at is None:
        seen.first_at = perf_counter()
        await asyncio.sleep(seen.ask.stall_s)
    if content == b"[DONE]":
        seen.whole = True
        return
    event = json.loads(content)
    if "error" in event:
        seen.error = _code(event["error"])
    else:
        _take(event, seen)


def _body(content: bytes, seen: Seen) -> None:
    answer = json.loads(content)
    if "error" in answer:
        seen.error = _code(answer["error"])
        return
    _take(answer, seen)
    seen.whole = True


def _take(part: dict[str, Any], seen: Seen) -> None:
    for choice in part["choices"]:
        if choice["index"] == 0:
            said = choice.get("delta") or choice.get("message") or {}
            seen.text += said.get("content") or choice.get("text") or ""
    if usage := part.get("usage"):
        seen.usage = usage["prompt_tokens"], usage["completion_tokens"]


def _code(error: dict[str, Any]) -> str:
    return str(error.get("code") or error.get("type"))


def _session(
    headers: dict[str, str] | None, connector: aiohttp.TCPConnector
) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None)
    return aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout)


def _tight(address: Sequence[Any]) -> socket.socket:
    family, kind, protocol = address[0], address[1], address[2]
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    return opened
