"""The walking server as a program that lists its model, and errs when it is told to."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from bench.tiny.model import TinyModel, make
from tests.bench.tiny.server import Answers, WalkServer, honest


def wrong(answers: Answers, _stream: bool) -> Answers:
    return [replace(one, text=f"{one.text}?") for one in answers]


class FrontEnd(WalkServer):
    """Serves the tiny model under the name that the benchmark asks for."""

    def __init__(self, model: TinyModel, *, errs: bool = False) -> None:
        super().__init__(model, wrong if errs else honest)
        self.app.router.add_get("/v1/models", self._models)

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny", "object": "model"}]})


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--errs", action="store_true")
    args = parser.parse_args()
    app = FrontEnd(make(args.model), errs=args.errs).app
    web.run_app(app, host="127.0.0.1", port=args.port, print=None)


if __name__ == "__main__":
    main()
