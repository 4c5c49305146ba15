"""A model of an engine that batches continuously: what a step takes, what it yields, what fits.

As vLLM's scheduler: each step first gives the running sequences their next token, then spends what
is left of its token budget on prompts, in chunks, in order of priority and arrival; one takes half
of the budget at most unless it is alone. A sequence that finds no room for its next token takes it
from the one that came last, which starts over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.base import EngineInfo, EngineStats


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast and how large an engine is. Times in seconds, lengths in tokens."""

    max_num_seqs: int = 32
    spare_seqs: int = 0
    step_s: float = 0.025
    sequence_s: float = 0.001
    prefill_s: float = 0.00045
    max_batched_tokens: int = 1024
    kv_tokens: int = 46_600
    max_model_len: int = 2048


class Customer(Protocol):
    """Is told how its request gets on, within a step; must return at once."""

    tenant: str

    def began(self, cached_tokens: int) -> None:
        """The first token of the first sequence is there."""
        ...

    def produced(self) -> None:
        """One more completion token, of whichever sequence."""
        ...

    def ended(self, *, died: bool) -> None:
        """Every sequence has finished, or the engine has died."""
        ...


class Work:
    """A request inside of the engine: a sequence for each of the lengths in `completions`."""

    __slots__ = (
        "began", "cached", "customer", "priority", "prompt_tokens", "sequences", "unfinished",
    )  # fmt: skip

    def __init__(
        self,
        customer: Customer,
        prompt_tokens: int,
        cached_tokens: int,
        completions: Sequence[int],
        priority: int,
    ) -> None:
        self.customer = customer
        self.prompt_tokens = prompt_tokens
        self.cached = cached_tokens
        self.priority = priority
        self.began = False
        self.unfinished = len(completions)
        # The first computes the prompt, the others find it in the prefix cache.
        self.sequences = [
            _Running(self, 1 if number else prompt_tokens - cached_tokens, prompt_tokens, length)
            for number, length in enumerate(completions)
        ]


class _Running:
    """`missing` prompt tokens are still to be computed; `held` are in the KV cache when they are;
    `left` completion tokens are still to come."""

    __slots__ = ("held", "inside", "left", "missing", "work")

    def __init__(self, work: Work, missing: int, held: int, left: int) -> None:
        self.work = work
        self.missing = max(missing, 1)
        self.held = held
        self.left = left
        self.inside = False


class ModelledEngine:
    """Steps on the running loop's clock. It is the `model` that admission looks at.

    `idle_since` is when its last request left, while there is none.
    """

    def __init__(
        self,
        speed: Speed,
        loop: asyncio.AbstractEventLoop,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.speed = speed
        self._on_step = on_step
        self.dead = False
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.busy_s = 0.0
        self.peak_inside = 0
        self._loop = loop
        self._waiting: list[_Running] = []
        self._running: list[_Running] = []
        self._kv_used = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stepped_at = 0.0
        self.idle_since = loop.time()
        self.info = _info(speed)
        self._seats = speed.max_num_seqs + speed.spare_seqs

    @property
    def inside(self) -> int:
        """Sequences that run or wait here."""
        return len(self._running) + len(self._waiting)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def stats(self) -> EngineStats:
        busy = bool(self._running or self._waiting)
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_cache_usage=min(self._kv_used / self.speed.kv_tokens, 1.0),
            prompt_tokens_total=self.prompt_tokens,
            generation_tokens_total=self.generation_tokens,
            tokens_per_second=0.0,
            seconds_since_step=self._loop.time() - self._stepped_at if busy else None,
        )

    def submit(self, work: Work) -> None:
        """Begin; the customer hears of the rest."""
        self._waiting.extend(work.sequences)
        self._waiting.sort(key=_priority)
        self.peak_inside = max(self.peak_inside, self.inside)
        if self._timer is None:
            self._begin_step()

    def abort(self, work: Work) -> None:
        """Forget it; harmless where it is over."""
        for sequence in work.sequences:
            if sequence.inside:
                self._leave(sequence)
        self._waiting = [one for one in self._waiting if one.work is not work]
        work.unfinished = 0

    def die(self) -> None:
        """Whatever is inside ends."""
        self.dead = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        works = list(dict.fromkeys(one.work for one in (*self._running, *self._waiting)))
        for work in works:
            self.abort(work)
        for work in works:
            work.customer.ended(died=True)

    def _begin_step(self) -> None:
        """Choose what the step computes; it ends when the time for that has passed."""
        speed = self.speed
        decodes = sum(1 for one in self._running if not one.missing)
        budget = max(speed.max_batched_tokens - decodes, 0)
        self._admit()
        most = speed.max_batched_tokens // 2 if self.inside > 1 else budget
        prefilled = 0
        for one in self._running:
            if one.missing and budget > prefilled:
                chunk = min(one.missing, most, budget - prefilled)
                prefilled += chunk
                one.missing -= chunk
        lasts = speed.step_s + speed.sequence_s * decodes + speed.prefill_s * prefilled
        self.busy_s += lasts
        self._timer = self._loop.call_later(lasts, self._end_step)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._seats:
            one = self._waiting[0]
            if self._running and self._kv_used + one.held + 1 > self.speed.kv_tokens:
                break
            self._running.append(self._waiting.pop(0))
            one.inside = True
            self._kv_used += one.held

    def _end_step(self) -> None:
        self._timer = None
        self._stepped_at = self._loop.time()
        for one in list(self._running):
            if one.inside and not one.missing:
                self._token(one)
        self._on_step()
        if not self.inside:
            self.idle_since = self._stepped_at
        elif not self.dead and self._timer is None:
            self._begin_step()

    def _token(self, one: _Running) -> None:
        while self._kv_used >= self.speed.kv_tokens and self._running[-1] is not one:
            self._preempt(self._running[-1])
        work = one.work
        one.held += 1
        one.left -= 1
        self._kv_used += 1
        self.generation_tokens += 1
        if not work.began:
            work.began = True
            self.prompt_tokens += work.prompt_tokens
            self.cached_tokens += work.cached
            work.customer.began(work.cached)
        work.customer.produced()
        if not one.left and one.inside:
            self._leave(one)
            work.unfinished -= 1
            if not work.unfinished:
                work.customer.ended(died=False)

    def _preempt(self, one: _Running) -> None:
        self._leave(one)
        one.missing = one.held
        self._waiting.insert(0, one)

    def _leave(self, one: _Running) -> None:
        self._running.remove(one)
        self._kv_used -= one.held
        one.inside = False


def _priority(one: _Running) -> int:
    return one.work.priority


def _info(speed: Speed) -> EngineInfo:
    return EngineInfo(
        model="modelled",
        engine="modelled",
        version="1",
        architecture="Modelled",
        dtype="none",
        quantization=None,
        device="none",
        max_model_len=speed.max_model_len,
        vocab_size=256,
        max_num_seqs=speed.max_num_seqs,
        kv_cache_tokens=speed.kv_tokens,
        spare_seqs=speed.spare_seqs,
    )
