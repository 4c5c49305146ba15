"""What happens in one simulated run: who calls, with what, under which limits, and what breaks.

Everything comes from the seed; sizes are small, so that queues fill, limits bind and windows roll
over within a few hundred engine steps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.simulate.engine import Speed
from gateway.config import AdmissionConfig
from gateway.tenants import Account, Budget, Limits, Price, Principal, Priority, Window

# Whole nano-units a token, so that the costs of requests add up to that of all their tokens.
PRICE = Price(prompt=150_000_000, cached=15_000_000, completion=600_000_000)
_TURNS = (3_600, 86_400)
# 2026-05-31 00:00 UTC. It is a Sunday: at its end hour, day, week and month begin together.
_LAST_DAY = 1_780_185_600.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. Times in seconds from the start; `completions` are the lengths its sequences
    come to, of at most `max_tokens` each. The client hangs up `patience_s` after it asked."""

    at: float
    principal: Principal
    prompt_tokens: int
    cached_tokens: int
    completions: tuple[int, ...]
    max_tokens: int
    patience_s: float | None = None
    timeout_s: float | None = None
    render_s: float = 0.002


@dataclass(frozen=True, slots=True)
class Death:
    """The engine dies at `at` and is back `away_s` later, or never."""

    at: float
    away_s: float | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. `wall_start` is the time of day at its start, in seconds since the epoch.

    `first_come` hides from the queue whose a request is, which makes it first come first served.
    """

    seed: int
    speed: Speed
    admission: AdmissionConfig
    callers: tuple[Principal, ...]
    asks: tuple[Ask, ...]
    deaths: tuple[Death, ...] = ()
    wall_start: float = 0.0
    price: Price = PRICE
    first_come: bool = False

    @property
    def capped(self) -> bool:
        return self.admission.max_running_per_tenant is not None


def random_scenario(seed: int) -> Scenario:
    """The same for the same seed. One in four is a contest: everybody asks for much at once, and
    nothing but fairness keeps anybody back."""
    rng = random.Random(seed)
    speed = _speed(rng)
    span = rng.choice((0.5, 2.0, 8.0))
    contest = rng.random() < 0.25
    if contest:
        return _contest(rng, seed, speed)
    callers = _callers(rng, limited=rng.choice((0.2, 0.8)))
    asks = sorted(
        (ask for one in callers for ask in _asks(rng, one, span, speed)), key=lambda ask: ask.at
    )
    turn = rng.choice(_TURNS)
    return Scenario(
        seed=seed,
        speed=speed,
        admission=_admission(rng),
        callers=callers,
        asks=tuple(asks),
        deaths=_deaths(rng, span),
        wall_start=_LAST_DAY + turn - rng.uniform(0, 2 * span),
    )


def _contest(rng: random.Random, seed: int, speed: Speed) -> Scenario:
    """One after the other the tenants send all they have, within a moment."""
    callers = _callers(rng, limited=0.0)
    asks = []
    for number, caller in enumerate(callers):
        long, short = rng.choice((4, 32)), rng.choice((2, 8))
        at = number * rng.choice((0.0, 0.1))
        asks += [_ask(rng, caller, at, long, short, speed) for _ in range(rng.randint(40, 80))]
    admission = AdmissionConfig(margin=rng.choice((0.0, 0.125, 1.0)), max_queued=1000)
    return Scenario(seed, speed, admission, callers, tuple(sorted(asks, key=lambda ask: ask.at)))


def _speed(rng: random.Random) -> Speed:
    sequences = rng.choice((1, 2, 4, 8))
    return Speed(
        max_num_seqs=sequences,
        spare_seqs=rng.choice((0, 0, 1, 3)),
        step_s=rng.choice((0.005, 0.02)),
        sequence_s=0.001,
        prefill_s=rng.choice((0.0001, 0.001)),
        max_batched_tokens=rng.choice((16, 64, 256)),
        kv_tokens=rng.choice((100 + 30 * sequences, 120 * sequences + 100)),
        max_model_len=128,
    )


def _admission(rng: random.Random) -> AdmissionConfig:
    return AdmissionConfig(
        max_requests=rng.choice((20, 1000)),
        max_queued=rng.choice((5, 50, 1000)),
        max_queued_tokens=rng.choice((500, 100_000)),
        max_queued_per_tenant=rng.choice((4, 40, 1000)),
        max_queued_tokens_per_tenant=rng.choice((300, 100_000)),
        max_running_per_tenant=rng.choice((None, None, None, 2)),
        margin=rng.choice((0.0, 0.125, 1.0)),
        kv_ceiling=rng.choice((0.5, 0.95, 1.0)),
        max_ttft_s=rng.choice((None, None, 1.0)),
    )


def _callers(rng: random.Random, *, limited: float) -> tuple[Principal, ...]:
    """Keys of some teams; each key and team has limits with this probability."""
    found: list[Principal] = []
    for number in range(rng.randint(2, 5)):
        name = f"tenant-{number}"
        weight = rng.choice((1.0, 1.0, 2.0, 4.0))
        priority: Priority = rng.choice(("online", "online", "online", "batch"))
        team = Account(f"team:{name}", _limits(rng, limited))
        for key in range(rng.choice((1, 1, 2))):
            own = Account(f"key:{name}-{key}", _limits(rng, limited))
            found.append(
                Principal(
                    name=f"{name}-{key}",
                    owner=name,
                    team=name,
                    weight=weight,
                    priority=priority,
                    accounts=tuple(one for one in (own, team) if one.limits.any),
                )
            )
    return tuple(found)


def _limits(rng: random.Random, limited: float) -> Limits:
    if rng.random() >= limited:
        return Limits()
    windows: tuple[Window, ...] = ("hour", "day", "week", "month", "total")
    tokens = Budget("tokens", rng.choice((150, 600, 3000)), rng.choice(windows))
    money = Budget("currency", rng.choice((20_000, 200_000)), rng.choice(windows))
    return Limits(
        rpm=rng.choice((None, 5, 60)),
        tpm=rng.choice((None, 150, 600, 3000)),
        max_concurrent=rng.choice((None, 1, 4)),
        budgets=rng.choice(((), (tokens,), (money,), (tokens, money))),
    )


def _asks(rng: random.Random, caller: Principal, span: float, speed: Speed) -> Sequence[Ask]:
    """A flood at once, a steady trickle, or bursts."""
    count = rng.choice((2, 8, 30))
    kind = rng.choice(("flood", "steady", "bursts"))
    bursts = [rng.uniform(0, span) for _ in range(3)]
    long, short = rng.choice((16, 64)), rng.choice((4, 24))
    return [
        _ask(rng, caller, _moment(rng, kind, span, bursts), long, short, speed)
        for _ in range(count)
    ]


def _moment(rng: random.Random, kind: str, span: float, bursts: Sequence[float]) -> float:
    if kind == "flood":
        return rng.uniform(0, 0.05)
    return rng.choice(bursts) if kind == "bursts" else rng.uniform(0, span)


def _ask(
    rng: random.Random, caller: Principal, at: float, long: int, short: int, speed: Speed
) -> Ask:
    prompt = rng.randint(1, long)
    most = rng.randint(1, short)
    choices = rng.choice((1,) * 12 + (2, speed.max_num_seqs + 3))
    return Ask(
        at=at,
        principal=caller,
        prompt_tokens=prompt,
        cached_tokens=rng.choice((0, 0, prompt // 2)),
        completions=tuple(rng.choice((most, rng.randint(1, most))) for _ in range(choices)),
        max_tokens=most,
        patience_s=rng.choice((None,) * 6 + (rng.uniform(0, 2.0),)),
        timeout_s=rng.choice((None,) * 6 + (rng.uniform(0.05, 2.0),)),
        render_s=rng.choice((0.0, 0.002)),
    )


def _deaths(rng: random.Random, span: float) -> tuple[Death, ...]:
    if rng.random() < 0.7:
        return ()
    found = [Death(rng.uniform(0, span), rng.uniform(0.1, 2.0)) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.2:
        found.append(Death(rng.uniform(0, 2 * span), None))
    return tuple(sorted(found, key=lambda death: death.at))
