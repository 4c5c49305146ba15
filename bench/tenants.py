"""`python -m bench.tenants`: what one tenant sees of another's flood, and who gets which share."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.cli.command import (
    Exit,
    at_least,
    check_outputs,
    command_parser,
    positive,
    run,
)
from bench.cli.head import head
from bench.cli.progress import live_progress
from bench.client import new_session
from bench.reports.report import write_json
from bench.tenancy.attempt import Attempt
from bench.tenancy.crowd import Shape, Tenant
from bench.tenancy.phases import Capacity, Quiet, Shared, Stage
from bench.tenancy.report import Fairness, Round, fairness_record, fairness_svg, to_markdown
from bench.tenancy.servers import (
    Servers,
    add_output_options,
    add_server_options,
    add_shape_options,
    chosen,
    started,
)

SCHEMA_VERSION = 1
QUIET, FLOOD, ONE = Tenant("quiet"), Tenant("flood"), Tenant("one")
_WARMUP_S = 5.0
_TICK_S = 0.5

_DESCRIPTION = """\
Measure how a server shares itself between tenants.

Two tests, in interleaved rounds over the gateway and vLLM's own server, which knows no tenants:

flood    a quiet tenant sends a tenth of what the server can do, first alone, then while another
         tenant sends ten times what the server can do and obeys no refusal: the quiet tenant's
         time to first token (TTFT), both times, and how many times longer it took
weights  tenants of the weights 1, 2 and 4 all have more waiting than fits: which share of the
         service (prompt + 2 x completion tokens) each of them gets, and what the sharing costs:
         total tokens a second against the same load of one tenant, first come first served

What the server can do is measured first, on the first server, and is the same for all of them.
Each tenant gets a key of its own where the server makes keys (POST /admin/v1/keys).
"""

_EXAMPLES = """\
examples:
  # both tests on the default model, the gateway and vLLM's server beside each other
  python -m bench.tenants --json tenants.json --svg tenants.svg

  # one test, a short one, on a tiny model that is made for it
  python -m bench.tenants --tests flood --tiny --seconds 10 --rounds 1

  # a gateway that runs already
  python -m bench.tenants --server mine=http://127.0.0.1:8000/v1 --admin-key "$ADMIN_KEY"

exit codes:
  0    every request was answered, or refused with 429 or 503; the flood's clients may hang up
  1    some answers were wrong, cut off or never came; the report says how many
  2    wrong usage, or a server can't be reached or started
  130  stopped by Ctrl-C; what had been measured is printed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _tenants(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.tenants", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--tests",
        choices=("flood", "weights"),
        nargs="+",
        default=["flood", "weights"],
        help="default: both",
    )
    add_server_options(parser, "gateway, vllm")
    load = parser.add_argument_group("load")
    load.add_argument("--rounds", type=at_least(1), default=2, metavar="N", help="default: 2")
    load.add_argument(
        "--seconds",
        type=positive,
        default=45.0,
        metavar="S",
        help="each phase lasts so long; a round has two for each test and server (default: 45)",
    )
    load.add_argument(
        "--capacity",
        type=positive,
        metavar="R",
        help="requests a second that the server can do (default: measured)",
    )
    load.add_argument(
        "--capacity-seconds",
        type=positive,
        default=20.0,
        metavar="S",
        help="the capacity is measured for so long (default: 20)",
    )
    load.add_argument(
        "--quiet-share",
        type=positive,
        default=0.1,
        metavar="X",
        help="of the capacity, sent by the quiet tenant (default: 0.1)",
    )
    load.add_argument(
        "--flood",
        type=positive,
        default=10.0,
        metavar="X",
        help="times the capacity, sent by the other (default: 10)",
    )
    load.add_argument(
        "--weights",
        type=positive,
        nargs="+",
        default=[1.0, 2.0, 4.0],
        metavar="W",
        help="of the tenants that all wait (default: 1 2 4)",
    )
    add_shape_options(load)
    add_output_options(parser)
    return parser


async def _tenants(args: argparse.Namespace) -> Exit:
    check_outputs(args, "json", "markdown", "svg")
    console = Console(stderr=True)
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="bench-tenants-"))
        servers = chosen(args, Path(directory), names=("gateway", "vllm"), settings={})
        session = await stack.enter_async_context(new_session())
        stages = []
        for contender in servers.contenders:
            # One after the other: two that start at once take each other's time.
            subject = await stack.enter_async_context(
                started(contender, servers, session, args.start_timeout, console)
            )
            keys = await subject.tenants(session, _everybody(args.weights))
            shape = Shape(args.input_tokens, args.output_tokens)
            stages.append(_Stage(Stage(session, subject, shape, args.seed * 1_000_003), keys))
        with live_progress(console) as bar:
            measuring = _Measuring(stages, servers, args, bar)
            interrupted = await measuring.all_rounds()
    return _published(measuring.found, servers, args, interrupted=interrupted)


def _everybody(weights: Sequence[float]) -> list[Tenant]:
    return [QUIET, FLOOD, ONE, *_weighted(weights)]


def _weighted(weights: Sequence[float]) -> list[Tenant]:
    return [Tenant(f"weight {weight:g}", weight=weight) for weight in weights]


@dataclass(frozen=True, slots=True)
class _Stage:
    stage: Stage
    keys: dict[str, Tenant]


