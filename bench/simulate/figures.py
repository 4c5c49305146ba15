"""Two loads on the modelled engine, each shared fairly and first come first served, to look at.

The model is as fast as the default model on two cores; the loads are those of `bench.tenants`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from bench.simulate.engine import Speed
from bench.simulate.scenario import Ask, Scenario
from bench.simulate.world import Run, World
from bench.stats import percentile
from bench.tenancy.chart import Line, Panel, distribution, to_svg
from gateway.config import AdmissionConfig
from gateway.tenants import Principal

_PROMPT, _COMPLETION = 64, 32
SECONDS = 120.0
_SETTLING = 0.25
_QUIET_SHARE, _FLOOD = 0.1, 10.0
_WEIGHTS = (1.0, 2.0, 4.0)
_ENDLESS = 1_000_000
_UNBOUNDED = AdmissionConfig(
    max_requests=_ENDLESS,
    max_queued=_ENDLESS,
    max_queued_tokens=10**9,
    max_queued_per_tenant=_ENDLESS,
    max_queued_tokens_per_tenant=10**9,
)
# A tenth of the seats, as an engine has unless told otherwise.
_SPARE = 3
QUIET, FLOOD = Principal("quiet", "quiet"), Principal("flood", "flood")


@dataclass(frozen=True, slots=True)
class Figures:
    """What was seen. TTFT in milliseconds, of the quiet tenant; `runs` are those of the weights."""

    capacity_per_s: float
    ttft_ms: dict[str, list[float]]
    fair: Run
    no_spare: Run
    first_come: Run
    largest_gap: float

    def ratio(self, how: str, percent: float) -> float:
        """How many times longer the quiet tenant waited under the flood than alone."""
        return percentile(self.ttft_ms[how], percent) / percentile(self.ttft_ms["alone"], percent)


def measure(seed: int, seconds: float = SECONDS) -> Figures:
    """Simulate all of it, each load for so long; takes some seconds."""
    speed, packed = Speed(spare_seqs=_SPARE), Speed()
    capacity = _capacity(speed, seed)
    quiet = _arrivals(QUIET, _QUIET_SHARE * capacity, seconds, seed)
    # Whoever of them still waits at the end hangs up.
    flood = [
        replace(ask, patience_s=seconds - ask.at)
        for ask in _arrivals(FLOOD, _FLOOD * capacity, seconds, seed + 1)
    ]
    both = sorted([*quiet, *flood], key=lambda ask: ask.at)
    beside = Scenario(seed, speed, AdmissionConfig(), (QUIET, FLOOD), tuple(both))
    tangled = replace(beside, admission=_UNBOUNDED, first_come=True)
    runs = {
        "alone": _run(replace(beside, asks=tuple(quiet))),
        "under flood, fair": _run(beside),
        "under flood, fair, no spare seats": _run(replace(beside, speed=packed)),
        "under flood, first come": _run(tangled),
    }
    weighted = _weighted(seed, speed, seconds)
    fair = _run(weighted)
    return Figures(
        capacity,
        {name: _quiet_ttft(run) for name, run in runs.items()},
        fair,
        _run(replace(weighted, speed=packed)),
        _run(replace(weighted, first_come=True)),
        fair.largest_gap,
    )


def shares(run: Run) -> dict[str, float]:
    """Of the service, times the weight, from a quarter of the time on."""
    start = next(service for at, service in run.service if at >= _SETTLING * run.seconds)
    end = run.service[-1][1]
    gained = {name: (end[name] - start[name]) * _weight(name) for name in end}
    whole = sum(gained.values())
    return {name: gain / whole for name, gain in gained.items()}


def throughput(run: Run) -> float:
    """Tokens a second, prompts and completions."""
    return (run.prompt_tokens + run.generation_tokens) / run.seconds


def to_markdown(found: Figures) -> str:
    lines = [
        f"Modelled engine, {found.capacity_per_s:.1f} requests/s of {_PROMPT} prompt and "
        f"{_COMPLETION} completion tokens.",
        "",
        "| quiet tenant | TTFT p50, ms | p95 | p95 over alone |",
        "|---|--:|--:|--:|",
    ]
    for name, values in found.ttft_ms.items():
        p50, p95 = percentile(values, 50), percentile(values, 95)
        lines.append(f"| {name} | {p50:,.0f} | {p95:,.0f} | {found.ratio(name, 95):.2f} |")
    whole = sum(_WEIGHTS)
    lines += [
        "",
        "| all wait | " + " | ".join(f"weight {weight:g}" for weight in _WEIGHTS) + " | tokens/s |",
        "|---|" + "--:|" * (len(_WEIGHTS) + 1),
        "| promised | " + " | ".join(f"{weight / whole:.3f}" for weight in _WEIGHTS) + " | |",
    ]
    for name, run in _weighted_runs(found).items():
        told = " | ".join(f"{share:.3f}" for share in shares(run).values())
        lines.append(f"| {name} | {told} | {throughput(run):,.0f} |")
    return "\n".join(lines) + "\n"


def to_record(found: Figures) -> dict[str, Any]:
    return {
        "capacity_per_s": found.capacity_per_s,
        "quiet_ttft_ms": {
            name: {f"p{percent}": percentile(values, percent) for percent in (50, 90, 95, 99)}
            for name, values in found.ttft_ms.items()
        },
        "shares": {name: shares(run) for name, run in _weighted_runs(found).items()},
        "tokens_per_s": {name: throughput(run) for name, run in _weighted_runs(found).items()},
        "largest_gap_over_bound": found.largest_gap,
    }


def svg(found: Figures) -> str:
    """The quiet tenant's TTFT, and the service of tenants that all wait."""
    waits = [
        Line(name, distribution(values), number)
        for number, (name, values) in enumerate(found.ttft_ms.items())
    ]
    title = "Quiet tenant: % of requests with at most this TTFT"
    panels = [Panel(title, "TTFT, ms", waits, log=True)]
    for name, run in (("fair", found.fair), ("first come first served", found.first_come)):
        courses = [
            Line(
                tenant, [(at, service[tenant] * _weight(tenant)) for at, service in run.service], n
            )
            for n, tenant in enumerate(run.service[0][1])
        ]
        panels.append(Panel(f"Service, {name}", "s", courses))
    return to_svg("Fairness, simulated", panels)


