"""Conversations: each turn sends all that was said before, the model's own answers included."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import aiohttp

from bench.client import Target
from bench.errors import BenchError
from bench.measuring.facts import ServerFacts
from bench.measuring.settings import Settings
from bench.prompts.author import find_author
from bench.prompts.drafts import check_length
from bench.prompts.lengths import shortest
from bench.prompts.prompt import Prompt, Workload
from bench.prompts.workload import lengths_of

Message = dict[str, Any]


async def prepare(
    session: aiohttp.ClientSession, target: Target, settings: Settings, _server: ServerFacts
) -> Workload:
    """The next request is the next turn of whom was answered first; where all conversations wait
    for an answer, or have ended, a new one begins. One whose request fails has ended.

    `input_tokens` are those of each new message (of the first, with the template). How long the
    whole prompt is depends on the answers, so only the server knows.
    """
    if target.endpoint != "chat":
        raise BenchError("--dataset multi-turn needs --endpoint chat")
    author = await find_author(session, target)
    check_length(author.vocabulary, shortest(settings.input_tokens))
    turns = settings.dataset.turns

    def begin(_warmup: int) -> Iterator[Prompt]:
        seed = settings.seed
        drafts = author.drafts(lengths_of(settings.input_tokens, seed), seed)
        messages = (draft.fields(author.layout)["messages"] for draft, _ in drafts)
        answered: deque[tuple[int, list[Message]]] = deque()
        while True:
            turn, said = answered.popleft() if answered else (0, [])
            # Only the first turn opens with a system message.
            said = [*said, *next(messages)[-1 if said else 0 :]]
            yield _Turn(turn + 1, said, turns, answered).prompt()

    return Workload(
        begin,
        author.layout,
        author.counter.name,
        settings.dataset.kind,
        (f"conversations of {turns} turns",),
    )


class _Turn:
    """One turn on its way; its answer makes the next one ready."""

    def __init__(
        self,
        number: int,
        said: list[Message],
        turns: int,
        answered: deque[tuple[int, list[Message]]],
    ) -> None:
        self._number = number
        self._said = said
        self._turns = turns
        self._answered = answered

    def prompt(self) -> Prompt:
        return Prompt({"messages": self._said}, on_answer=self._go_on)

    def _go_on(self, text: str) -> None:
        if self._number < self._turns:
            said = [*self._said, {"role": "assistant", "content": text}]
            self._answered.append((self._number, said))
