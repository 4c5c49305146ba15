"""What every call goes through between its parsed request and its last token.

A permit is taken, the prompts are rendered to exact token ids, the engine generates; and always,
exactly once, whatever happened: the engine's part is aborted or over, the permit is released, the
tokens are counted.

Tokens are pushed: the engine calls a `Generation` for each, which hands them to the call's
`Outlet`. The call's own task only waits for the first token and for the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from engine.base import (
    ChatMessage,
    ContextLengthError,
    Engine,
    EngineError,
    EngineGenerateError,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    Submission,
    TokenDelta,
)
from engine.checks import completion_room
from gateway.admission import Admission, Permit
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics

Source = Sequence[ChatMessage] | str | Sequence[int]
Cause = Literal["disconnect", "shutdown"]


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


class Outlet(Protocol):
    """Where a call's deltas go: an event stream, or a whole answer."""

    def put(self, delta: TokenDelta) -> None:
        """Take a delta; returns at once. Its index counts over all prompts' choices."""
        ...


class InterruptedCallError(Exception):
    """The call was ended from outside: its client hung up, or the grace period is over."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


class Pipeline:
    """Turns calls into generations."""

    def __init__(self, lifecycle: Lifecycle, admission: Admission, metrics: Metrics) -> None:
        self._lifecycle = lifecycle
        self._admission = admission
        self._metrics = metrics
        self._live: set[Generation] = set()

    def admit(self, call: Call, outlet: Outlet) -> Generation:
        """A generation that is still to begin; it holds a permit and has to be closed.

        Raises APIError where the call is not admitted.
        """
        engine = self._lifecycle.engine()
        permit = self._admission.acquire()
        generation = Generation(engine, call, outlet, permit, self._metrics, self._live)
        self._live.add(generation)
        return generation

    def interrupt_all(self) -> None:
        """End whatever runs: the server shuts down."""
        for generation in list(self._live):
            generation.interrupt("shutdown")


class Generation:
    """The running part of one call, the sink of its tokens.

    `await begin()`, then `await end()`, then `close()` in any case.
    """

    def __init__(
        self,
        engine: Engine,
        call: Call,
        outlet: Outlet,
        permit: Permit,
        metrics: Metrics,
        live: set[Generation],
    ) -> None:
        self._engine = engine
        self._call = call
        self._put = outlet.put
        self._permit = permit
        self._metrics = metrics
        self._live = live
        self._submissions: list[Submission] = []
        self._choices = self._unfinished = len(call.sources) * call.sampling.n
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = [0] * len(call.sources)
        self._first_at: float | None = None
        self._last_at = 0.0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._completion_tokens, sum(self._cached_tokens))

    @property
    def finished(self) -> bool:
        """Whether every choice has."""
        return not self._unfinished

    async def begin(self) -> None:
        """Render and submit; returns once the first token is there.

        So what fails before it can still be an HTTP status. Raises EngineError where the engine
        refuses or fails, InterruptedCallError.
        """
        call = self._call
        prompts = [await _render(self._engine, source, call) for source in call.sources]
        if self._error is not None:
            raise self._error
        self._prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        for part, prompt in enumerate(prompts):
            several = len(prompts) > 1
            request_id = f"{call.request_id}-{part}" if several else call.request_id
            request = GenerateRequest(request_id, prompt, call.sampling)
            sink = _Part(self, part * call.sampling.n) if several else self
            self._submissions.append(self._engine.submit(request, sink))
        while self._first_at is None:
            await self._news()

    async def end(self) -> Usage:
        """Return once every choice has finished. Raises EngineError, InterruptedCallError."""
        while self._unfinished:
            await self._news()
        return self.usage

    def interrupt(self, cause: Cause) -> None:
        """Make `begin` or `end` raise InterruptedCallError, unless all is finished."""
        if self._unfinished:
            self._fail(InterruptedCallError(cause))

    def close(self) -> None:
        """Abort what still runs, release the permit, count the tokens. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._live.discard(self)
        try:
            for submission in self._submissions:
                submission.abort()
        finally:
            self._permit.release()
            self._settle()

    def delta(self, delta: TokenDelta) -> None:
        now = time.perf_counter()
        self._completion_tokens += len(delta.token_ids)
        if self._first_at is None:
            self._first_at = now
            self._metrics.time_to_first_token.observe(now - self._call.arrived)
            self._cached_tokens[delta.index // self._call.sampling.n] = delta.cached_tokens
            self._wake()
        elif self._choices == 1:
            self._metrics.inter_token_latency.observe(now - self._last_at)
        self._last_at = now
        if delta.finish_reason is not None:
            self._choice_finished(delta)
        self._put(delta)

    def failed(self, error: EngineError) -> None:
        self._fail(error)

    def _choice_finished(self, delta: TokenDelta) -> None:
        if delta.finish_reason == "abort":
            # Nobody here asked for it: a failure, not an answer.
            self._fail(EngineGenerateError("the engine aborted the request"))
            return
        self._cached_tokens[delta.index // self._call.sampling.n] = delta.cached_tokens
        self._metrics.request_success[delta.finish_reason or ""].inc()
        self._unfinished -= 1
        if not self._unfinished:
            self._wake()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _news(self) -> None:
        if self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error

    def _settle(self) -> None:
        usage, metrics = self.usage, self._metrics
        if not self._submissions:
            return
        metrics.prompt_tokens.inc(usage.prompt_tokens)
        metrics.cached_tokens.inc(usage.cached_tokens)
        metrics.generation_tokens.inc(usage.completion_tokens)
        if self._unfinished or self._first_at is None:
            return
        now = time.perf_counter()
        metrics.e2e_latency.observe(now - self._call.arrived)
        rest = usage.completion_tokens / self._choices - 1
        if rest > 0:
            metrics.time_per_output_token.observe((now - self._first_at) / rest)


class _Part:
    """The sink of one prompt of several; choice j of prompt i has index i·n + j."""

    def __init__(self, generation: Generation, offset: int) -> None:
        self._generation = generation
        self._offset = offset

    def delta(self, delta: TokenDelta) -> None:
        index = self._offset + delta.index
        self._generation.delta(
            TokenDelta(index, delta.text, delta.token_ids, delta.finish_reason, delta.cached_tokens)
        )

    def failed(self, error: EngineError) -> None:
        self._generation.failed(error)


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
