"""All variants in turns, round by round, and the baseline once more at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from rich.console import Console

from bench.cli.progress import live_progress
from bench.errors import BenchError
from bench.reports.report import any_failed
from bench.variants.figures import SPEED, figures
from bench.variants.measuring import Means, Run, Say, measured
from bench.variants.variant import Variant


@dataclass(slots=True)
class Findings:
    """The runs so far, by variant; `closing` is the baseline's at the end."""

    runs: dict[str, list[Run]]
    closing: Run | None = None
    interrupted: bool = False
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def anything_failed(self) -> bool:
        """Whether a variant or its quality could not be measured, or a request failed."""
        runs = [run for several in self.runs.values() for run in several]
        return any(map(_failed, [*runs, *([self.closing] if self.closing else [])]))


async def all_measured(
    variants: Sequence[Variant], means: Means, *, rounds: int, quality: bool
) -> Findings:
    """The first of `variants` is the baseline. An interruption gives what was measured until then.

    Raises BenchError: the baseline can't be measured at all.
    """
    found = Findings({variant.name: [] for variant in variants})
    baseline = variants[0]
    console = Console(stderr=True)
    tell = partial(console.print, markup=False, soft_wrap=True)
    with live_progress(console) as bar:
        task = bar.add_task("", total=rounds * len(variants) + 1, running="")

        def saying(what: str) -> Say:
            return lambda doing: bar.update(task, description=what, running=doing)

        try:
            for number in range(1, rounds + 1):
                for variant in variants:
                    what = f"round {number} of {rounds}, {variant.name}:"
                    say = saying(what)
                    perplexity = quality and number == 1
                    one = await measured(
                        variant, means, say, round_number=number, quality=perplexity
                    )
                    if variant is baseline and number == 1 and one.error is not None:
                        raise BenchError(f"the baseline, {baseline.name}: {one.error}")
                    found.runs[variant.name].append(one)
                    tell(f"{what} {_told(one)}")
                    bar.advance(task)
            what = f"{baseline.name} again:"
            say = saying(what)
            found.closing = await measured(
                baseline, means, say, round_number=rounds + 1, quality=False
            )
            tell(f"{what} {_told(found.closing)}")
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None:
                current.uncancel()
            found.interrupted = True
    return found


def _told(run: Run) -> str:
    """A line for those who wait, or who read a log."""
    if run.report is None:
        return "no checkpoint" if run.skipped else "not measured"
    found = figures([run])
    return (
        f"{found[SPEED] or 0:,.0f} total tokens/s, ready after {found['start_s'] or 0:.0f} s, "
        f"{found['failed_requests']:.0f} failed"
    )


def _failed(run: Run) -> bool:
    if run.report is None:
        return not run.skipped
    return any_failed(run.report) or "error" in (run.quality or {})
