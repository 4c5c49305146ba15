"""Serves as `gateway serve` does, without a model; what `--set` says of the engine is played."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from aiohttp import web

from bench.fake import FakeServer, Script


def main() -> None:
    """Write down how it was started, and how many requests there were, to the file $SEEN."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    told = dict(assignment.split("=", 1) for assignment in args.set)
    _note(f"start {' '.join(sorted(args.set))}")
    if told.get("engine.dtype") == "impossible":
        sys.exit("this engine has no such dtype")
    if told.get("engine.dtype") == "endless":
        time.sleep(600)
    slow = told.get("engine.compile") == "off"
    fault = "500" if told.get("engine.quantization") == "broken" else None
    server = FakeServer(Script(token_delay_s=0.02 if slow else 0.0, fault=lambda _number: fault))
    web.run_app(server.app, host=args.host, port=args.port, print=None)
    _note(f"served {len(server.seen.bodies)}")


def _note(line: str) -> None:
    with Path(os.environ["SEEN"]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
