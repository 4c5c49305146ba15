"""A measurement of quality as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.measuring.facts import ServerFacts
from bench.quality import answers, perplexity, scores

SCHEMA = "bench.quality"
SCHEMA_VERSION = 1
_HEAD = ("measure", "value", "95% interval", "over", "baseline", "change", "verdict")


def to_record(
    server: ServerFacts,
    client: Mapping[str, Any],
    started_at: datetime,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON of `--json`. `measured` has `perplexity`, `answers` and `tasks`, null where one was
    not asked for."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "started_at": started_at.isoformat(timespec="milliseconds"),
        "server": server.shown(),
        "client": dict(client),
        **measured,
    }


def read(path: Path) -> dict[str, Any]:
    """An earlier record. Raises BenchError: the file is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"--baseline {path}: can't be read: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise BenchError(f"--baseline {path}: not a record that --json wrote")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise BenchError(f"--baseline {path}: of another version of this program; measure it again")
    return record


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What both records have, compared; null where one of them lacks it."""
    found: dict[str, Any] = {"model": before["server"]["model"], "started_at": before["started_at"]}
    rooms = {"perplexity": perplexity.compare, "answers": answers.compare, "tasks": scores.compare}
    for name, room in rooms.items():
        both = now[name] and before[name]
        found[name] = room(now[name], before[name]) if both else None  # type: ignore[operator]
    return found


def to_markdown(record: Mapping[str, Any]) -> str:
    """A line on the model, the table, and what its reader has to know."""
    server, baseline = record["server"], record.get("baseline")
    version = " ".join(str(part) for part in (server["header"], server["version"]) if part)
    rows = [*_perplexity_rows(record), *_answer_rows(record), *_task_rows(record)]
    width = len(_HEAD) if baseline else 4
    lines = [
        f"`{server['model']}`, {version or 'no version'}",
        "",
        _line(_HEAD[:width]),
        "|---|--:|--:|---|" + "--:|--:|---|" * bool(baseline),
        *(_line(row[:width]) for row in rows),
        "",
        *_remarks(record),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _perplexity_rows(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    found = record["perplexity"]
    if found is None:
        return
    over = f"{found['tokens']:,} tokens, {len(found['windows'])} windows"
    yield (
        "perplexity",
        f"{found['value']:.3f}",
        f"{found['low']:.3f} to {found['high']:.3f}",
        over,
        *_change_cells(_compared(record, "perplexity"), "ratio", ".3f"),
    )


def _answer_rows(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    found = record["answers"]
    if found is None:
        return
    for metric, label in (("f1", "F1"), ("exact_match", "exact match")):
        one, compared = found[metric], _compared(record, "answers")
        yield (
            label,
            f"{one['value']:.3f}",
            f"{one['low']:.3f} to {one['high']:.3f}",
            f"{found['scored']} questions",
            *_change_cells(compared[metric] if compared else None, "difference", "+.3f"),
        )


def _task_rows(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    found = record["tasks"]
    if found is None:
        return
    compared = _compared(record, "tasks") or ()
    changes = {(one["task"], one["metric"], one["filter"]): one for one in compared}
    for score in found:
        reach = scores.interval(score)
        yield (
            f"{score['task']} {score['metric']}",
            f"{score['value']:.3f}",
            f"{reach.low:.3f} to {reach.high:.3f}" if reach else "-",
            f"{score['samples']} questions" if score["samples"] is not None else "-",
            *_change_cells(
                changes.get((score["task"], score["metric"], score["filter"])),
                "difference",
                "+.3f",
            ),
        )


def _change_cells(change: Mapping[str, Any] | None, kind: str, style: str) -> tuple[str, ...]:
    if change is None:
        return ("-", "-", "-")
    said = f"{kind} {change[kind]:{style}}"
    if change["low"] is not None:
        said += f" ({change['low']:{style}} to {change['high']:{style}})"
    return (f"{change['before']:.3f}", said, change["verdict"])


def _compared(record: Mapping[str, Any], name: str) -> Any:
    return (record.get("baseline") or {}).get(name)


def _remarks(record: Mapping[str, Any]) -> Iterator[str]:
    found, asked = record["perplexity"], record["answers"]
    if found is not None:
        python = f" of Python {found['text']['python']}" if found["text"]["python"] else ""
        identity = found["identity"]
        yield (
            f"Perplexity of {found['text']['name']}{python} "
            f"(SHA-256 {identity['text_sha256'][:12]}), windows of {identity['length']} tokens."
        )
    if asked is not None and asked["failed"]:
        yield f"{asked['failed']} questions failed and are not scored."


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
