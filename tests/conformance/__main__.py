"""The suites of other people's clients, run against a server with a real model.

    python -m tests.conformance [--suite NAME]... [--json]

Exit codes: 0 every test did what is expected of it, 1 some did not, 2 they could not be run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from bench.errors import BenchError
from scripts.commands import InstallError
from tests.conformance import installation, report
from tests.conformance.expectations import Expectations, ExpectationsError, Result
from tests.conformance.outcomes import UnreadableResultsError
from tests.conformance.serving import Target, embedded_server
from tests.conformance.suites import SUITES, Suite, run_suite

FOLDER = Path(__file__).parent
HOME = FOLDER.parent.parent / ".conformance"

app = typer.Typer(add_completion=False)


@app.command(help=__doc__.splitlines()[0] if __doc__ else None)
def main(
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", "-s", help=f"Only this one: {', '.join(SUITES)}. May be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    url: Annotated[
        str | None,
        typer.Option(help="A running server, without /v1; its key in CONFORMANCE_API_KEY."),
    ] = None,
    model: Annotated[str, typer.Option(help="With --url: the model.")] = "",
    second_model: Annotated[str, typer.Option(help="With --url: another that answers.")] = "",
    embedding_model: Annotated[str, typer.Option(help="With --url: one for embeddings.")] = "",
) -> None:
    unknown = sorted({*(suite or ())} - SUITES.keys())
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]}: there is {', '.join(SUITES)}", param_hint="--suite"
        )
    if url is not None and not model:
        raise typer.BadParameter("it needs --model", param_hint="--url")
    chosen = [SUITES[name] for name in suite or SUITES]
    target = None
    if url is not None:
        key = os.environ.get("CONFORMANCE_API_KEY", "none")
        target = Target(url, key, model, second_model or model, embedding_model)
    console = Console(stderr=True)
    try:
        results = asyncio.run(_run(chosen, target, console))
    except (BenchError, InstallError, ExpectationsError, UnreadableResultsError) as error:
        console.print(f"conformance: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(results)).decode() + "\n")
    else:
        report.show(results, Console())
    raise typer.Exit(0 if all(result.good for result in results) else 1)


async def _run(suites: list[Suite], target: Target | None, console: Console) -> list[Result]:
    """Raises BenchError, InstallError, ExpectationsError, UnreadableResultsError."""
    expectations = Expectations.read(FOLDER / "expected.toml")
    clients = installation.install(HOME, FOLDER, console, node=any(one.node for one in suites))
    serving = embedded_server(HOME, console) if target is None else nullcontext(target)
    results = []
    async with serving as server:
        for suite in suites:
            console.print(f"conformance: {suite.name}", style="dim")
            began = perf_counter()
            outcomes = await run_suite(suite, clients, server)
            seconds, client = perf_counter() - began, clients.client(suite.package)
            results.append(expectations.judge(suite.name, client, seconds, outcomes))
    return results


if __name__ == "__main__":
    app()
