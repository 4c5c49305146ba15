"""An engine without a model: scripted text, real timing, faults on request.

Sequences are batched continuously as in a real engine: at most `max_num_seqs` run, the rest wait
in order; a step costs `step_ms` plus the prefill of what it admits, and gives each running
sequence one token. Tokens are bytes, so tokenising is exact, reversible and may split characters.
Sampling options change nothing but the length: the script is always the same.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from engine.base import (
    ChatMessage,
    EngineDeadError,
    EngineGenerateError,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    StartPhase,
    TokenDelta,
)
from engine.checks import check_prompt, check_sampling, completion_room
from engine.config import EngineConfig
from engine.meter import Meter

BOS, EOS, END = 256, 257, 258
ROLES = {"system": 259, "developer": 260, "user": 261, "assistant": 262, "tool": 263}
VOCAB_SIZE = 264
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
        self._answer = self._script.text.encode()
        self._sleep = sleep
        self._meter = Meter(clock)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._stepping: asyncio.Task[None] | None = None
        self._requests = 0
        self._produced = 0
        self._dead: str | None = None
        max_model_len = config.max_model_len or DEFAULT_MAX_MODEL_LEN
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
            kv_cache_tokens=config.max_num_seqs * max_model_len,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def start_phases(self) -> Sequence[StartPhase]:
        return ()

    async def render(self, source: Sequence[ChatMessage] | str | Sequence[int]) -> Prompt:
        if isinstance(source, str):
            prompt = Prompt(await self.tokenize(source) if source else (), source)
        elif source and isinstance(source[0], ChatMessage):
            prompt = Prompt(_render_chat([m for m in source if isinstance(m, ChatMessage)]))
        else:
            prompt = Prompt([token for token in source if isinstance(token, int)])
        check_prompt(
            prompt.token_ids, vocab_size=VOCAB_SIZE, max_model_len=self._info.max_model_len
        )
        return prompt

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        tokens = list(text.encode())
        return [BOS, *tokens] if add_special_tokens else tokens

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return bytes(token for token in token_ids if token < BOS).decode(errors="replace")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
        self._raise_if_dead()
        sampling, prompt_tokens = request.sampling, len(request.prompt.token_ids)
        check_sampling(sampling, VOCAB_SIZE)
        limit = completion_room(prompt_tokens, sampling.max_tokens, self._info.max_model_len)
        self._requests += 1
        call = _Call(fails_at=self._failure_point(sampling, limit))
        sequences = [
            _Sequence(call, index, prompt_tokens, limit, sampling, self._answer)
            for index in range(sampling.n)
        ]
        with self._meter.inside(sampling.n):
            try:
                self._submit(sequences)
                unfinished = sampling.n
                while unfinished:
                    item = await call.deltas.get()
                    if isinstance(item, Exception):
                        raise item
                    unfinished -= item.finish_reason is not None
                    yield item
            finally:
                self._drop(call)

    def stats(self) -> EngineStats:
        held = sum(sequence.prompt_tokens + sequence.produced for sequence in self._running)
        assert self._info.kv_cache_tokens is not None
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_cache_usage=held / self._info.kv_cache_tokens,
            prompt_tokens_total=self._meter.prompt_tokens,
            generation_tokens_total=self._meter.generation_tokens,
            tokens_per_second=self._meter.tokens_per_second,
            seconds_since_step=self._meter.seconds_since_step,
        )

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

    def _submit(self, sequences: Sequence[_Sequence]) -> None:
        self._waiting.extend(sequences)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._run(), name="simulated engine")

    def _drop(self, call: _Call) -> None:
        self._waiting = deque(s for s in self._waiting if s.call is not call)
        self._running = [s for s in self._running if s.call is not call]

    def _die(self, cause: str) -> None:
        if self._dead is None:
            self._dead = cause
        for call in {id(s.call): s.call for s in (*self._running, *self._waiting)}.values():
            call.deltas.put_nowait(EngineDeadError(f"The simulated engine died: {cause}."))
        self._running.clear()
        self._waiting.clear()

    async def _run(self) -> None:
        while self._running or self._waiting:
            stall = self._script.stall_after_tokens
            if stall is not None and self._produced >= stall:
                # As a hung device: alive, holding what it holds, and without another step.
                return
            admitted = self._admit()
            prefill = sum(sequence.prompt_tokens for sequence in admitted)
            cost_ms = self._script.step_ms + prefill * self._script.prefill_ms_per_token
            await self._sleep(cost_ms / 1000)
            self._step(prefill)

    def _admit(self) -> list[_Sequence]:
        free = self._info.max_num_seqs - len(self._running)
        admitted = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        self._running.extend(admitted)
        return admitted

    def _step(self, prefill: int) -> None:
        produced = 0
        for sequence in list(self._running):
            if self._script.die_after_tokens is not None and (
                self._produced >= self._script.die_after_tokens
            ):
                self._die(f"it produced {self._produced} tokens, as it was told")
                break
            call = sequence.call
            if call.fails_at is not None and sequence.produced >= call.fails_at:
                call.deltas.put_nowait(EngineGenerateError("The request failed, as it was told."))
                self._drop(call)
                continue
            if sequence not in self._running:
                continue
            delta = sequence.advance()
            produced += 1
            self._produced += 1
            if delta.finish_reason is not None:
                self._running.remove(sequence)
            call.deltas.put_nowait(delta)
        self._meter.step(prefill, produced)


@dataclass(eq=False, slots=True)
class _Call:
    """One `generate()`: where its sequences' deltas go, and when it fails if it must."""

    fails_at: int | None
    deltas: asyncio.Queue[TokenDelta | Exception] = field(default_factory=asyncio.Queue)


