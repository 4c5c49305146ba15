"""What callers and engines need that don't count microseconds: a request's deltas as an
asynchronous iterator, and deltas kept until they are taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from engine.base import Engine, EngineError, GenerateRequest, TokenDelta


async def generate(engine: Engine, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
    """Yield deltas until every choice has finished.

    Closing the generator, or cancelling the task that iterates it, aborts the request. Raises
    InvalidPromptError, EngineGenerateError, EngineDeadError.
    """
    news = _News()
    submission = engine.submit(request, news)
    try:
        while True:
            await news.wait()
            news.clear()
            # Before anything is taken: what comes later is told again.
            over, error = news.over, news.error
            for delta in submission.take():
                yield delta
            if error is not None:
                raise error
            if over:
                return
    finally:
        submission.abort()


class _News(asyncio.Event):
    """A sink that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.over = False
        self.error: EngineError | None = None

    def ready(self) -> None:
        self.set()

    def finished(self) -> None:
        self.over = True
        self.set()

    def failed(self, error: EngineError) -> None:
        self.error = error
        self.set()


class Pending:
    """Deltas that haven't been taken yet, merged as they come."""

    def __init__(self) -> None:
        self._choices: dict[int, list[TokenDelta]] = {}

    def add(self, delta: TokenDelta) -> bool:
        """Returns whether it is the first one since the last `take`."""
        first = not self._choices
        self._choices.setdefault(delta.index, []).append(delta)
        return first

    def take(self) -> Sequence[TokenDelta]:
        """As `Submission.take`."""
        choices, self._choices = self._choices, {}
        return [_merged(deltas) for deltas in choices.values()]


def _merged(deltas: Sequence[TokenDelta]) -> TokenDelta:
    last = deltas[-1]
    if len(deltas) == 1:
        return last
    return TokenDelta(
        last.index,
        "".join([delta.text for delta in deltas]),
        [token for delta in deltas for token in delta.token_ids],
        last.finish_reason,
        last.cached_tokens,
        [entry for delta in deltas for entry in delta.logprobs],
        deltas[0].prompt_logprobs,
        last.stop_string,
    )
