"""What every call goes through between its parsed request and its last token.

A permit is taken, the prompts are rendered to exact token ids, the engine generates; and always,
exactly once, whatever happened: the engine's part is aborted or over, the permit is released, the
tokens are counted.

The call's own task only waits for the first token and for the end. In between the engine tells the
`Generation` that there is something to take, and the call's `Outlet` takes it when it can be sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import structs

from engine.base import (
    ContextLengthError,
    Engine,
    EngineError,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    Source,
    Structure,
    Submission,
    TokenDelta,
)
from engine.checks import completion_room
from gateway.admission import Admission, Permit
from gateway.deployments import Deployment
from gateway.lifecycle import Lifecycle
from gateway.metrics import Metrics

Cause = Literal["disconnect", "shutdown"]


class Call(msgspec.Struct, frozen=True):
    """A validated request: `sources` are each completed `sampling.n` times.

    `param` is the request field the prompts came from, for errors. `loose` takes the place of
    `sampling.structure` where no grammar can be made of that. `with_text`: prompts given as token
    ids are needed as text, too. `clipped`: `sampling.max_tokens` may be more than the context
    holds, whose end is the completion's then.
    """

    request_id: str
    deployment: Deployment
    sources: Sequence[Source]
    sampling: SamplingOptions
    param: str
    arrived: float
    loose: Structure | None = None
    with_text: bool = False
    clipped: bool = False

    def limit(self, prompt: Prompt, max_model_len: int) -> int | None:
        """How many tokens a completion of `prompt` may have; None: what the context holds."""
        wanted = self.sampling.max_tokens
        if self.clipped and wanted is not None and wanted > max_model_len - len(prompt.token_ids):
            return None
        return wanted


class Usage(msgspec.Struct, frozen=True):
    """Exact token counts, as the engine saw them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Outlet(Protocol):
    """Who sends a call's deltas while it runs: an event stream."""

    def ready(self) -> None:
        """There is something to take from the generation; returns at once."""
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

    def admit(self, call: Call) -> Generation:
        """A generation that is still to begin; it holds a permit and has to be closed.

        Raises APIError where the call is not admitted.
        """
        self._lifecycle.require_open()
        engine = call.deployment.engine()
        permit = self._admission.acquire()
        call.deployment.enter()
        generation = Generation(engine, call, permit, self._metrics, self._live)
        self._live.add(generation)
        return generation

    def interrupt_all(self) -> None:
        """End whatever runs: the server shuts down."""
        for generation in list(self._live):
            generation.interrupt("shutdown")


