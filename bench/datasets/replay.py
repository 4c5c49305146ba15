"""The requests of a ledger again: when they came, how long they were, not what they said.

Made from `gateway usage --rows`, or any file of rows with a time and token counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import aiohttp

from bench.client import Target
from bench.datasets.files import read_objects
from bench.errors import BenchError
from bench.measuring.facts import ServerFacts
from bench.measuring.settings import Settings
from bench.prompts.author import find_author
from bench.prompts.lengths import longest
from bench.prompts.prompt import Prompt, Workload

_TIMES = ("at", "created_at")
_NEEDED = (
    "expected a row a request, with its time (at or created_at, in seconds since the "
    "epoch or as ISO 8601), prompt_tokens and completion_tokens: what `gateway usage --rows > "
    "FILE.jsonl` writes"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A request that was answered; `at_s` counts from the first one of the file."""

    at_s: float
    prompt_tokens: int
    completion_tokens: int


def read_rows(path: Path) -> list[Row]:
    """Rows by time; those without a prompt or an answer, such as refused requests, are left out.

    Raises BenchError: none are left, or these are no rows of requests.
    """
    records = read_objects(path)
    rows = [_row(path, number, record) for number, record in enumerate(records, 1)]
    answered = sorted(
        (row for row in rows if row.prompt_tokens and row.completion_tokens),
        key=lambda row: row.at_s,
    )
    if not answered:
        raise BenchError(f"--dataset-path {path}: no request in it was answered; {_NEEDED}")
    return [replace(row, at_s=row.at_s - answered[0].at_s) for row in answered]


async def prepare(
    session: aiohttp.ClientSession, target: Target, settings: Settings, server: ServerFacts
) -> Workload:
    """Random prompts as long as the recorded ones, due when those came, divided by the speed.

    What the ledger can't tell is not repeated: texts, and so what prompts had in common.
    """
    if settings.dataset.path is None:
        raise BenchError("--dataset replay needs --dataset-path FILE")
    author = await find_author(session, target)
    rows = read_rows(settings.dataset.path)
    if settings.duration_s is None:
        rows = rows[: settings.requests]
    fitting = [row for row in rows if _fits(row, settings, server)]
    if not fitting:
        raise BenchError(
            f"--dataset-path {settings.dataset.path}: no request fits the "
            f"{server.max_model_len} tokens of {server.model}'s context"
        )
    fewest = author.vocabulary.shortest
    lengths = [max(row.prompt_tokens, fewest) for row in fitting]
    drafts = list(author.drafts(lengths, settings.seed))
    exact = await author.exact(drafts)
    prompts = [
        Prompt(
            draft.fields(author.layout),
            tokens,
            row.completion_tokens if settings.dataset.recorded_lengths else None,
            at_s=row.at_s / settings.dataset.replay_speed,
        )
        for draft, tokens, row in zip(exact, lengths, fitting, strict=True)
    ]

    def begin(warmup: int) -> Iterator[Prompt]:
        shapes = islice(cycle(lengths), warmup)
        for draft, _ in author.drafts(shapes, f"{settings.seed} warm-up"):
            yield author.prompt(draft, None)
        yield from prompts

    notes = [f"{len(prompts)} requests of {rows[-1].at_s:.0f} s"]
    if len(fitting) < len(rows):
        notes.append(f"left out, too long for the model's context: {len(rows) - len(fitting)}")
    lengthened = sum(row.prompt_tokens < fewest for row in fitting)
    if lengthened:
        notes.append(f"prompts lengthened to {fewest} tokens, the fewest possible: {lengthened}")
    return Workload(begin, author.layout, author.counter.name, settings.dataset.kind, tuple(notes))


def _fits(row: Row, settings: Settings, server: ServerFacts) -> bool:
    recorded = settings.dataset.recorded_lengths
    answer = row.completion_tokens if recorded else longest(settings.output_tokens)
    limit = server.max_model_len
    return limit is None or row.prompt_tokens + answer <= limit


def _row(path: Path, number: int, record: Mapping[str, Any]) -> Row:
    at = next((record[name] for name in _TIMES if record.get(name) not in (None, "")), None)
    if at is None:
        what = "these are sums, not requests" if "requests" in record else "it has no time"
        raise BenchError(f"--dataset-path {path}: row {number}: {what}; {_NEEDED}")
    try:
        return Row(
            _seconds(at),
            int(record.get("prompt_tokens") or 0),
            int(record.get("completion_tokens") or 0),
        )
    except (TypeError, ValueError) as error:
        raise BenchError(f"--dataset-path {path}: row {number}: {error}; {_NEEDED}") from error


def _seconds(at: Any) -> float:
    try:
        return float(at)
    except ValueError:
        moment = datetime.fromisoformat(at)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
