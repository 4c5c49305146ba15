"""One measurement: warm-up, then the load, with what it cost the client itself."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from time import process_time
from typing import Protocol

import aiohttp

from bench.client import Expected, Outcome, Sample, Target, complete, request_body
from bench.errors import BenchError
from bench.measuring.arrivals import Arrivals
from bench.measuring.facts import ServerFacts
from bench.measuring.lag import loop_lag
from bench.measuring.loop import LoopResult, Send, closed_loop
from bench.measuring.openloop import open_loop
from bench.measuring.settings import Settings
from bench.prompts.lengths import draw, longest
from bench.prompts.prompt import Prompt, Workload

__all__ = ["Measurement", "Settings", "Watcher", "check_fits", "measure"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything one measurement found; warm-up requests are in `warmup` alone.

    `server` is the first of `targets`; request number n went to target n modulo their number.
    `loop_lag_s` are samples of how late the client's event loop was.
    """

    settings: Settings
    server: ServerFacts
    targets: tuple[Target, ...]
    workload: Workload
    started_at: datetime
    warmup: LoopResult
    measured: LoopResult
    client_cpu_s: float
    loop_lag_s: tuple[float, ...] = ()

    @property
    def interrupted(self) -> bool:
        return self.warmup.interrupted or self.measured.interrupted


class Watcher(Protocol):
    """Is told how a measurement goes on."""

    def begin(self, phase: str, total: int) -> None:
        """`total` requests are to be sent; 0: it isn't known how many."""
        ...

    def outcome(self, outcome: Outcome) -> None: ...


def check_fits(settings: Settings, server: ServerFacts) -> None:
    """Raises BenchError: the model's context is too short for the requests."""
    kind, limit = settings.dataset.kind, server.max_model_len
    if limit is None or kind in ("sharegpt", "replay"):
        return
    turns = settings.dataset.turns if kind == "multi-turn" else 1
    wanted = turns * (longest(settings.input_tokens) + longest(settings.output_tokens))
    if wanted > limit:
        times = f"{turns} turns of " if turns > 1 else ""
        raise BenchError(
            f"{times}{longest(settings.input_tokens)} input and {longest(settings.output_tokens)} "
            f"output tokens don't fit the {limit} tokens of {server.model}'s context"
        )


async def measure(
    session: aiohttp.ClientSession,
    target: Target,
    settings: Settings,
    server: ServerFacts,
    workload: Workload,
    watcher: Watcher,
    on_start: Callable[[], None] = lambda: None,
    *,
    others: Sequence[Target] = (),
) -> Measurement:
    """Send the warm-up, wait for it, then measure. The workload holds the prompts of both.

    `on_start` is called between the two. Requests go to `target` and `others` in turn. An
    interruption gives what was measured until then. Raises BenchError: the workload is not of the
    dataset that is asked for, or there was no request to measure.
    """
    if workload.dataset != settings.dataset.kind:
        raise BenchError(f"--dataset {settings.dataset.kind} is not known to this command")
    targets = (target, *others)
    send = _sender(session, targets, settings)
    prompts = workload.begin(settings.warmup)
    warmup, measured, lag = LoopResult(), LoopResult(), list[float]()
    if settings.warmup:
        watcher.begin("warm-up", settings.warmup)
        warmup = await closed_loop(
            list(islice(prompts, settings.warmup)),
            concurrency=settings.concurrency,
            send=send,
            on_outcome=watcher.outcome,
        )
    on_start()
    started_at, cpu = datetime.now(UTC), process_time()
    if not warmup.interrupted:
        watcher.begin(*_shown(settings))
        with _without_old_garbage(), loop_lag() as lag:
            measured = await _loaded(settings, prompts, send, watcher)
        if not measured.sent and not measured.interrupted:
            within = settings.duration_s
            short = "" if within is None else f" in {within:g} s; give a longer --duration"
            raise BenchError(f"nothing was measured: there was no request to send{short}")
    return Measurement(
        settings=settings,
        server=server,
        targets=targets,
        workload=workload,
        started_at=started_at,
        warmup=warmup,
        measured=measured,
        client_cpu_s=process_time() - cpu,
        loop_lag_s=tuple(lag),
    )


def _sender(session: aiohttp.ClientSession, targets: Sequence[Target], settings: Settings) -> Send:
    lengths = random.Random(f"output {settings.seed}")

    async def send(number: int, prompt: Prompt) -> Outcome:
        target = targets[number % len(targets)]
        expected = Expected(
            prompt.prompt_tokens,
            prompt.output_tokens or draw(settings.output_tokens, lengths),
            settings.stream,
            settings.timeout_s,
            keep_text=prompt.on_answer is not None,
        )
        body = request_body(target, expected, prompt.fields, settings.temperature)
        outcome = await complete(session, target, body, expected)
        if prompt.on_answer is not None and isinstance(outcome, Sample):
            prompt.on_answer(outcome.text)
        return outcome

    return send


async def _loaded(
    settings: Settings, prompts: Iterator[Prompt], send: Send, watcher: Watcher
) -> LoopResult:
    if settings.duration_s is None:
        prompts = islice(prompts, settings.requests)
    if settings.open_loop:
        return await open_loop(
            _due(settings, prompts),
            send=send,
            on_outcome=watcher.outcome,
            max_in_flight=settings.max_in_flight,
            duration_s=settings.duration_s,
        )
    return await closed_loop(
        prompts,
        concurrency=settings.concurrency,
        send=send,
        on_outcome=watcher.outcome,
        duration_s=settings.duration_s,
    )


def _due(settings: Settings, prompts: Iterator[Prompt]) -> Iterator[tuple[Prompt, float]]:
    if settings.rate is None:
        return ((prompt, prompt.at_s or 0.0) for prompt in prompts)
    arrivals = Arrivals(
        settings.arrivals,
        settings.rate,
        settings.burstiness,
        settings.rate_end,
        ramp_s=settings.duration_s or settings.requests / _mean_rate(settings),
    )
    return zip(prompts, arrivals.times(settings.seed), strict=False)


def _mean_rate(settings: Settings) -> float:
    """0 in a closed loop."""
    rate = settings.rate or 0.0
    return (rate + (settings.rate_end or rate)) / 2


def _shown(settings: Settings) -> tuple[str, int]:
    """The name of the phase, and how many requests it has, about."""
    if settings.duration_s is None:
        return "measuring", settings.requests
    total = round(_mean_rate(settings) * settings.duration_s)
    return f"measuring, {settings.duration_s:g} s", total


@contextmanager
def _without_old_garbage() -> Iterator[None]:
    """What is there by now, such as the prompts, is not searched for garbage meanwhile: such a
    search would be a pause in every latency."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
