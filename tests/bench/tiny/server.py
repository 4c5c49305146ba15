"""A server that answers with the tiny model's walk, without an engine, and can be made to err."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.tiny.model import END, TinyModel, make
from bench.tiny.walk import Foretold, foretell

Answers = list[Foretold]


def honest(answers: Answers, _stream: bool) -> Answers:
    return answers


class WalkServer:
    """Its temperature is always 0. `alter` may change the choices of an answer; `gauge` is what
    `/metrics` says is still running."""

    def __init__(
        self, model: TinyModel, alter: Callable[[Answers, bool], Answers] = honest, gauge: int = 0
    ) -> None:
        self._model = model
        self._alter = alter
        self._gauge = gauge
        self.app = web.Application()
        self.app.router.add_post("/v1/chat/completions", self._generate)
        self.app.router.add_post("/v1/completions", self._generate)
        self.app.router.add_get("/health", self._metrics)
        self.app.router.add_get("/metrics", self._metrics)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text=f"gateway_requests_running {self._gauge}\n")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            prompts = self._prompts(body)
        except (KeyError, TypeError, ValueError):
            return web.json_response({"error": {"message": "wrong"}}, status=400)
        answers = [
            self._choice(prompt, body) for prompt in prompts for _ in range(body.get("n", 1))
        ]
        answers = self._alter(answers, bool(body.get("stream")))
        usage = {
            "prompt_tokens": sum(map(len, prompts)),
            "completion_tokens": sum(one.completion_tokens for one in answers),
        }
        if not body.get("stream"):
            told = [
                {"index": index, "finish_reason": one.finish_reason, "text": one.text}
                for index, one in enumerate(answers)
            ]
            return web.json_response({"choices": told, "usage": usage})
        return await _stream(request, answers, usage)

    def _prompts(self, body: dict[str, Any]) -> list[list[int]]:
        """Raises ValueError and its like for what is no request for the tiny model."""
        if body["model"] != "tiny" or body.get("temperature", 0) < 0:
            raise ValueError
        if isinstance(body.get("messages"), list):
            prompts = [self._model.prompt(body["messages"][0]["content"])]
        else:
            given = body["prompt"]
            single = isinstance(given, str) or isinstance(given[0], int)
            prompts = [self._tokens(one) for one in ([given] if single else given)]
        if not all(0 < len(prompt) < 4096 for prompt in prompts):
            raise ValueError
        return prompts

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return list(self._model.tokenizer.encode(prompt).ids)
        return prompt

    def _choice(self, prompt: list[int], body: dict[str, Any]) -> Foretold:
        start = prompt[-1] if prompt[-1] in self._model.successors else END
        stop = body.get("stop", [])
        return foretell(
            self._model,
            start,
            max_tokens=body.get("max_completion_tokens") or body["max_tokens"],
            min_tokens=body.get("min_tokens", 0),
            ending={*body.get("stop_token_ids", ()), *([] if body["ignore_eos"] else [END])},
            stop=[stop] if isinstance(stop, str) else stop,
        )


async def _stream(
    request: web.Request, answers: Answers, usage: dict[str, int]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    events: list[dict[str, Any]] = []
    for index, one in enumerate(answers):
        pieces = [one.text[place : place + 3] for place in range(0, len(one.text), 3)]
        events += [{"choices": [{"index": index, "text": piece}]} for piece in pieces]
        last = {"index": index, "text": "", "finish_reason": one.finish_reason}
        events.append({"choices": [last]})
    events.append({"choices": [], "usage": usage})
    for event in [*map(json.dumps, events), "[DONE]"]:
        await response.write(f"data: {event}\n\n".encode())
    return response


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--gauge", type=int, default=0)
    args = parser.parse_args()
    server = WalkServer(make(args.model), gauge=args.gauge)
    web.run_app(server.app, host="127.0.0.1", port=args.port, print=None)


if __name__ == "__main__":
    main()