class _Measuring:
    """What was found so far, and the bar that shows how it goes on."""

    def __init__(
        self, stages: Sequence[_Stage], servers: Servers, args: argparse.Namespace, bar: Progress
    ) -> None:
        weights = {one.name: one.weight for one in _weighted(args.weights)}
        self.found = Fairness(tuple(one.stage.name for one in stages), weights)
        self._stages = stages
        self._args = args
        self._seats = servers.max_num_seqs
        self._bar = bar
        phases = 2 * len(args.tests) * len(stages) * args.rounds
        self._task = bar.add_task("warm-up", total=phases * args.seconds, running="")
        self._begun = 0.0
        self._answered = self._refused = 0

    async def all_rounds(self) -> bool:
        """Measure; whether it was interrupted. Raises BenchError."""
        try:
            await self._capacity()
            for number in range(1, self._args.rounds + 1):
                order = self._stages if number % 2 else self._stages[::-1]
                for stage in order:
                    self.found.rounds.append(await self._round(number, stage))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return True
        return False

    async def _capacity(self) -> None:
        for one in self._stages:
            tenant = one.keys[ONE.name]
            seconds = min(_WARMUP_S, self._args.seconds)
            warm = await one.stage.capacity(tenant, self._seats, seconds, self._seen)
            self._failed_early(one, warm)
        first, args = self._stages[0], self._args
        if args.capacity is not None:
            self.found.capacity = Capacity(args.capacity, 0.0)
            return
        self._bar.update(self._task, description=f"{first.stage.name}, capacity")
        self.found.capacity = await first.stage.capacity(
            first.keys[ONE.name], 2 * self._seats, args.capacity_seconds, self._seen
        )
        self._failed_early(first, self.found.capacity)

    def _failed_early(self, one: _Stage, seen: Capacity) -> None:
        self.found.early += [f"{one.stage.name}: {fault}" for fault in seen.faults]

    async def _round(self, number: int, one: _Stage) -> Round:
        found = Round(number, one.stage.name)
        seed = self._args.seed + 10 * number
        if "flood" in self._args.tests:
            found.alone = await self._quiet(one, seed, flooded=False)
            found.flooded = await self._quiet(one, seed, flooded=True)
        if "weights" in self._args.tests:
            weighted = [one.keys[tenant.name] for tenant in _weighted(self._args.weights)]
            # In turns, as whatever comes second may find a slower machine.
            for many in (True, False) if number % 2 else (False, True):
                if many:
                    found.shared = await self._shared(one, weighted, "weights")
                else:
                    found.single = await self._shared(one, [one.keys[ONE.name]], "one tenant")
        return found

    async def _quiet(self, one: _Stage, seed: int, *, flooded: bool) -> Quiet:
        args, capacity = self._args, self.found.capacity.requests_per_s
        flood = (one.keys[FLOOD.name], args.flood * capacity) if flooded else None
        async with self._shown(one, "under flood" if flooded else "alone"):
            return await one.stage.quiet(
                one.keys[QUIET.name],
                args.quiet_share * capacity,
                args.seconds,
                seed,
                flood,
                self._seen,
            )

    async def _shared(self, one: _Stage, tenants: Sequence[Tenant], what: str) -> Shared:
        async with self._shown(one, what):
            return await one.stage.shared(
                tenants, self._at_once(len(tenants)), self._args.seconds, self._seen
            )

    def _at_once(self, tenants: int) -> int:
        """Each tenant alone could fill the server; all of them together are as many as that one
        tenant sends who is compared with them."""
        return self._seats * 2 * len(self._args.weights) // tenants

    @asynccontextmanager
    async def _shown(self, one: _Stage, what: str) -> AsyncIterator[None]:
        """Draws one phase, as part of all of them."""
        self._bar.update(self._task, description=f"{one.stage.name}, {what}")
        self._answered = self._refused = 0
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            self._begun += self._args.seconds

    async def _tick(self) -> None:
        start = perf_counter()
        while True:
            passed = min(perf_counter() - start, self._args.seconds)
            running = f"{self._answered} answered, {self._refused} refused"
            self._bar.update(self._task, completed=self._begun + passed, running=running)
            await asyncio.sleep(_TICK_S)

    def _seen(self, attempt: Attempt) -> None:
        self._answered += attempt.answered
        self._refused += attempt.refused


def _published(
    found: Fairness, servers: Servers, args: argparse.Namespace, *, interrupted: bool
) -> Exit:
    markdown = to_markdown(found)
    print(markdown, end="")
    if args.json is not None:
        write_json(args.json, _record(found, servers, args))
    if args.markdown is not None:
        args.markdown.write_text(markdown, encoding="utf-8")
    if args.svg is not None:
        args.svg.write_text(fairness_svg(found), encoding="utf-8")
    if interrupted:
        return Exit.INTERRUPTED
    return Exit.FAILED_REQUESTS if found.faults else Exit.OK


def _record(found: Fairness, servers: Servers, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that was seen, and how to see it again."""
    return {
        **head("bench.tenants", SCHEMA_VERSION, args),
        "servers": {one.name: one.shown() for one in servers.contenders},
        **fairness_record(found),
    }


if __name__ == "__main__":
    sys.exit(main())
