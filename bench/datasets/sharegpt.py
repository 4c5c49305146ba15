"""Recorded conversations: ShareGPT's form, or OpenAI's messages, as JSON or a JSON object a line.

Of each conversation all that comes before the model's first answer is sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp

from bench.client import Target
from bench.datasets.files import read_objects
from bench.errors import BenchError
from bench.measuring.facts import ServerFacts
from bench.measuring.settings import Settings
from bench.prompts.counting import PromptRefusedError, TokenCounter, find_counter
from bench.prompts.lengths import longest
from bench.prompts.prompt import Prompt, Workload

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_CHARACTERS_PER_TOKEN = 4
_MOST = 2000  # so many are got ready for a run whose length is given in seconds
_COUNTS_AT_ONCE = 8
_EXPECTED = (
    'expected objects such as {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", '
    '"value": "…"}]} or {"messages": [{"role": "user", "content": "…"}, …]}'
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is sent, and what was answered when it was recorded (empty: that isn't known)."""

    messages: tuple[Mapping[str, str], ...]
    answer: str

    def fields(self, endpoint: str) -> dict[str, Any]:
        if endpoint == "chat":
            return {"messages": list(self.messages)}
        return {"prompt": "\n\n".join(message["content"] for message in self.messages)}


_PROBE = Conversation(({"role": "user", "content": "hello"},), "")


def read_conversations(path: Path) -> list[Conversation]:
    """Those with something to send. Raises BenchError: there are none, or it is another file."""
    found = [_conversation(one) for one in read_objects(path)]
    usable = [one for one in found if one is not None]
    if not usable:
        raise BenchError(f"--dataset-path {path}: no conversation in it can be used; {_EXPECTED}")
    return usable


async def prepare(
    session: aiohttp.ClientSession, target: Target, settings: Settings, server: ServerFacts
) -> Workload:
    """In an order drawn by the seed; from the first one again where the file has too few.

    Answers are as long as the recorded ones, or as `output_tokens` says. Where the server counts
    tokens without generating any, prompts that don't fit its context are left out.
    """
    if settings.dataset.path is None:
        raise BenchError("--dataset sharegpt needs --dataset-path FILE")
    conversations = read_conversations(settings.dataset.path)
    random.Random(settings.seed).shuffle(conversations)
    wanted = _MOST if settings.duration_s else settings.warmup + settings.requests
    chosen = conversations[:wanted]
    counter = await find_counter(session, target, _PROBE.fields(target.endpoint))
    prompts = await _prompts(chosen, target, settings, server, counter)
    notes = [f"conversations in the file: {len(conversations)}"]
    if len(prompts) < len(chosen):
        notes.append(f"left out, too long for the model's context: {len(chosen) - len(prompts)}")
    if settings.duration_s or len(prompts) < wanted:
        notes.append(f"different prompts: {len(prompts)}; one that comes again may be cached")

    def begin(_warmup: int) -> Iterator[Prompt]:
        return cycle(prompts)

    return Workload(begin, "recorded", counter.name, settings.dataset.kind, tuple(notes))


async def _prompts(
    chosen: Sequence[Conversation],
    target: Target,
    settings: Settings,
    server: ServerFacts,
    counter: TokenCounter,
) -> list[Prompt]:
    """Raises BenchError: none of them fits the model's context."""
    at_once = asyncio.Semaphore(_COUNTS_AT_ONCE)

    async def prompt(one: Conversation) -> Prompt | None:
        fields, tokens, answer = one.fields(target.endpoint), None, None
        try:
            if counter.leaves_no_trace:
                async with at_once:
                    tokens = await counter.count(fields)
            if settings.dataset.recorded_lengths and one.answer:
                async with at_once:
                    answer = await _answer_tokens(one.answer, counter)
        except PromptRefusedError:
            return None
        whole = (tokens or 0) + (answer or longest(settings.output_tokens))
        if server.max_model_len is not None and whole > server.max_model_len:
            return None
        return Prompt(fields, tokens, answer)

    found = await asyncio.gather(*(prompt(one) for one in chosen))
    fitting = [one for one in found if one is not None]
    if not fitting:
        raise BenchError(
            f"--dataset-path {settings.dataset.path}: no conversation fits the "
            f"{server.max_model_len} tokens of {server.model}'s context"
        )
    return fitting


async def _answer_tokens(answer: str, counter: TokenCounter) -> int:
    if counter.leaves_no_trace:
        fields = {"prompt": answer, "add_special_tokens": False}
        return max(1, await counter.count(fields))
    return max(1, len(answer) // _CHARACTERS_PER_TOKEN)


def _conversation(record: Mapping[str, Any]) -> Conversation | None:
    """None where nobody asks anything."""
    said: list[Mapping[str, str]] = []
    turns = record.get("conversations") or record.get("messages")
    for one in turns if isinstance(turns, list) else ():
        if not isinstance(one, dict):
            return None
        role = _ROLES.get(str(one.get("from") or one.get("role")))
        text = _text(one.get("value") or one.get("content"))
        if role == "assistant":
            return Conversation(tuple(said), text) if _asks(said) else None
        if role is not None and text:
            said.append({"role": role, "content": text})
    return Conversation(tuple(said), "") if _asks(said) else None


def _asks(said: Sequence[Mapping[str, str]]) -> bool:
    return any(message["role"] == "user" for message in said)


def _text(content: Any) -> str:
    """Of a text, or of the text parts of a list."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
