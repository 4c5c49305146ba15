"""Measures one server at one load after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import BenchError
from bench.measuring.measure import Settings
from bench.servers.contenders import Contestant
from bench.sweep.progress import SweepProgress
from bench.sweep.ranges import Load
from bench.trial import prompts_for, trial

SettingsAt = Callable[[Load, int], Settings]


def there_and_back(loads: Sequence[Load], rounds: int) -> list[Load]:
    """Every load once a round, up in odd rounds and down in even ones: a machine that grows slower
    meanwhile then does so for low and high loads alike."""
    order: list[Load] = []
    for number in range(rounds):
        order += reversed(loads) if number % 2 else loads
    return order


@dataclass(slots=True)
class Meter:
    """The server, what is sent to it at a load, and what was measured so far.

    `settings_at` gets the load and the number of measurements before, which makes the prompts of
    each its own. `stopped` says why there are fewer measurements than wanted.
    """

    server: Contestant
    settings_at: SettingsAt
    progress: SweepProgress
    model: str | None = None
    api_key: str | None = None
    measured: list[tuple[Load, dict[str, Any]]] = field(default_factory=list)
    stopped: str | None = None

    async def run(self, loads: Sequence[Load]) -> None:
        """Measure at each load, and keep every measurement that came to its end.

        Ctrl-C ends it. So does a server that can't go on, if there is something to report;
        otherwise raises BenchError.
        """
        self.progress.expect([self._load_settings(load) for load in loads])
        try:
            for load in loads:
                record = await self._measure(load, self._load_settings(load)[1])
                if record["interrupted"]:
                    self.stopped = "interrupted"
                    return
                self.measured.append((load, record))
                self.progress.finished(load, record)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            self.stopped = "interrupted"
        except BenchError as error:
            if not self.measured:
                raise
            self.stopped = str(error)

    def _load_settings(self, load: Load) -> tuple[Load, Settings]:
        return load, self.settings_at(load, len(self.measured))

    async def _measure(self, load: Load, settings: Settings) -> dict[str, Any]:
        workload = await prompts_for(self.server, settings, model=self.model, api_key=self.api_key)
        return await trial(
            self.server,
            settings,
            workload,
            self.progress.watching(load),
            model=self.model,
            api_key=self.api_key,
        )
