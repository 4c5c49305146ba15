"""The events of a background response, sent to whoever wants to see them."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import exchange
from gateway.responses.background import Told
from gateway.sse import STREAM_HEADERS

AT_ONCE = 256


class Following(Response):
    """What is `told` of a response, from event number `begin` on: what there is, then each event
    as it comes.

    A client that goes, or reads slowly, is nothing to the response.
    """

    def __init__(self, told: Told, begin: int = 0) -> None:
        super().__init__()
        self._told = told
        self._begin = begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told, sent, gone = self._told, self._begin, False
        where, news = exchange.of(scope), told.follow()

        def leave() -> None:
            nonlocal gone
            gone = True
            news.set()

        where.watch(leave)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            while not (gone or where.bodiless):
                ended = told.ended
                events = (told.log or [])[sent : sent + AT_ONCE]
                where.write(b"".join(events))
                where.release()
                sent += len(events)
                await where.drained()
                if events:
                    continue
                if ended:
                    break
                await news.wait()
                news.clear()
        finally:
            where.watch(None)
            told.unfollow(news)
        await send({"type": "http.response.body", "body": b""})
