"""A request's deltas as an asynchronous iterator, for callers that don't count microseconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from engine.base import Engine, EngineError, GenerateRequest, TokenDelta


async def generate(engine: Engine, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
    """Yield deltas until every choice has finished.

    Closing the generator, or cancelling the task that iterates it, aborts the request. Raises
    InvalidPromptError, EngineGenerateError, EngineDeadError.
    """
    queue = _Queue()
    submission = engine.submit(request, queue)
    unfinished = request.sampling.n
    try:
        while unfinished:
            item = await queue.get()
            if isinstance(item, EngineError):
                raise item
            unfinished -= item.finish_reason is not None
            yield item
    finally:
        submission.abort()


class _Queue(asyncio.Queue[TokenDelta | EngineError]):
    """A sink that can be waited for."""

    def delta(self, delta: TokenDelta) -> None:
        self.put_nowait(delta)

    def failed(self, error: EngineError) -> None:
        self.put_nowait(error)
