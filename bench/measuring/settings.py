"""What one measurement is to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.client import Endpoint
from bench.measuring.arrivals import ArrivalKind
from bench.measuring.slo import Slo
from bench.prompts.lengths import Lengths

DatasetKind = Literal["random", "shared-prefix", "multi-turn", "sharegpt", "replay"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where prompts come from. `path` is that of the file of sharegpt and replay.

    `prefix_tokens` of each prompt are one of `prefixes` beginnings (None: half of the prompt).
    `recorded_lengths`: answers are as long as those in the file, not `output_tokens`.
    """

    kind: DatasetKind = "random"
    path: Path | None = None
    prefix_tokens: int | None = None
    prefixes: int = 1
    turns: int = 4
    replay_speed: float = 1.0
    recorded_lengths: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure; the same settings and seed send the same requests. Lengths in tokens.

    `rate` None is a closed loop of `concurrency` requests. With a rate, in requests a second, they
    are sent when they are due, at most `max_in_flight` at once, and `concurrency` is that of the
    warm-up alone. A replay without a rate keeps its recorded times. `duration_s` takes the place of
    `requests`: none is begun after it.
    """

    endpoint: Endpoint = "chat"
    input_tokens: int | Lengths = 128
    output_tokens: int | Lengths = 128
    concurrency: int = 32
    requests: int = 128
    warmup: int = 32
    seed: int = 0
    stream: bool = True
    temperature: float = 0.0
    timeout_s: float = 600.0
    rate: float | None = None
    arrivals: ArrivalKind = "poisson"
    burstiness: float = 0.25
    rate_end: float | None = None
    max_in_flight: int | None = None
    duration_s: float | None = None
    slo: Slo = field(default_factory=Slo)
    dataset: Dataset = Dataset()

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent at their times, whatever became of those before."""
        return self.rate is not None or self.dataset.kind == "replay"