class Generation:
    """The running part of one call.

    `await begin()`, then `await end()`, then `close()` in any case; `take` what has come at any
    time. `outlet`, once it is set, is told when there is something.
    """

    def __init__(
        self,
        engine: Engine,
        call: Call,
        permit: Permit,
        metrics: Metrics,
        live: set[Generation],
    ) -> None:
        self.outlet: Outlet | None = None
        self._engine = engine
        self._call = call
        self._permit = permit
        self._metrics = metrics
        self._live = live
        self.prompts: list[Prompt] = []
        self._parts: list[Submission] = []
        self._unfinished = len(call.sources)
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = [0] * len(call.sources)
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def usage(self) -> Usage:
        """Of what was taken: once everything has finished and is taken, of the whole call."""
        return Usage(self._prompt_tokens, self._completion_tokens, sum(self._cached_tokens))

    @property
    def complete(self) -> bool:
        """Whether every choice has finished."""
        return not self._unfinished

    async def begin(self) -> None:
        """Render and submit; returns once the first token is there.

        So what fails before it can still be an HTTP status. Raises EngineError where the engine
        refuses or fails, InterruptedCallError.
        """
        call = self._call
        sampling = call.sampling
        if sampling.structure is not None:
            sampling = structs.replace(sampling, structure=await self._grammar(sampling.structure))
        self.prompts = prompts = []
        for source in call.sources:
            prompts.append(await _render(self._engine, source, call))
            if self._error is not None:
                raise self._error
        self._prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        for part, prompt in enumerate(prompts):
            several = len(prompts) > 1
            request_id = f"{call.request_id}-{part}" if several else call.request_id
            adapter = call.deployment.adapter
            limit = call.limit(prompt, self._engine.info.max_model_len)
            if limit != sampling.max_tokens:
                sampling = structs.replace(sampling, max_tokens=limit)
            request = GenerateRequest(request_id, prompt, sampling, adapter)
            self._parts.append(self._engine.submit(request, self))
        while self._first_at is None:
            await self._news()

    async def _grammar(self, structure: Structure) -> Structure | None:
        """What the completion is held to. Raises InvalidPromptError where nothing will do."""
        try:
            await self._check(structure)
        except InvalidPromptError:
            if self._call.loose is None:
                raise
            await self._check(self._call.loose)
            return self._call.loose
        return structure

    async def _check(self, structure: Structure) -> None:
        """As `Engine.check_structure`, which may take long, but ends with an interruption."""
        check = asyncio.ensure_future(self._engine.check_structure(structure))
        check.add_done_callback(self._checked)
        try:
            while not check.done():
                await self._news()
            check.result()
        finally:
            check.cancel()

    def _checked(self, check: asyncio.Future[None]) -> None:
        if not check.cancelled():
            check.exception()  # Looked at here, as nobody else may be left to.
        self._wake()

    async def end(self) -> None:
        """Return once every choice has finished. Raises EngineError, InterruptedCallError."""
        while self._unfinished:
            await self._news()
        if self._error is not None:
            raise self._error

    def interrupt(self, cause: Cause) -> None:
        """Make `begin` or `end` raise InterruptedCallError, unless all is finished."""
        if self._unfinished:
            self._fail(InterruptedCallError(cause))

    def take(self) -> Sequence[TokenDelta]:
        """What has come since the last time; indices count over all prompts' choices."""
        if len(self._parts) == 1:
            taken = self._parts[0].take()
            for delta in taken:
                self._count(0, delta)
            if taken and self._call.sampling.n == 1:
                self._time(len(taken[0].token_ids))
            return taken
        found: list[TokenDelta] = []
        for number, part in enumerate(self._parts):
            offset = number * self._call.sampling.n
            for delta in part.take():
                self._count(number, delta)
                found.append(structs.replace(delta, index=offset + delta.index))
        return found

    def close(self) -> None:
        """Abort what still runs, release the permit, count the tokens. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._live.discard(self)
        try:
            for part in self._parts:
                part.abort()
            self.take()  # for its tokens, which were generated whoever reads them
        finally:
            self._permit.release()
            self._call.deployment.leave()
            self._settle()
            # What refers back to this would keep it, and all it has, until the next collection.
            self._parts, self._error, self.outlet = [], None, None

    def ready(self) -> None:
        if self._first_at is None:
            self._first_at = time.perf_counter()
            self._metrics.time_to_first_token.observe(self._first_at - self._call.arrived)
            self._wake()
        if self.outlet is not None:
            self.outlet.ready()

    def finished(self) -> None:
        self._unfinished -= 1
        if not self._unfinished:
            self._wake()

    def failed(self, error: EngineError) -> None:
        self._fail(error)

    def _time(self, tokens: int) -> None:
        """Note the time between a choice's tokens: the mean of those that are taken together."""
        now = time.perf_counter()
        gaps = tokens if self._last_at is not None else tokens - 1
        if gaps > 0 and self._first_at is not None:
            since = self._last_at if self._last_at is not None else self._first_at
            self._metrics.inter_token_latency.observe((now - since) / gaps, gaps)
        self._last_at = now

    def _count(self, part: int, delta: TokenDelta) -> None:
        self._completion_tokens += len(delta.token_ids)
        if delta.index == 0:  # the others may have found what this one computed
            self._cached_tokens[part] = delta.cached_tokens
        if delta.finish_reason is not None:
            self._metrics.request_success[delta.finish_reason].inc()

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
        if not self._parts:
            return
        metrics.prompt_tokens.inc(usage.prompt_tokens)
        metrics.cached_tokens.inc(usage.cached_tokens)
        metrics.generation_tokens.inc(usage.completion_tokens)
        if self._unfinished or self._first_at is None:
            return
        now = time.perf_counter()
        metrics.e2e_latency.observe(now - self._call.arrived)
        rest = usage.completion_tokens / (len(self._parts) * self._call.sampling.n) - 1
        if rest > 0:
            metrics.time_per_output_token.observe((now - self._first_at) / rest)


# Each is an object of its own until the answer is told.
MAX_SCORES = 500_000


def _check_scores(sampling: SamplingOptions, room: int) -> None:
    """Raise InvalidPromptError where an answer's log-probabilities could be too many."""
    if sampling.logprobs is None:
        return
    scores = sampling.n * room * (sampling.logprobs + 1)
    if scores > MAX_SCORES:
        raise InvalidPromptError(
            f"Too many log-probabilities: {sampling.n} choices of up to {room} tokens with "
            f"{sampling.logprobs} alternatives each may be {scores:,} in all, and {MAX_SCORES:,} "
            "are allowed. Ask for fewer choices, tokens or alternatives.",
            "logprobs",
        )


async def _render(engine: Engine, source: Source, call: Call) -> Prompt:
    limit = engine.info.max_model_len
    try:
        prompt = await engine.render(source)
        if call.with_text and prompt.text is None:
            prompt = structs.replace(prompt, text=await engine.detokenize(prompt.token_ids))
        room = completion_room(len(prompt.token_ids), call.limit(prompt, limit), limit)
    except ContextLengthError as error:
        error.param = error.param or call.param
        raise
    if len(prompt.token_ids) + call.sampling.min_tokens > limit:
        raise InvalidPromptError(
            f"Invalid 'min_tokens': {call.sampling.min_tokens} more tokens don't fit into the "
            f"context of {limit} tokens.",
            "min_tokens",
        )
    _check_scores(call.sampling, room)
    return prompt
