"""`python -m bench.fake --port N`: a scripted OpenAI-compatible server without a model.

It shows what the client itself costs, and plays every fault the client has to notice. Its
tokenizer counts one token a word (two for words beyond six letters) and its chat template
adds three tokens a message and two at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MODEL = "fake-model"


@dataclass(slots=True)
class Script:
    """How the server behaves; `text_cost` is its tokenizer.

    `fault` names what to do to a request, by its number from 1: 500, hang, reset,
    not_sse, cut, error_event, no_done, no_usage, no_text, wrong_prompt, wrong_completion.
    `gate` is awaited before each answer.
    """

    fault: Callable[[int], str | None] = lambda _number: None
    gate: Callable[[], Awaitable[None]] | None = None
    tokenizer: bool = True
    system_messages: bool = True
    api_key: str | None = None
    models: tuple[str, ...] = (MODEL,)
    max_model_len: int = 4096
    tokens_per_chunk: int = 1
    token_delay_s: float = 0.0
    text_cost: Callable[[str], int] = lambda text: sum(
        2 if len(word) > 6 else 1 for word in text.split()
    )


@dataclass(slots=True)
class Seen:
    """What the server saw. `bodies` are the generation requests, in order of arrival."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    tokenized: int = 0
    in_flight: int = 0
    peak: int = 0


class FakeServer:
    """The application, its script, and what it saw."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.seen = Seen()
        self.app = web.Application(middlewares=[self._authorised])
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get("/version", self._version)
        self.app.router.add_get("/readyz", self._ready)
        self.app.router.add_post("/v1/chat/completions", self._generate)
        self.app.router.add_post("/v1/completions", self._generate)
        if self.script.tokenizer:
            self.app.router.add_post("/tokenize", self._tokenize)

    def count(self, body: Mapping[str, Any]) -> int:
        """Prompt tokens of a request, template included."""
        cost = self.script.text_cost
        if "messages" not in body:
            return 1 + cost(body["prompt"])
        messages = body["messages"]
        return 2 + sum(3 + cost(message["content"]) for message in messages)

    @web.middleware
    async def _authorised(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        key = self.script.api_key
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            return _error(401, "wrong key")
        return await handler(request)

    async def _models(self, _request: web.Request) -> web.Response:
        limit = self.script.max_model_len
        entries = [
            {"id": name, "object": "model", "max_model_len": limit} for name in self.script.models
        ]
        return web.json_response({"object": "list", "data": entries})

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "1.2.3"})

    async def _ready(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.tokenized += 1
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        return web.json_response({"count": self.count(body), "tokens": []})

    def _refusal(self, body: Mapping[str, Any]) -> web.Response | None:
        if body.get("model") not in self.script.models:
            return _error(404, "no such model")
        roles = {message["role"] for message in body.get("messages", ())}
        if "system" in roles and not self.script.system_messages:
            return _error(400, "System role not supported")
        return None

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        self.seen.bodies.append(body)
        fault = self.script.fault(len(self.seen.bodies)) or ""
        self.seen.in_flight += 1
        self.seen.peak = max(self.seen.peak, self.seen.in_flight)
        try:
            if self.script.gate is not None:
                await self.script.gate()
            return await self._answer(request, body, fault)
        finally:
            self.seen.in_flight -= 1

    async def _answer(
        self, request: web.Request, body: Mapping[str, Any], fault: str
    ) -> web.StreamResponse:
        usage = {
            "prompt_tokens": self.count(body) + (fault == "wrong_prompt"),
            "completion_tokens": body["max_tokens"] - (fault == "wrong_completion"),
        }
        if fault == "500":
            return _error(500, "scripted [failure]")
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "reset":
            _abort(request)
        if fault == "not_sse":
            return web.json_response({"hello": "world"})
        if not body.get("stream"):
            message = {"role": "assistant", "content": " word" * body["max_tokens"]}
            answer: dict[str, Any] = {"choices": [{"index": 0, "message": message}]}
            return web.json_response(answer | ({} if fault == "no_usage" else {"usage": usage}))
        return await self._stream(request, body, usage, fault)

    async def _stream(
        self,
        request: web.Request,
        body: Mapping[str, Any],
        usage: Mapping[str, int],
        fault: str,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunk = _text_chunk("messages" in body, "" if fault == "no_text" else " word")
        for written in range(0, body["max_tokens"], self.script.tokens_per_chunk):
            if self.script.token_delay_s:
                await asyncio.sleep(self.script.token_delay_s)
            if fault == "cut" and written:
                _abort(request)
            await response.write(chunk)
        if fault == "error_event":
            await response.write(b'data: {"error": {"message": "engine died"}}\n\n')
            return response
        if fault != "no_usage":
            final = {"choices": [], "usage": usage}
            await response.write(b"data: " + json.dumps(final).encode() + b"\n\n")
        if fault != "no_done":
            await response.write(b"data: [DONE]\n\n")
        return response


def _text_chunk(chat: bool, text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text}
    chunk = {"id": "cmpl-0123456789abcdef", "model": MODEL, "choices": [choice], "usage": None}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench.fake", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tokens-per-chunk", type=int, default=1, metavar="N")
    parser.add_argument("--token-delay", type=float, default=0.0, metavar="S")
    args = parser.parse_args()
    script = Script(tokens_per_chunk=args.tokens_per_chunk, token_delay_s=args.token_delay)
    web.run_app(FakeServer(script).app, host="127.0.0.1", port=args.port, print=None)


if __name__ == "__main__":
    main()
