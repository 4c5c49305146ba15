"""A server whose model's probabilities are known, and the command that judges it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.cli.command import Exit
from bench.errors import BenchError
from bench.quality.__main__ import quality as command
from bench.quality.options import parser

MODEL = "known"
BOS = 1


@dataclass
class Known:
    """A server whose model gives a token of id t the probability exp(-t/4), whatever precedes it.

    A word is a token, its id the word's length. `shift` is added to the log-probabilities of a
    whole prompt; `answers` maps a question to its answer.
    """

    prefix: tuple[int, ...] = ()
    shift: Callable[[list[int]], float] = lambda _tokens: 0.0
    token: Callable[[str], int] = len
    echoes: bool = True
    max_model_len: int = 4096
    answers: dict[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL, "max_model_len": self.max_model_len}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        tokens = [self.token(word) for word in body["prompt"].split()]
        prefix = list(self.prefix) if body["add_special_tokens"] else []
        return web.json_response({"tokens": prefix + tokens})

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        if isinstance(body["prompt"], str):
            return self._answered({"text": self.answers.get(body["prompt"])})
        assert (body["echo"], body["max_tokens"]) == (True, 0)
        tokens = body["prompt"]
        values = [None, *(-token / 4 + self.shift(tokens) for token in tokens[1:])]
        logprobs = {"token_logprobs": values} if self.echoes else None
        return web.json_response({"choices": [{"logprobs": logprobs}]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        text = self.answers.get(body["messages"][-1]["content"])
        return self._answered({"message": {"content": text}}, text is None)

    def _answered(self, choice: dict[str, Any], refused: bool = False) -> web.Response:
        if refused:
            return web.json_response({"error": {"message": "not [known]"}}, status=400)
        return web.json_response({"choices": [choice]})


async def quality(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and the error of the command, run in this process."""
    out = io.StringIO()
    args = parser().parse_args(["--quiet", *map(str, arguments)])
    try:
        with redirect_stdout(out):
            code = await command(args)
    except BenchError as error:
        return Exit.UNUSABLE, out.getvalue(), str(error)
    return code, out.getvalue(), ""


async def measured(url: str, file: Path, *arguments: str | Path) -> dict[str, Any]:
    """The record of a run that succeeds."""
    code, _, err = await quality("--base-url", url, "--json", file, *arguments)
    assert code == 0, err
    record = json.loads(content(file))
    assert isinstance(record, dict)
    return record


def content(file: Path) -> str:
    return file.read_text("utf-8")


def lines(file: Path, *entries: Any) -> Path:
    """`entries` as JSONL."""
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file
