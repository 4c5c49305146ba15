"""A server with seats, keys and refusals, which answers by the clock and without a model."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from bench.fake import FakeServer, Script

ADMIN_PATH = "/admin/v1/keys"


class SeatServer(FakeServer):
    """`seats` requests are answered at a time, and `places` may wait for one; the others are
    refused, with `advice` where that isn't empty. Without `keys` it makes none. Faults are
    those of the tenant `failing` only, where it is named."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        seats: int = 4,
        places: int = 1_000,
        advice: Mapping[str, str] | None = None,
        keys: bool = True,
        failing: str = "",
    ) -> None:
        super().__init__(script)
        self.made: list[dict[str, Any]] = []
        self.callers: list[tuple[str | None, str]] = []
        self._seats = asyncio.Semaphore(seats)
        self._room = seats + places
        self._inside = 0
        self._advice = dict(advice or {})
        self._failing = failing
        if keys:
            self.app.router.add_post(ADMIN_PATH, self._make_key)

    async def _make_key(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.made.append(body)
        return web.json_response({"object": "key", "value": f"sk-{body['name']}"})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        headers = request.headers
        self.callers.append((headers.get("Authorization"), headers["x-stainless-retry-count"]))
        if self._inside >= self._room:
            error = {"error": {"message": "full"}}
            return web.json_response(error, status=429, headers=self._advice)
        self._inside += 1
        try:
            async with self._seats:
                return await super()._generate(request)
        finally:
            self._inside -= 1

    async def _answer(
        self, request: web.Request, body: Mapping[str, Any], fault: str
    ) -> web.StreamResponse:
        mine = self._failing in request.headers.get("Authorization", "")
        return await super()._answer(request, body, fault if mine else "")


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--places", type=int, default=1_000)
    parser.add_argument("--fault")
    parser.add_argument("--failing", default="")
    parser.add_argument("--advice", type=json.loads, default={})
    args = parser.parse_args()
    script = Script(
        token_delay_s=0.001, fault=lambda number: args.fault if number % 7 == 0 else None
    )
    server = SeatServer(script, places=args.places, advice=args.advice, failing=args.failing)
    web.run_app(server.app, host="127.0.0.1", port=args.port, print=None)


if __name__ == "__main__":
    main()
