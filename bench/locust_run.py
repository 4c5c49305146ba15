"""What Locust's users send and find: kept here, without Locust, as plain values."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from bench.prompts.words import WORDS


class RefusedAnswerError(Exception):
    """The answer is not a whole completion; the message says what is wrong with it."""


@dataclass(slots=True)
class Answer:
    """One streamed answer. Times in seconds from just before its request was sent."""

    ttft_s: float
    e2el_s: float
    prompt_tokens: int
    completion_tokens: int

    @property
    def tpot_s(self) -> float | None:
        """None where it is not defined."""
        if self.completion_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.completion_tokens - 1)


@dataclass(slots=True)
class Run:
    """One test: what is sent, and what has come back. `left` None: until it is stopped."""

    model: str = ""
    prompts: list[dict[str, Any]] = field(default_factory=list)
    left: int | None = None
    in_flight: int = 0
    taken: int = 0
    failed: int = 0
    answers: list[Answer] = field(default_factory=list)
    first_sent: float = 0.0
    last_ended: float = 0.0

    def take(self, input_tokens: int) -> dict[str, Any] | None:
        """The next request's prompt fields; None where all have been given out."""
        if self.left == 0:
            return None
        self.left = None if self.left is None else self.left - 1
        if not self.taken:
            self.first_sent = perf_counter()
        number = self.taken
        self.taken += 1
        self.in_flight += 1
        if self.prompts:
            return self.prompts[number % len(self.prompts)]
        # About one token a word; the chat template's own come on top.
        text = " ".join(random.choices(WORDS, k=input_tokens))
        return {"messages": [{"role": "user", "content": text}]}

    def ended(self, answer: Answer | None) -> bool:
        """Note a request's end; whether it was the last one."""
        self.last_ended = perf_counter()
        self.in_flight -= 1
        if answer is None:
            self.failed += 1
        else:
            self.answers.append(answer)
        return self.left == 0 and self.in_flight == 0

    def record(self) -> dict[str, Any]:
        """The JSON of --report."""
        return {
            "schema": "bench.locust",
            "schema_version": 1,
            "duration_s": self.last_ended - self.first_sent,
            "succeeded": len(self.answers),
            "failed": self.failed,
            "prompt_tokens": sum(answer.prompt_tokens for answer in self.answers),
            "completion_tokens": sum(answer.completion_tokens for answer in self.answers),
            "ttft_ms": [1000 * answer.ttft_s for answer in self.answers],
            "tpot_ms": [1000 * a.tpot_s for a in self.answers if a.tpot_s is not None],
            "e2el_ms": [1000 * answer.e2el_s for answer in self.answers],
        }


def read_answer(lines: Iterable[bytes], start: float) -> Answer:
    """Read the lines of an event stream as they arrive.

    Raises RefusedAnswerError: an error event, no text, no usage, or no `[DONE]` at the end.
    """
    first: float | None = None
    usage: dict[str, Any] | None = None
    done = False
    for line in lines:
        event = bytes(line).strip()
        if not event.startswith(b"data:"):
            continue
        event = event[5:].strip()
        if event == b"[DONE]":
            done = True
            continue
        chunk = json.loads(event)
        if chunk.get("error"):
            raise RefusedAnswerError(f"error event: {chunk['error']}")
        usage = chunk.get("usage") or usage
        if first is None and any(_text(choice) for choice in chunk.get("choices") or ()):
            first = perf_counter()
    end = perf_counter()
    if not done:
        raise RefusedAnswerError("the stream ended without [DONE]")
    if first is None:
        raise RefusedAnswerError("no chunk carried any text")
    if usage is None:
        raise RefusedAnswerError("the answer states no usage")
    return Answer(first - start, end - start, usage["prompt_tokens"], usage["completion_tokens"])


def _text(choice: dict[str, Any]) -> str:
    found = choice.get("text") or choice.get("delta", {}).get("content") or ""
    return str(found)