class _Sequence:
    """One choice: walks through the script and cuts at stop strings."""

    def __init__(
        self,
        call: _Call,
        index: int,
        prompt_tokens: int,
        limit: int,
        sampling: SamplingOptions,
        answer: bytes,
    ) -> None:
        self.call = call
        self.prompt_tokens = prompt_tokens
        self.produced = 0
        self._index = index
        self._limit = limit
        self._sampling = sampling
        self._answer = answer
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._held = ""
        # Text that may still turn out to be the beginning of a stop string is not sent yet.
        self._hold = max((len(stop) for stop in sampling.stop), default=1) - 1

    def advance(self) -> TokenDelta:
        """Produce the next token."""
        token = self._next_token()
        self.produced += 1
        finish = self._finish(token)
        stops = finish == "stop"
        if token < BOS and not stops:
            self._held += self._decoder.decode(bytes((token,)))
        cut = self._stop_position() if self.produced > self._sampling.min_tokens else None
        if cut is not None:
            finish, text = "stop", self._held[:cut]
        else:
            sent = len(self._held) if finish else max(0, len(self._held) - self._hold)
            text, self._held = self._held[:sent], self._held[sent:]
        return TokenDelta(self._index, text, (token,), finish)

    def _next_token(self) -> int:
        at_end = self.produced >= len(self._answer)
        if at_end and not self._sampling.ignore_eos and self.produced >= self._sampling.min_tokens:
            return EOS
        return self._answer[self.produced % len(self._answer)]

    def _finish(self, token: int) -> FinishReason | None:
        enough = self.produced > self._sampling.min_tokens
        if token == EOS or (enough and token in self._sampling.stop_token_ids):
            return "stop"
        return "length" if self.produced >= self._limit else None

    def _stop_position(self) -> int | None:
        """Where the text is cut: the beginning of the stop string that is complete first."""
        found = [
            (position + len(stop), position)
            for stop in self._sampling.stop
            if stop and (position := self._held.find(stop)) >= 0
        ]
        return min(found)[1] if found else None


def _render_chat(messages: Sequence[ChatMessage]) -> list[int]:
    if not messages:
        raise InvalidPromptError("At least one message is needed.", "messages")
    tokens = [BOS]
    for message in messages:
        tokens += [ROLES[message.role], *message.content.encode(), END]
    return [*tokens, ROLES["assistant"]]
