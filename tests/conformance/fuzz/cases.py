"""Runs schemathesis on a description until there were enough cases; counts what came of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

import msgspec

_FOLDER: Final = Path(__file__).parent
_LIMIT_S: Final = 3600
_TAIL_LINES: Final = 25
_MOST_ROUNDS: Final = 20
# No failures; failures, which the record has; errors, which are looked at.
_ENDED: Final = (0, 1)
# What is too large is refused too.
_SETTINGS: Final = """\
[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 405, 413, 415]
"""


class FuzzError(Exception):
    """Cases could not be made; the message has the end of what schemathesis printed."""


class Failure(msgspec.Struct, frozen=True):
    """What a check found, and how to see it again."""

    operation: str
    status: int
    message: str
    curl: str


class Operation(msgspec.Struct):
    """`statuses`: answers by status; 0 is none."""

    name: str
    statuses: dict[int, int] = {}
    failures: list[Failure] = []

    @property
    def cases(self) -> int:
        return sum(self.statuses.values())


class Outcome(msgspec.Struct):
    """What came of a description's cases."""

    description: str
    operations: list[Operation]

    @property
    def cases(self) -> int:
        return sum(one.cases for one in self.operations)

    @property
    def failures(self) -> list[Failure]:
        return [failure for one in self.operations for failure in one.failures]


@dataclass(frozen=True, slots=True)
class Trial:
    """A description, already a file, and the checks that mean something with it. `plan` is what
    the hooks read, but for `seed` and `record`."""

    name: str
    file: Path
    url: str
    api_key: str
    checks: Sequence[str]
    plan: dict[str, Any]
    operations: int


async def run(
    trial: Trial, python: Path, home: Path, *, cases: int, seed: int, quick: bool = False
) -> Outcome:
    """At least `cases` cases: unless it is `quick` every boundary of every field once, and random
    ones. `python` is that of the environment which has schemathesis.

    Raises FuzzError.
    """
    record = home / f"{trial.name}.jsonl"
    record.unlink(missing_ok=True)
    # Failures that it remembers cost minutes to compare with.
    shutil.rmtree(home / ".schemathesis", ignore_errors=True)
    for number in range(_MOST_ROUNDS):
        missing = cases - (_read(trial.name, record).cases if number else 0)
        if missing <= 0:
            return _read(trial.name, record)
        plan = home / f"{trial.name}.plan.json"
        facts = {**trial.plan, "seed": seed + number, "record": str(record)}
        plan.write_text(json.dumps(facts))
        # What was sent at the boundaries isn't random: later rounds would only repeat it.
        phases = "fuzzing" if number or quick else "examples,coverage,fuzzing"
        examples = ceil(missing / trial.operations / (1 if "," not in phases else 2))
        command = [
            *[
                str(python.with_name("schemathesis")),
                "run",
                str(trial.file),
                "--url",
                trial.url,
                "--no-color",
            ],
            *["-H", f"Authorization: Bearer {trial.api_key}"],
            *["--phases", phases, "--max-examples", str(examples), "--seed", str(seed + number)],
            *["--checks", ",".join(trial.checks), "--continue-on-failure", "--no-shrink"],
            *["--generation-database", "none", "--warnings", "off", "--request-timeout", "60"],
            *["--suppress-health-check", "all", "--output-sanitize", "false"],
        ]
        await _run(command, plan, home / f"{trial.name}.{number}.log")
    raise FuzzError(f"{trial.name}: fewer than {cases} cases after {_MOST_ROUNDS} rounds")


async def _run(command: Sequence[str], plan: Path, log: Path) -> None:
    environ = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONPATH": str(_FOLDER),
        "FUZZ_PLAN": str(plan),
    }
    log.with_name("schemathesis.toml").write_text(_SETTINGS)
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), _LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            status = await child.wait()
    _raise_for(status, log)


def _raise_for(status: int, log: Path) -> None:
    text = log.read_text(errors="replace")
    if status not in _ENDED or "ERRORS ===" in text:
        tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
        raise FuzzError(f"schemathesis ended with {status}; the end of {log}:\n{tail}")


def _read(name: str, record: Path) -> Outcome:
    found: dict[str, Operation] = {}
    seen: Counter[tuple[str, int, str]] = Counter()
    for line in _lines(record):
        operation = found.setdefault(line["operation"], Operation(line["operation"], {}, []))
        if "failure" in line:
            kind = (operation.name, line["of"], line["failure"])
            seen[kind] += 1
            if seen[kind] == 1:
                operation.failures.append(Failure(*kind, line["curl"]))
        else:
            statuses = operation.statuses
            statuses[line["status"]] = statuses.get(line["status"], 0) + 1
    return Outcome(name, [found[key] for key in sorted(found)])


def _lines(record: Path) -> Iterator[dict[str, Any]]:
    with suppress(FileNotFoundError), record.open("rb") as lines:
        for line in lines:
            yield json.loads(line)
