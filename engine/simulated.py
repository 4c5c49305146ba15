"""An engine without a model: scripted text, real timing, faults on request.

Sequences are batched continuously as in a real engine: at most `max_num_seqs` run, the rest wait
in order; a step costs `step_ms` plus the prefill of what it admits, and gives each running
sequence one token. Tokens are bytes, so tokenising is exact, reversible and may split characters.
Sampling options change nothing but the length: the script is always the same.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from engine.base import (
    Activity,
    Conversation,
    EngineDeadError,
    EngineGenerateError,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    Sink,
    Source,
    StartPhase,
    Structure,
    Submission,
)
from engine.checks import check_prompt, check_request, check_token_ids
from engine.config import EngineConfig
from engine.meter import Meter
from engine.reasoning import ReasoningTags
from engine.scripted import (
    BOS,
    SCRIPTED_CALLS,
    VOCAB_SIZE,
    ScriptedSequence,
    encode,
    render_chat,
)
from engine.simulated_call import Call, Choice
from engine.structure import check_structure
from engine.tools import ToolSyntax

DEFAULT_MAX_MODEL_LEN = 4096


class SimulatedEngine:
    """Implements `engine.base.Engine`. `clock` and `sleep` can be replaced by virtual ones."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._script = config.simulated
        self._clock = clock
        self._answer = self._script.text.encode()
        self._sleep = sleep
        self._meter = Meter(clock)
        # In the order they will run in.
        self._waiting: list[Choice] = []
        self._running: list[Choice] = []
        self._stepping: asyncio.Task[None] | None = None
        self._requests = 0
        self._produced = 0
        self._dead: str | None = None
        self._ended = asyncio.Event()
        # When it stopped stepping, which takes its CPU time to an end.
        self._stalled_at: float | None = None
        self._adapters: dict[str, str] = {}
        self._max_adapters = config.max_adapters
        max_model_len = config.max_model_len or DEFAULT_MAX_MODEL_LEN
        self._seats = config.seats
        self._kv_tokens = self._seats * max_model_len
        self._info = EngineInfo(
            model=config.model,
            engine="simulated",
            version="1",
            architecture="Simulated",
            dtype="none",
            quantization=None,
            device="none",
            max_model_len=max_model_len,
            vocab_size=VOCAB_SIZE,
            max_num_seqs=config.max_num_seqs,
            kv_cache_tokens=self._kv_tokens,
            spare_seqs=config.spare,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def start_phases(self) -> Sequence[StartPhase]:
        return ()

    @property
    def tool_syntax(self) -> ToolSyntax | None:
        return SCRIPTED_CALLS

    @property
    def reasoning_tags(self) -> ReasoningTags | None:
        return None

    async def check_structure(self, structure: Structure) -> None:
        self._raise_if_dead()
        check_structure(structure)

    async def render(self, source: Source, on_text: Callable[[], object] | None = None) -> Prompt:
        param = "prompt"
        if isinstance(source, str):
            prompt = Prompt(await self.tokenize(source) if source else (), source)
        elif isinstance(source, Conversation):
            prompt = Prompt(render_chat(source))
            param = "messages"
        else:
            prompt = Prompt(source)
        check_prompt(
            prompt.token_ids,
            vocab_size=VOCAB_SIZE,
            max_model_len=self._info.max_model_len,
            param=param,
        )
        return prompt

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        tokens = encode(text)
        return [BOS, *tokens] if add_special_tokens else tokens

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        check_token_ids(token_ids, vocab_size=VOCAB_SIZE, param="tokens")
        return bytes(token for token in token_ids if token < BOS).decode(errors="replace")

    @property
    def adapters(self) -> Sequence[str]:
        return tuple(self._adapters)

    async def add_adapter(self, name: str, path: str) -> None:
        self._raise_if_dead()
        if name in self._adapters:
            raise InvalidPromptError(f"The adapter `{name}` is loaded already.", "name")
        if len(self._adapters) >= self._max_adapters:
            raise InvalidPromptError(
                f"All {self._max_adapters} places for adapters are taken.", "base"
            )
        self._adapters[name] = path

    async def remove_adapter(self, name: str) -> None:
        self._adapters.pop(name, None)

    def submit(self, request: GenerateRequest, sink: Sink) -> Submission:
        self._raise_if_dead()
        if request.adapter is not None and request.adapter not in self._adapters:
            raise InvalidPromptError(f"The adapter `{request.adapter}` is not loaded.", "model")
        sampling, done = request.sampling, len(request.generated)
        left = check_request(request, vocab_size=VOCAB_SIZE, max_model_len=self._info.max_model_len)
        self._requests += 1
        call = Call(
            self._drop,
            sink,
            request.priority,
            sampling.n,
            self._failure_point(sampling, done + left),
            0 if done else len(request.prompt.token_ids),
        )
        self._meter.enter(sampling.n)
        for index in range(sampling.n):
            script = ScriptedSequence(index, done + left, request, self._answer)
            sequence = Choice(call, script, len(request.prompt.token_ids) + done, done)
            insort(self._waiting, sequence, key=lambda waiting: waiting.call.priority)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._run(), name="simulated engine")
        return call

    def stats(self) -> EngineStats:
        held = sum(choice.held for choice in self._running)
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_cache_usage=held / self._kv_tokens,
            prompt_tokens_total=self._meter.prompt_tokens,
            generation_tokens_total=self._meter.generation_tokens,
            tokens_per_second=self._meter.tokens_per_second,
            seconds_since_step=self._meter.seconds_since_step,
        )

    def activity(self) -> Activity:
        """It computes all the time, as long as it isn't stuck."""
        return Activity(self._clock() if self._stalled_at is None else self._stalled_at)

    @property
    def alive(self) -> bool:
        return self._dead is None

    async def died(self) -> None:
        await self._ended.wait()

    async def check_health(self) -> None:
        self._raise_if_dead()

    async def drain(self) -> None:
        await self._meter.idle()

    async def close(self) -> None:
        self._die("the engine was closed")
        if self._stepping is not None:
            self._stepping.cancel()
            with suppress(asyncio.CancelledError):
                await self._stepping
            self._stepping = None

    def _raise_if_dead(self) -> None:
        if self._dead is not None:
            raise EngineDeadError(f"The simulated engine is dead: {self._dead}.")

    def _failure_point(self, sampling: SamplingOptions, limit: int) -> int | None:
        """After how many tokens this request fails, if it is its turn."""
        if self._script.fail_every is None or self._requests % self._script.fail_every:
            return None
        ends = limit if sampling.ignore_eos else min(limit, len(self._answer) + 1)
        return max(1, ends // 2)

    def _drop(self, call: Call) -> None:
        call.over = True
        before = len(self._waiting) + len(self._running)
        self._waiting = [s for s in self._waiting if s.call is not call]
        self._running = [s for s in self._running if s.call is not call]
        self._meter.leave(before - len(self._waiting) - len(self._running))

    def _die(self, cause: str) -> None:
        if self._dead is None:
            self._dead = cause
        self._ended.set()
        for call in {s.call for s in (*self._running, *self._waiting)}:
            call.fail(EngineDeadError(f"The simulated engine died: {cause}."))

    async def _run(self) -> None:
        while self._running or self._waiting:
            stall = self._script.stall_after_tokens
            if stall is not None and self._produced >= stall:
                # As a hung device: alive, holding what it holds, and without another step.
                self._stalled_at = self._stalled_at or self._clock()
                return
            admitted = self._admit()
            prefill = sum(sequence.prompt_tokens for sequence in admitted)
            cost_ms = self._script.step_ms + prefill * self._script.prefill_ms_per_token
            await self._sleep(cost_ms / 1000)
            self._step()

    def _admit(self) -> list[Choice]:
        free = self._seats - len(self._running)
        admitted, self._waiting = self._waiting[:free], self._waiting[free:]
        self._running.extend(admitted)
        return admitted

    def _step(self) -> None:
        before, read = self._produced, 0
        for sequence in list(self._running):
            if self._dies_now():
                break
            call = sequence.call
            if call.over:
                continue
            if call.fails_at is not None and sequence.script.produced >= call.fails_at:
                call.fail(EngineGenerateError("The request failed, as told."))
                continue
            delta = sequence.script.advance()
            self._produced += 1
            call.produced += 1
            read += call.unread
            call.unread = 0
            if sequence.script.finished:
                self._running.remove(sequence)
                self._meter.leave(1)
            call.unfinished -= sequence.script.finished
            if call.pending.add(delta):
                call.sink.ready()
            if not call.unfinished:
                call.sink.finished()
        self._meter.step(read, self._produced - before)
        if self._dies_now():
            self._die(f"it produced {self._produced} tokens, as told")

    def _dies_now(self) -> bool:
        limit = self._script.die_after_tokens
        return limit is not None and self._produced >= limit