def _weighted_runs(found: Figures) -> dict[str, Run]:
    return {
        "fair": found.fair,
        "fair, no spare seats": found.no_spare,
        "first come": found.first_come,
    }


def _run(scenario: Scenario) -> Run:
    return World(scenario, sample_s=0.5, strict=False).play()


def _capacity(speed: Speed, seed: int) -> float:
    """Requests a second, always full."""
    rng = random.Random(seed)
    asks = tuple(_ask(rng, QUIET, 0.0) for _ in range(20 * speed.max_num_seqs))
    run = _run(Scenario(seed, speed, _UNBOUNDED, (QUIET,), asks))
    return len(asks) / run.seconds


def _arrivals(caller: Principal, rate: float, seconds: float, seed: int) -> list[Ask]:
    rng, at, found = random.Random(seed), 0.0, []
    while (at := at + rng.expovariate(rate)) < seconds:
        found.append(_ask(rng, caller, at))
    return found


def _weighted(seed: int, speed: Speed, seconds: float) -> Scenario:
    """Everybody asks at once for more than can be done."""
    callers = tuple(Principal(f"weight {w:g}", f"weight {w:g}", weight=w) for w in _WEIGHTS)
    many = range(int(seconds * 12))
    rng = random.Random(seed)
    # As if the clients all left at the end: what matters is while everybody waits.
    asks = [replace(_ask(rng, one, 1e-5 * n), patience_s=seconds) for n in many for one in callers]
    return Scenario(seed, speed, _UNBOUNDED, callers, tuple(asks))


def _ask(rng: random.Random, caller: Principal, at: float) -> Ask:
    length = rng.randint(_COMPLETION // 2, _COMPLETION * 3 // 2)
    return Ask(at, caller, _PROMPT, 0, (length,), _COMPLETION * 3 // 2, render_s=0.001)


def _quiet_ttft(run: Run) -> list[float]:
    return sorted(
        1000 * row.ttft_s
        for row in run.rows
        if row.ask.principal is QUIET and row.ttft_s is not None
    )


def _weight(tenant: str) -> float:
    return float(tenant.removeprefix("weight "))
