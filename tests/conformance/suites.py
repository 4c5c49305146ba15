"""The suites, and how each is run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import ParseError

from tests.conformance.installation import Clients
from tests.conformance.outcomes import (
    Outcome,
    UnreadableResultsError,
    read_junit,
    read_llmprobe,
)
from tests.conformance.serving import Target

_FOLDER: Final = Path(__file__).parent
_LIMIT_S: Final = 1800
_TAIL_LINES: Final = 25
# Its evaluations of the model, which follow the probes and aren't wanted, end with this budget.
_PROBE_TOKENS: Final = 60_000
_QUIET: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
    "NODE_NO_WARNINGS": "1",
}

Command = Callable[[Clients, Target, Path], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Suite:
    """`package` is the client or suite that other people wrote. `command` makes it write its
    results to a file, which `read` reads."""

    name: str
    package: str
    command: Command
    read: Callable[[Path], list[Outcome]] = read_junit
    embeds: bool = False

    @property
    def node(self) -> bool:
        """Whether it needs the Node packages."""
        return self.package.startswith("npm:")


def _pytest(*files: str) -> Command:
    def command(clients: Clients, _target: Target, results: Path) -> Sequence[str]:
        folder = _FOLDER / "python"
        paths = [str(folder / f"{file}.py") for file in files]
        options = ["-c", str(folder / "pytest.ini"), f"--junitxml={results}"]
        return [str(clients.python), "-m", "pytest", *options, *paths]

    return command


def _node_test(file: str) -> Command:
    def command(clients: Clients, _target: Target, results: Path) -> Sequence[str]:
        options = ["--test-reporter=junit", f"--test-reporter-destination={results}"]
        test = clients.home / "node" / "tests" / f"{file}.test.mjs"
        return [str(clients.node), "--test", *options, str(test)]

    return command


def _llmprobe(*, embeds: bool = False) -> Command:
    def command(clients: Clients, target: Target, results: Path) -> Sequence[str]:
        budget = ["--full", "--budget", str(_PROBE_TOKENS)]
        model = target.embedding_model if embeds else target.model
        options = ["--no-bench", "--no-save", "--no-color", "--save", str(results), *budget]
        probe = clients.node.with_name("llmprobe")
        which = ["--model", model, "--api-key", target.api_key]
        return [str(clients.node), str(probe), target.url, *which, *options]

    return command


def _by_name(*suites: Suite) -> dict[str, Suite]:
    return {suite.name: suite for suite in suites}


SUITES: Final = _by_name(
    Suite(
        "openai-python",
        "openai",
        _pytest(
            "test_openai_chat", "test_openai_other", "test_openai_stored", "test_openai_responses"
        ),
    ),
    Suite("openai-node", "npm:openai", _node_test("openai")),
    Suite("langchain", "langchain-tests", _pytest("test_langchain")),
    Suite("instructor", "instructor", _pytest("test_instructor")),
    Suite("pydantic-ai", "pydantic-ai-slim", _pytest("test_pydantic_ai")),
    Suite("litellm", "litellm", _pytest("test_litellm")),
    Suite("ai-sdk", "npm:ai", _node_test("ai")),
    Suite("anthropic", "anthropic", _pytest("test_anthropic")),
    Suite("llmprobe", "npm:llmprobe", _llmprobe(), read_llmprobe),
    Suite(
        "llmprobe-embeddings",
        "npm:llmprobe",
        _llmprobe(embeds=True),
        partial(read_llmprobe, surface="embeddings"),
        embeds=True,
    ),
)


async def run_suite(suite: Suite, clients: Clients, target: Target) -> list[Outcome]:
    """Run it to its end. What it prints goes to a log below the clients' home.

    Raises UnreadableResultsError: it wrote no results, or not in time.
    """
    if suite.embeds and not target.embedding_model:
        return [Outcome(suite.name, "skipped", "the server has no embedding model")]
    folder = clients.home / "results"
    folder.mkdir(exist_ok=True)
    results, log = folder / suite.name, folder / f"{suite.name}.log"
    results.unlink(missing_ok=True)
    await _run(suite.command(clients, target, results), target, clients.home, log)
    try:
        return suite.read(results)
    except (OSError, ParseError, ValueError, KeyError) as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise UnreadableResultsError(f"{suite.name} left no results ({error})\n{tail}") from None


async def _run(command: Sequence[str], target: Target, home: Path, log: Path) -> None:
    """Its exit status says no more than its results."""
    environ = {**os.environ, **_QUIET, **target.environ()}
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            cwd=home,
            start_new_session=True,
        )
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), _LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
