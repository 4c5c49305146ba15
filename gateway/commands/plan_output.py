"""A plan for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from gateway.commands.tables import print_facts, print_table

if TYPE_CHECKING:
    from engine.models import MemoryPlan
    from engine.planning import Plan, Prediction, Row

GIB = 1024**3
_COLUMNS = (
    "precision",
    "fits",
    "weights",
    "KV token / sequence",
    "holds",
    "step",
    "TTFT one / all",
    "tok/s output / total",
    "how",
)


def print_plan(plan: Plan) -> None:
    """The table, the choice, and the arithmetic of it."""
    load, facts, platform = plan.load, plan.facts, plan.platform
    devices = f"{platform.gpus} x " if platform.gpus > 1 else ""
    quantized = f", {facts.quantization.describe()}" if facts.quantization else ""
    print_facts(
        [
            ("model", f"{facts.parameters / 1e9:.3g} B parameters, {facts.dtype}{quantized}"),
            ("facts from", facts.source),
            ("device", f"{devices}{platform.device.label}"),
            (
                "load",
                f"{load.concurrency} at once, {load.input_tokens} tokens in, "
                f"{load.output_tokens} out",
            ),
        ]
    )
    typer.echo()
    print_table(_COLUMNS, [_cells(row) for row in plan.rows])
    typer.echo("\n".join(["", *_verdict(plan)]))
    shown = plan.taken or plan.best
    if shown is not None:
        typer.echo("\n".join(["", f"Arithmetic of {shown.precision.name}", *_arithmetic(shown)]))
    typer.echo("\n".join(["", "Sources", *(f"  {source}" for source in _sources(plan))]))


def as_record(plan: Plan) -> dict[str, Any]:
    """The plan for machines: bytes, seconds, tokens a second; null where unknown."""
    device = plan.platform.device
    taken = plan.taken
    return {
        "model": {"source": plan.facts.source, "parameters": plan.facts.parameters},
        "device": {
            "name": device.name,
            "label": device.label,
            "memory_bytes": int(device.memory_gib * GIB),
            "bandwidth": device.bandwidth,
            "rates": dict(device.rates),
        },
        "gpus": plan.platform.gpus,
        "load": asdict(plan.load),
        "target_tokens_per_s": plan.target,
        "take": taken.precision.name if taken else None,
        "fits": any(row.fits for row in plan.rows),
        "rows": [_record(row, plan.target) for row in plan.rows],
        "sources": _sources(plan),
    }


def _record(row: Row, target: float | None) -> dict[str, Any]:
    memory, predicted = row.memory, row.prediction
    return {
        "precision": row.precision.name,
        "ruled_out": row.ruled_out,
        "how": row.route.how if row.route else None,
        "fits": row.fits,
        "reaches_target": None if target is None else row.reaches(target),
        "memory": _memory(memory) if memory else None,
        "prediction": None
        if predicted is None
        else {
            "decode_step_s": predicted.decode.seconds,
            "prefill_one_s": predicted.alone.seconds,
            "prefill_all_s": predicted.prefill.seconds,
            "prefill_tokens_per_s": predicted.prefill_tokens_per_s,
            "decode_tokens_per_s": predicted.decode_tokens_per_s,
            "output_tokens_per_s": predicted.output_tokens_per_s,
            "total_tokens_per_s": predicted.total_tokens_per_s,
            "arithmetic": list(_formulas(predicted)),
        },
    }


def _memory(plan: MemoryPlan) -> dict[str, Any]:
    return asdict(plan) | {"fits": plan.fits, "kv_per_sequence": plan.kv_per_sequence}


def _cells(row: Row) -> list[str]:
    memory, predicted = row.memory, row.prediction
    if memory is None:
        return [row.precision.name, "-", *[""] * 6, row.ruled_out or ""]
    cells = [
        row.precision.name,
        "yes" if memory.fits else "no",
        f"{memory.weights / GIB:.2f} GiB",
        f"{memory.kv_per_token / 1024:.3g} KiB / {memory.kv_per_sequence / 2**20:.3g} MiB",
        str(memory.max_sequences),
    ]
    if predicted is None:
        why = "its speed is not known here" if memory.fits else "; ".join(memory.problems)
        return [*cells, *[""] * 3, why]
    return [
        *cells,
        f"{predicted.decode.seconds * 1e3:.3g} ms",
        f"{_seconds(predicted.alone.seconds)} / {_seconds(predicted.prefill.seconds)}",
        f"{predicted.output_tokens_per_s:,.0f} / {predicted.total_tokens_per_s:,.0f}",
        row.route.how if row.route else "",
    ]


def _verdict(plan: Plan) -> list[str]:
    taken = plan.taken
    wanted = f"{plan.target:g} output tokens/s" if plan.target is not None else None
    if taken is None:
        best = plan.best
        unknown = [row.precision.name for row in plan.rows if row.fits and row.prediction is None]
        if best is not None and best.prediction is not None:
            most = f"{best.prediction.output_tokens_per_s:,.0f} with {best.precision.name}"
            lines = [f"None reaches {wanted}: the most is {most}."]
            if unknown:
                lines.append(f"The speed of {', '.join(unknown)} is not known here.")
            return lines
        if unknown:
            return [
                f"Whether one reaches {wanted} can't be told: the speed of those that fit is not "
                "known here."
            ]
        if all(row.ruled_out for row in plan.rows):
            return ["None runs here; each row says why."]
        return ["None fits: take more or larger devices, fewer requests at once, or less text."]
    lines = [f"Take {taken.precision.name}: {_why(taken, plan)}."]
    if plan.target and taken.prediction is not None:
        spare = taken.prediction.output_tokens_per_s / plan.target
        lines.append(
            f"It reaches {wanted} as long as this prediction is not {spare:.2g} times too high."
        )
        others = [row.precision.name for row in plan.rows if row.reaches(plan.target)]
        if len(others) > 1:
            lines.append(f"These reach it: {', '.join(others)}.")
    if taken.precision.method and plan.facts.quantization is None:
        lines.append(f"It needs a checkpoint in {taken.precision.name}: `gateway quantize`.")
    return lines


def _why(taken: Row, plan: Plan) -> str:
    if len(plan.rows) == 1:
        return "it fits"
    if plan.facts.quantization is not None:
        return "it is what the checkpoint is stored in, and it fits"
    if taken.precision.loss == 0:
        return "the weights fit as they are, so that nothing of the answers is lost"
    return "of those that fit and are fast enough it changes the answers least"


def _arithmetic(row: Row) -> Iterator[str]:
    if row.memory is not None:
        yield from (f"  {label}: {value}" for label, value in row.memory.rows())
    if row.prediction is not None:
        yield from (f"  {line}" for line in _formulas(row.prediction))


def _formulas(predicted: Prediction) -> Iterator[str]:
    yield from predicted.prefill.lines()
    yield from predicted.decode.lines()
    yield predicted.sum_text()


def _sources(plan: Plan) -> list[str]:
    device = plan.platform.device
    shares = ["shares of the peaks: docs/plan.md"] if device.kind == "gpu" else []
    return [*device.sources, *shares]


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
