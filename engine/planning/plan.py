"""Which precision of a model to run on a device, for a load: one row for each precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config import EngineConfig, ParallelConfig
from engine.models import CheckpointFacts, MemoryPlan, ModelError, plan_memory
from engine.models.memory import step_tokens
from engine.planning.platforms import Platform
from engine.planning.precisions import PRECISIONS, Precision, Route, engine_config, quantized, route
from engine.planning.roofline import Load, Prediction, predict


@dataclass(frozen=True, slots=True)
class Fitted:
    """A device to plan memory for, as `plan_memory` wants it."""

    name: str
    device: Literal["gpu", "cpu"]
    memory_gib: float
    tokens_per_sequence: int


@dataclass(frozen=True, slots=True)
class Row:
    """One precision. `ruled_out` says why it doesn't run here; otherwise there is a memory plan,
    and where that fits and the rates are known a prediction."""

    precision: Precision
    ruled_out: str | None = None
    route: Route | None = None
    config: EngineConfig | None = None
    memory: MemoryPlan | None = None
    prediction: Prediction | None = None

    @property
    def fits(self) -> bool:
        return self.memory is not None and self.memory.fits

    def reaches(self, target: float | None) -> bool:
        """It fits and gives so many output tokens a second."""
        if target is None:
            return self.fits
        return self.prediction is not None and self.prediction.output_tokens_per_s >= target


@dataclass(frozen=True, slots=True)
class Plan:
    """Every precision that was asked for, and the one to take: the least loss that fits and
    reaches the target, of those the fastest; of equals the checkpoint's own."""

    facts: CheckpointFacts
    platform: Platform
    load: Load
    target: float | None
    rows: tuple[Row, ...]

    @property
    def taken(self) -> Row | None:
        good = [row for row in self.rows if row.reaches(self.target)]
        return min(good, key=self._order, default=None)

    @property
    def best(self) -> Row | None:
        """The fastest that fits, whether or not it reaches the target."""
        predicted = [row for row in self.rows if row.prediction is not None]
        return max(predicted, key=lambda row: _speed(row), default=None)

    def _order(self, row: Row) -> tuple[int, bool, float, bool]:
        other = row.config is not None and row.config.dtype != self.facts.dtype
        # Where speeds are unknown, on a CPU: it has instructions for 8-bit integers, seldom floats.
        slow = row.prediction is None and row.precision.name == "fp8"
        return row.precision.loss, row.precision.loss == 0 and other, -_speed(row), slow


def make_plan(
    facts: CheckpointFacts,
    platform: Platform,
    load: Load,
    *,
    precisions: Sequence[Precision] = PRECISIONS,
    target: float | None = None,
) -> Plan:
    """Reckon every precision under `load`; `target` in output tokens a second."""
    rows = tuple(_row(precision, facts, platform, load) for precision in precisions)
    return Plan(facts, platform, load, target, rows)


def _row(precision: Precision, facts: CheckpointFacts, platform: Platform, load: Load) -> Row:
    device = platform.device
    if facts.heads % platform.gpus:
        why = f"{facts.heads} attention heads can't be shared by {platform.gpus} GPUs"
        return Row(precision, ruled_out=why)
    found = route(precision, facts, device)
    if isinstance(found, str):
        return Row(precision, ruled_out=found)
    stored = quantized(facts, precision)
    tokens = load.input_tokens + load.output_tokens
    config = engine_config(
        found.dtype,
        max_num_seqs=load.concurrency,
        spare_seqs=0,
        max_model_len=max(tokens, 16),
        max_num_batched_tokens=platform.step_tokens,
        parallel=ParallelConfig(tensor=platform.gpus),
    )
    hardware = Fitted(device.label, device.kind, device.memory_gib, tokens)
    try:
        memory = plan_memory(stored, config, hardware)
    except ModelError as error:
        return Row(precision, ruled_out=str(error))
    reached = platform.ceilings(precision, found) if memory.fits else None
    prediction = (
        predict(stored, config, reached, load, step_tokens(config, hardware)) if reached else None
    )
    return Row(precision, None, found, config, memory, prediction)


def _speed(row: Row) -> float:
    return row.prediction.output_tokens_per_s if row.prediction else 0.0
