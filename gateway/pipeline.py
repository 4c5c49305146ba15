"""What every call goes through between its parsed request and its last token.

A permit is taken, the prompts are rendered to exact token ids, the engine generates; and always,
exactly once, whatever happened: the engine's part is aborted or over, the permit is released, the
tokens are counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from engine.base import (
    ChatMessage,
    ContextLengthError,
    Engine,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    TokenDelta,
)
from engine.checks import completion_room
from gateway.admission import Admission, Permit
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics

Source = Sequence[ChatMessage] | str | Sequence[int]


@dataclass(frozen=True, slots=True)
class Call:
    """A validated request: `sources` are each completed `sampling.n` times.

    `param` is the request field the prompts came from, for errors.
    """

    request_id: str
    sources: Sequence[Source]
    sampling: SamplingOptions
    param: str
    arrived: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact token counts, as the engine saw them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Pipeline:
    """Turns calls into generations."""

    def __init__(self, lifecycle: Lifecycle, admission: Admission, metrics: Metrics) -> None:
        self._lifecycle = lifecycle
        self._admission = admission
        self._metrics = metrics

    async def start(self, call: Call) -> Generation:
        """Admit and begin `call`; returns once its first delta is there.

        So what fails before the first token can still be an HTTP status. Raises APIError where
        it is not admitted, EngineError where the engine refuses or fails.
        """
        engine = self._lifecycle.engine()
        permit = self._admission.acquire()
        generation = None
        try:
            prompts = [await _render(engine, source, call) for source in call.sources]
            generation = Generation(engine, call, prompts, permit, self._metrics)
            await generation.prime()
        except BaseException:
            if generation is not None:
                await generation.aclose()
            permit.release()
            raise
        return generation


async def _render(engine: Engine, source: Source, call: Call) -> Prompt:
    limit = engine.info.max_model_len
    try:
        prompt = await engine.render(source)
        completion_room(len(prompt.token_ids), call.sampling.max_tokens, limit)
    except ContextLengthError as error:
        error.param = error.param or call.param
        raise
    if len(prompt.token_ids) + call.sampling.min_tokens > limit:
        raise InvalidPromptError(
            f"Invalid 'min_tokens': {call.sampling.min_tokens} more tokens don't fit into the "
            f"context of {limit} tokens.",
            "min_tokens",
        )
    return prompt


class Generation:
    """The running part of one call: iterate its deltas inside `async with`."""

    def __init__(
        self,
        engine: Engine,
        call: Call,
        prompts: Sequence[Prompt],
        permit: Permit,
        metrics: Metrics,
    ) -> None:
        self._call = call
        self._permit = permit
        self._metrics = metrics
        self._choices = self._choices_left = len(prompts) * call.sampling.n
        self._prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        self._completion_tokens = 0
        self._cached_tokens = [0] * len(prompts)
        self._first: TokenDelta | None = None
        self._first_at: float | None = None
        self._closed = False
        sources = [
            engine.generate(GenerateRequest(_part_id(call, i, prompts), prompt, call.sampling))
            for i, prompt in enumerate(prompts)
        ]
        self._deltas = sources[0] if len(sources) == 1 else _merged(sources, call.sampling.n)

    @property
    def usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._completion_tokens, sum(self._cached_tokens))

    async def prime(self) -> None:
        """Wait for the first delta."""
        self._first = await anext(self._deltas)
        self._first_at = time.perf_counter()
        self._metrics.time_to_first_token.observe(self._first_at - self._call.arrived)

    async def __aiter__(self) -> AsyncIterator[TokenDelta]:
        if self._first is not None:
            first, self._first = self._first, None
            self._count(first)
            yield first
        async for delta in self._deltas:
            self._count(delta)
            yield delta

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Abort what still runs, release the permit, count the tokens. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._deltas.aclose()
        finally:
            self._permit.release()
            self._settle()

    def _count(self, delta: TokenDelta) -> None:
        self._completion_tokens += len(delta.token_ids)
        if delta.cached_tokens:
            self._cached_tokens[delta.index // self._call.sampling.n] = delta.cached_tokens
        if delta.finish_reason is not None:
            self._choices_left -= 1
            if delta.finish_reason != "abort":
                self._metrics.request_success.labels(delta.finish_reason).inc()

    def _settle(self) -> None:
        if self._first is not None:
            self._count(self._first)
        usage, metrics = self.usage, self._metrics
        metrics.prompt_tokens.inc(usage.prompt_tokens)
        metrics.cached_tokens.inc(usage.cached_tokens)
        metrics.generation_tokens.inc(usage.completion_tokens)
        if self._choices_left or self._first_at is None:
            return
        now = time.perf_counter()
        metrics.e2e_latency.observe(now - self._call.arrived)
        rest = usage.completion_tokens / self._choices - 1
        if rest > 0:
            metrics.time_per_output_token.observe((now - self._first_at) / rest)


def _part_id(call: Call, part: int, prompts: Sequence[Prompt]) -> str:
    return call.request_id if len(prompts) == 1 else f"{call.request_id}-{part}"


async def _merged(
    sources: Sequence[AsyncGenerator[TokenDelta, None]], n: int
) -> AsyncGenerator[TokenDelta, None]:
    """Deltas of several prompts as they come; choice j of prompt i has index i·n + j."""
    queue: asyncio.Queue[TokenDelta | Exception | None] = asyncio.Queue(maxsize=4 * len(sources))

    async def pump(part: int, deltas: AsyncGenerator[TokenDelta, None]) -> None:
        try:
            async for delta in deltas:
                await queue.put(replace(delta, index=part * n + delta.index))
            await queue.put(None)
        except Exception as error:  # handed to whoever reads the queue
            await queue.put(error)
        finally:
            await deltas.aclose()

    pumps = [asyncio.create_task(pump(i, deltas)) for i, deltas in enumerate(sources)]
    try:
        running = len(pumps)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
