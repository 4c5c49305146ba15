"""`python -m bench.overload`: ten times more load than a server can take."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

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
from bench.cli.quantities import not_negative
from bench.client import new_session
from bench.reports.report import write_json
from bench.servers.contenders import Contender
from bench.tenancy.attempt import Attempt
from bench.tenancy.crowd import Shape, Tenant
from bench.tenancy.phases import Stage
from bench.tenancy.servers import (
    Servers,
    add_output_options,
    add_server_options,
    add_shape_options,
    chosen,
    started,
)
from bench.tenancy.storm import Load, Slo, Storm, storm
from bench.tenancy.storm_report import storm_record, storm_svg, to_markdown

SCHEMA_VERSION = 1
_TENANT = Tenant("load")
_TICK_S = 0.5
# A queue is let grow to what is predicted to take this share of the objective.
_CAUTION = 0.8

_DESCRIPTION = """\
Measure what a server keeps up when it gets ten times the load that it can take.

Each server in turn, alone on the machine: what it does when it is just full (its peak), then the
overload, then how soon it is back to normal. An answer is good when its first token comes within
--slo-ttft and the others follow within --slo-tpot each; goodput is good answers a second.
Clients that are refused with 429 or 503 wait exactly as long as retry-after-ms (or retry-after)
says, a second where nothing is said, and come back --retries times, as OpenAI's SDKs do.

gateway       ours, told to refuse what it predicts to miss the TTFT objective
vllm          vLLM's own server as it comes: its queue has no bound
vllm-limited  the same with its own limit, --max-num-queued-reqs, set to the seats of the engine
              and a queue that its capacity empties within the objective; it refuses with 503 and
              doesn't say when to come back

With --arrivals open new clients come at ten times the capacity whatever they are told, so however
honest the advice is, at most as many can be let in as there are places: the table says how many
that would be. With closed there are ten times as many clients as seats, who come within --ramp
seconds, and who waits as advised does not send anything else meanwhile.
"""

_EXAMPLES = """\
examples:
  # the three of them on the default model, 60 s of overload each
  python -m bench.overload --json overload.json --svg overload.svg

  # only ours, on a tiny model that is made for it, with clients that wait their turn
  python -m bench.overload --server gateway --tiny --arrivals closed --seconds 20

exit codes:
  0    every request was answered, or refused with 429 or 503, or waited in a queue that still
       moved when --recovery-seconds were over; a slow recovery is told, and is no failure
  1    some answers were wrong, cut off or never came; the report says how many
  2    wrong usage, or a server can't be reached or started
  130  stopped by Ctrl-C; what had been measured is printed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run(lambda: _overload(args))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m bench.overload", _DESCRIPTION, _EXAMPLES)
    add_server_options(parser, "gateway, vllm, vllm-limited")
    load = parser.add_argument_group("load")
    load.add_argument(
        "--times", type=positive, default=10.0, metavar="X", help="the capacity (default: 10)"
    )
    load.add_argument(
        "--seconds", type=positive, default=60.0, metavar="S", help="of overload (default: 60)"
    )
    load.add_argument(
        "--arrivals", choices=("open", "closed"), default="open", help="see above (default: open)"
    )
    load.add_argument(
        "--ramp",
        type=not_negative,
        default=1.0,
        metavar="S",
        help="closed: the clients come one after the other within so long, 0: all at once, which "
        "measures how long the last waits behind all others (default: 1)",
    )
    load.add_argument(
        "--retries", type=at_least(0), default=2, metavar="N", help="of each client (default: 2)"
    )
    load.add_argument(
        "--peak-seconds", type=positive, default=20.0, metavar="S", help="default: 20"
    )
    load.add_argument(
        "--recovery-seconds",
        type=positive,
        default=60.0,
        metavar="S",
        help="wait so long for it to be back to normal (default: 60)",
    )
    load.add_argument("--slo-ttft", type=positive, default=5.0, metavar="S", help="default: 5")
    load.add_argument("--slo-tpot", type=positive, default=0.25, metavar="S", help="default: 0.25")
    load.add_argument(
        "--queue",
        type=at_least(1),
        metavar="N",
        help="--max-num-queued-reqs of vllm-limited (default: as above, from the capacity of the "
        "server before it, or of 1 request a second and seat)",
    )
    add_shape_options(load)
    add_output_options(parser)
    return parser


