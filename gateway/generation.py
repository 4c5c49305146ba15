"""The running part of one call: from its prompts to its last token.

::

    begin: render ─► reserve ─► wait in the queue ─► submit ─► first token
                                     ▲                │
                                     └── engine died ─┘   (also after it, where that is exact)
    end:   … last token        close: abort, release, settle, write down

The call's own task only waits for the first token and for the end. In between the engine tells the
`Generation` that there is something to take, and the call's `Outlet` takes it when it can be sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar, cast

from msgspec import structs

from engine.base import (
    Engine,
    EngineDeadError,
    EngineError,
    GenerateRequest,
    Prompt,
    SamplingOptions,
    Submission,
    TokenDelta,
)
from engine.checks import resumable
from gateway.call import Call, Cause, InterruptedCallError, Outlet, Usage, at_deadline
from gateway.errors import UnavailableError
from gateway.holds import Hold
from gateway.metrics import Metrics
from gateway.rendering import check_scores, grammar, render
from gateway.timings import enter

T = TypeVar("T")

logger = logging.getLogger(__name__)

# So many engines may die under one request; it might be why they do.
LIVES: Final = 2
_PRIORITIES: Final = {"online": 0, "batch": 1}


class Generation:
    """`await begin()`, then `await end()`, then `close()` in any case; `take` what has come at any
    time. `outlet`, once it is set, is told when there is something. `reasoning_tokens` is for the
    ledger, from whoever reads the tokens.
    """

    def __init__(
        self, engine: Engine, call: Call, hold: Hold, metrics: Metrics, resume_s: float
    ) -> None:
        self.outlet: Outlet | None = None
        self.prompts: list[Prompt] = []
        self.reasoning_tokens = 0
        self._engine = engine
        self._call = call
        self._hold = hold
        self._metrics = metrics
        self._resume_s = resume_s
        self._sampling: list[SamplingOptions] = []
        self._parts: list[Submission] = []
        self._unfinished = len(call.sources)
        self._lives = LIVES
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = [0] * len(call.sources)
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._error: Exception | None = None
        self._failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        # The call's own task, while `fail` is to end what it awaits.
        self._interruptible: asyncio.Task[Any] | None = None
        self._timer = at_deadline(call.deadline, self.fail)
        self._closed = False
        # Of an answer that can go on in another engine: its tokens, how many of them are of engines
        # that have died, and what of those nobody had taken.
        self._generated: list[int] | None = None
        self._earlier = 0
        self._held: TokenDelta | None = None
        hold.permit.progress = self.produced

    @property
    def usage(self) -> Usage:
        """Of what was taken: once everything has finished and is taken, of the whole call."""
        return Usage(self._prompt_tokens, self._completion_tokens, sum(self._cached_tokens))

    @property
    def complete(self) -> bool:
        """Whether every choice has finished."""
        return not self._unfinished

    @property
    def submitted(self) -> bool:
        """Whether an engine has it now."""
        return bool(self._parts)

    def produced(self) -> int:
        """Completion tokens so far, taken or not."""
        return self._earlier + sum(part.produced for part in self._parts)

    async def begin(self) -> None:
        """Render, reserve, wait for a place and submit; returns once the first token is there.

        So what fails before it can still be an HTTP status. Raises APIError, EngineError where the
        request is refused or the engine fails, InterruptedCallError.
        """
        try:
            completion_tokens = await self._render()
            await self._reserve(completion_tokens)
            await self._start(completion_tokens)
        except BaseException as failure:
            self._failure = failure
            raise

    async def end(self) -> None:
        """Return once every choice has finished. Raises as `begin`."""
        try:
            while self._unfinished:
                try:
                    await self._news()
                except EngineDeadError as error:
                    await self._resume(error)
            if self._error is not None:
                raise self._error
        except BaseException as failure:
            self._failure = failure
            raise

    def interrupt(self, cause: Cause) -> None:
        """Make `begin` or `end` raise InterruptedCallError, unless all is finished."""
        if self._unfinished:
            self.fail(InterruptedCallError(cause))

    def fail(self, error: Exception) -> None:
        """Make `begin` or `end` raise `error`."""
        # A dead engine isn't the end of all: what is comes first.
        if self._error is None or isinstance(self._error, EngineDeadError):
            self._error = error
        if self._interruptible is not None:
            task, self._interruptible = self._interruptible, None
            task.cancel()
        self._wake()

    def take(self) -> Sequence[TokenDelta]:
        """What has come since the last time; indices count over all prompts' choices."""
        if len(self._call.sources) == 1:
            taken = self._parts[0].take() if self._parts else ()
            for delta in taken:
                self._count(0, delta)
            if taken and self._call.sampling.n == 1:
                self._time(len(taken[0].token_ids))
            return taken if self._held is None else self._with_held(taken)
        found: list[TokenDelta] = []
        for number, part in enumerate(self._parts):
            offset = number * self._call.sampling.n
            for delta in part.take():
                self._count(number, delta)
                found.append(structs.replace(delta, index=offset + delta.index))
        return found

    def stands_still(self, seconds: float) -> bool:
        """Whether it will gain nothing any more, if it has gained nothing for so long. While its
        engine steps, it may be read, or wait in there for others or for memory."""
        stats = self._engine.stats()
        steps = (stats.seconds_since_step or 0.0) < seconds
        waits = steps and (self._first_at is None or stats.waiting > 0)
        return not (self.complete or waits)

    def close(self, failure: BaseException | None = None) -> None:
        """Abort what still runs, give back what is held, count the tokens; `failure` is why its
        answer wasn't given, though it was made. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._failure = self._failure or failure
        if self._timer is not None:
            self._timer.cancel()
        try:
            for part in self._parts:
                part.abort()
            self.take()  # for its tokens, which were generated whoever reads them
        except Exception:
            # What is held is given back and the tokens count all the same.
            logger.exception("the last tokens of %s could not be taken", self._call.request_id)
            self._completion_tokens = self.produced()
        finally:
            used = self._used()
            self._observe(used)
            self._hold.entry.reasoning_tokens = self.reasoning_tokens
            self._hold.close(used, self._call.arrived, self._failed_with())
            # What refers back to this would keep it, and all it has, until the next collection.
            self._hold.permit.progress = None
            self._parts, self._error, self._failure, self.outlet = [], None, None, None

    def ready(self) -> None:
        if self._first_at is None:
            self._first_at = time.perf_counter()
            enter(self._call.timings, "decode")
            ttft = self._first_at - self._call.arrived
            self._metrics.time_to_first_token.observe(ttft)
            self._hold.entry.ttft_s = ttft
            self._hold.permit.started(sum(part.cached_tokens for part in self._parts))
            self._wake()
        if self.outlet is not None:
            self.outlet.ready()

    def finished(self) -> None:
        self._unfinished -= 1
        if not self._unfinished:
            # Whoever reads the answer slowly takes no place from others.
            self._hold.permit.requeue()
            self._wake()

    def failed(self, error: EngineError) -> None:
        self.fail(error)

    async def _render(self) -> int:
        """Make the prompts; returns how many tokens their completions may have together."""
        call, engine = self._call, self._engine
        sampling = call.sampling
        if sampling.structure is not None:
            enter(call.timings, "grammar")
            found = await self._outcome(grammar(engine, sampling.structure, call.loose))
            sampling = structs.replace(sampling, structure=found)
        rooms: list[int] = []
        for source in call.sources:
            if self._error is not None:  # its client had gone before there was anything to end
                raise self._error
            prompt, room = await self._in_place(render(engine, source, call))
            self.prompts.append(prompt)
            rooms.append(room)
        check_scores(sampling, self.prompts, rooms)
        most = max(rooms)
        self._prompt_tokens = sum(len(prompt.token_ids) for prompt in self.prompts)
        limits = [call.limit(prompt, engine.info.max_model_len) for prompt in self.prompts]
        choices = len(self.prompts) * sampling.n
        if None in limits and (capacity := self._hold.capacity) is not None:
            # What the accounts could never hold isn't asked of them.
            most = max(1, min(most, (capacity - self._prompt_tokens) // choices))
            limits = [most if limit is None else limit for limit in limits]
        self._sampling = [
            sampling
            if limit == sampling.max_tokens
            else structs.replace(sampling, max_tokens=limit)
            for limit in limits
        ]
        return most * choices

    async def _reserve(self, completion_tokens: int) -> None:
        enter(self._call.timings, "queue")
        pending = self._hold.reserve(self._prompt_tokens, completion_tokens)
        if pending is not None:
            await self._outcome(pending)

    async def _start(self, completion_tokens: int) -> None:
        """Wait for a place, and in it for the first token; again where the engine dies first."""
        while True:
            await self._dispatched(completion_tokens)
            try:
                self._submit()
                while self._first_at is None:
                    await self._news()
            except EngineDeadError as error:
                if self._first_at is None:
                    self._withdraw(error)
                    continue
                # `end` goes on with the token that came last.
            if resumable(self._call.sampling) and len(self._parts) == 1 and self._resume_s:
                self._generated = []
            return

    async def _dispatched(self, completion_tokens: int) -> None:
        """Return once this is the request whose turn it is. Raises APIError."""
        hold, call = self._hold, self._call
        enter(call.timings, "queue")
        choices = len(self.prompts) * call.sampling.n
        demand = hold.demand(self._prompt_tokens, choices, completion_tokens, call.deadline)
        turn = hold.permit.request(demand)
        if turn is not None:
            await self._outcome(turn)

    def _submit(self) -> None:
        """Give the engine the prompts, or what is left to do of the only one."""
        call, several = self._call, len(self.prompts) > 1
        # Also for an adapter that is withdrawn meanwhile: who is inside is served.
        replica = call.deployment.replica
        try:
            self._engine = engine = cast(Engine, replica.model())
        except UnavailableError as error:
            raise EngineDeadError("The engine has died before this request.") from error
        self._hold.begin(self._prompt_tokens)
        enter(call.timings, "prefill" if self._first_at is None else "decode")
        for part, prompt in enumerate(self.prompts):
            request = GenerateRequest(
                f"{call.request_id}-{part}" if several else call.request_id,
                prompt,
                self._sampling[part],
                call.deployment.adapter,
                generated=self._generated or (),
                priority=_PRIORITIES[call.principal.priority],
            )
            self._parts.append(engine.submit(request, self))

    def _withdraw(self, error: Exception) -> None:
        """The engine has died under this: go back to the queue, unless it might be the cause."""
        replica = self._call.deployment.replica
        replica.lost(self._engine)
        self._lives -= 1
        if not self._lives or replica.state == "dead":
            raise error
        for part in self._parts:
            part.abort()
        self._parts, self._error = [], None
        self._earlier = len(self._generated or ())
        self._unfinished = len(self._call.sources)
        self._hold.permit.requeue()

    async def _resume(self, error: EngineDeadError) -> None:
        """Go on in the next engine after the tokens so far. Raises what ends the call instead."""
        if self._generated is None:
            self._call.deployment.replica.lost(self._engine)
            raise error
        for delta in self.take():
            self._held = delta
        self._withdraw(error)
        room = self._sampling[0].max_tokens
        try:
            async with asyncio.timeout(self._resume_s):
                await self._dispatched((room or 0) - len(self._generated))
        except TimeoutError:
            raise error from None
        self._submit()

    async def _outcome(self, awaitable: Awaitable[T]) -> T:
        """What `awaitable` gives, unless an interruption comes first, which is raised."""
        task: asyncio.Future[T] = asyncio.ensure_future(awaitable)
        task.add_done_callback(self._looked_at)
        try:
            while not task.done():
                await self._news()
            return task.result()
        finally:
            task.cancel()

    async def _in_place(self, work: Awaitable[T]) -> T:
        """As `_outcome`, in the call's own task: for what mostly has nothing to wait for, as making
        a task and the loop's passes until it is done would cost more than a short prompt does."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._interruptible = task
        try:
            return await work
        except asyncio.CancelledError:
            # By `fail`, which has let go of the task, unless somebody else has cancelled it, too.
            ours = self._interruptible is not task and not task.uncancel()
            if ours and self._error is not None:
                raise self._error from None
            raise
        finally:
            self._interruptible = None

    def _looked_at(self, task: asyncio.Future[Any]) -> None:
        if not task.cancelled():
            task.exception()  # Looked at here, as nobody else may be left to.
        self._wake()

    def _with_held(self, taken: Sequence[TokenDelta]) -> Sequence[TokenDelta]:
        """As one delta: what nobody had taken when the engine died, and what came after."""
        held, self._held = self._held, None
        if held is None:
            return taken
        if not taken:
            return [held]
        new = taken[0]
        joined = structs.replace(
            new,
            text=held.text + new.text,
            token_ids=[*held.token_ids, *new.token_ids],
            cached_tokens=held.cached_tokens,
            logprobs=[*held.logprobs, *new.logprobs],
            prompt_logprobs=held.prompt_logprobs or new.prompt_logprobs,
        )
        return [joined]

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
        if self._generated is not None:
            self._generated += delta.token_ids
        # The other choices may have found what the first one computed, and a second engine doesn't
        # know what the first one had.
        if delta.index == 0 and not self._earlier:
            self._cached_tokens[part] = delta.cached_tokens
        if delta.finish_reason is not None:
            self._hold.entry.finish = delta.finish_reason
            self._metrics.request_success[delta.finish_reason].inc()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _news(self) -> None:
        if self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error

    def _used(self) -> Usage:
        """What the engine did for this: the prompts it read, and every token it produced."""
        if self._earlier:
            read = self._prompt_tokens
        else:
            parts = zip(self.prompts, self._parts, strict=False)
            read = sum(len(prompt.token_ids) for prompt, part in parts if part.produced)
        return Usage(read, self._completion_tokens, sum(self._cached_tokens))

    def _failed_with(self) -> BaseException | None:
        if self._failure is None and self._unfinished:
            return InterruptedCallError("disconnect")
        return self._failure

    def _observe(self, usage: Usage) -> None:
        metrics = self._metrics
        if not self._parts and not self._earlier:
            return
        metrics.prompt_tokens.inc(usage.prompt_tokens)
        metrics.cached_tokens.inc(usage.cached_tokens)
        metrics.generation_tokens.inc(usage.completion_tokens)
        if self._unfinished or self._first_at is None:
            return
        now = time.perf_counter()
        metrics.e2e_latency.observe(now - self._call.arrived)
        rest = usage.completion_tokens / (len(self.prompts) * self._call.sampling.n) - 1
        tpot = (now - self._first_at) / rest if rest > 0 else 0.0
        if rest > 0:
            metrics.time_per_output_token.observe(tpot)
        replica = self._call.deployment.replica
        ttft = self._first_at - self._call.arrived
        metrics.judge(replica.name, replica.config.slo, ttft, tpot)