async def _overload(args: argparse.Namespace) -> Exit:
    check_outputs(args, "json", "markdown", "svg")
    console = Console(stderr=True)
    found: dict[str, Storm] = {}
    with TemporaryDirectory(prefix="bench-overload-") as directory:
        objectives = {"ttft_ms": 1000 * args.slo_ttft, "tpot_ms": 1000 * args.slo_tpot}
        servers = chosen(
            args,
            Path(directory),
            names=("gateway", "vllm", "vllm-limited"),
            settings={"admission": {"max_ttft_s": _CAUTION * args.slo_ttft}, "slo": objectives},
            limited=("--max-num-queued-reqs", "{queue}"),
        )
        interrupted = False
        try:
            for contender in servers.contenders:
                ready = _with_queue(contender, _queue(args, servers, found))
                found[contender.name] = await _measured(ready, servers, args, console)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not found:
                raise
            task.uncancel()
            interrupted = True
    return _published(found, servers, args, interrupted=interrupted)


def _queue(args: argparse.Namespace, servers: Servers, found: dict[str, Storm]) -> int:
    """How many requests may be inside of a server that has a limit of its own."""
    if args.queue is not None:
        return int(args.queue)
    seats = servers.max_num_seqs
    capacity = next((one.capacity_per_s for one in found.values()), float(seats))
    return seats + int(_CAUTION * args.slo_ttft * capacity)


def _with_queue(contender: Contender, queue: int) -> Contender:
    command = tuple(part.replace("{queue}", str(queue)) for part in contender.command)
    return replace(contender, command=command)


async def _measured(
    contender: Contender, servers: Servers, args: argparse.Namespace, console: Console
) -> Storm:
    shape = Shape(args.input_tokens, args.output_tokens)
    closed = args.arrivals == "closed"
    load = Load(args.times, args.seconds, args.retries, closed=closed, ramp_s=args.ramp)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(new_session())
        subject = await stack.enter_async_context(
            started(contender, servers, session, args.start_timeout, console)
        )
        tenants = await subject.tenants(session, [_TENANT])
        bar = stack.enter_context(live_progress(console))
        shown = _Shown(bar, contender.name)
        stack.callback(shown.close)
        return await storm(
            Stage(session, subject, shape, args.seed * 1_000_003),
            tenants[_TENANT.name],
            servers.max_num_seqs,
            args.peak_seconds,
            load,
            Slo(args.slo_ttft, args.slo_tpot),
            args.recovery_seconds,
            shown.begin,
            shown.seen,
        )


class _Shown:
    """Draws the phase that runs."""

    def __init__(self, bar: Progress, label: str) -> None:
        self._bar = bar
        self._label = label
        self._task = bar.add_task(label, total=None, running="")
        self._answered = self._refused = 0
        self._start, self._total = perf_counter(), 0.0
        self._ticking = asyncio.create_task(self._tick())

    def begin(self, phase: str, seconds: float) -> None:
        self._start, self._total = perf_counter(), seconds
        self._answered = self._refused = 0
        self._bar.reset(self._task, total=seconds, description=f"{self._label}, {phase}")

    def seen(self, attempt: Attempt) -> None:
        self._answered += attempt.answered
        self._refused += attempt.refused

    def close(self) -> None:
        self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            passed = min(perf_counter() - self._start, self._total)
            running = f"{self._answered} answered, {self._refused} refused"
            self._bar.update(self._task, completed=passed, running=running)


def _published(
    found: dict[str, Storm], servers: Servers, args: argparse.Namespace, *, interrupted: bool
) -> Exit:
    markdown = to_markdown(found)
    print(markdown, end="")
    if args.json is not None:
        shown = {one.name: one.shown() for one in servers.contenders}
        record = {"servers": shown, "found": storm_record(found)}
        write_json(args.json, {**head("bench.overload", SCHEMA_VERSION, args), **record})
    if args.markdown is not None:
        args.markdown.write_text(markdown, encoding="utf-8")
    if args.svg is not None:
        args.svg.write_text(storm_svg(found), encoding="utf-8")
    if interrupted:
        return Exit.INTERRUPTED
    return Exit.FAILED_REQUESTS if any(one.faults for one in found.values()) else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
