"""One run of the command: everything that was asked for, one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from bench.cli.command import event_loop_name
from bench.cli.progress import live_progress
from bench.client import Endpoint, Target, new_session
from bench.measuring.facts import ServerFacts, client_facts, read_server
from bench.quality import (
    answers,
    harness,
    installation,
    perplexity,
    questions,
    report,
    scores,
    text,
)
from bench.quality.api import Api


class Measuring:
    """Reads every file it is given before the first request is sent."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        """Raises BenchError: a file can't be used."""
        self._args = args
        self._console = console
        self.baseline = report.read(args.baseline) if args.baseline is not None else None
        self._endpoint: Endpoint = args.endpoint or "chat"
        self._text = None
        if args.perplexity:
            given = args.text
            self._text = text.standard_library() if given is None else text.from_file(given)
        self._questions = None
        if args.answers is not None:
            self._questions = questions.read(args.answers, self._endpoint)
            self._check_answers(self._questions)

    async def record(self, base_url: str) -> dict[str, Any]:
        """The record of `--json`, without its comparison. Raises BenchError."""
        args, started_at = self._args, datetime.now(UTC)
        async with new_session() as session:
            server = await read_server(session, base_url, api_key=args.api_key, model=args.model)
            api = Api(session, base_url, server.model, args.api_key, args.timeout)
            measured: dict[str, Any] = {
                "perplexity": await self._perplexity(api, server),
                "answers": await self._answers(api),
            }
        measured["tasks"] = await self._tasks(server) if args.tasks else None
        return report.to_record(server, client_facts(event_loop_name()), started_at, measured)

    async def _perplexity(self, api: Api, server: ServerFacts) -> dict[str, Any] | None:
        if self._text is None:
            return None
        args = self._args
        shape = perplexity.Shape(args.length, args.stride, args.windows)
        with self._console.status("cutting the text with the server's tokenizer"):
            plan = await perplexity.prepare(api, self._text, shape, server.max_model_len)
        before = self.baseline["perplexity"] if self.baseline else None
        if before is not None:
            perplexity.check_comparable(plan, before)
        with self._progress("perplexity", len(plan.windows)) as advance:
            return await perplexity.measure(api, plan, args.concurrency, advance)

    def _check_answers(self, file: questions.QuestionFile) -> None:
        before = self.baseline["answers"] if self.baseline else None
        if before is not None:
            now = answers.identity(file, self._endpoint, self._args.max_tokens)
            answers.check_comparable(now, before["identity"])

    async def _answers(self, api: Api) -> dict[str, Any] | None:
        file, args = self._questions, self._args
        if file is None:
            return None
        with self._progress("answers", len(file.questions)) as advance:
            return await answers.measure(
                api, file, self._endpoint, args.max_tokens, args.concurrency, advance
            )

    async def _tasks(self, server: ServerFacts) -> list[dict[str, Any]]:
        args = self._args
        run = harness.TaskRun(
            tasks=args.tasks,
            endpoint=args.endpoint or "completions",
            limit=args.limit,
            shots=args.shots,
            tokenizer=args.tokenizer,
            include=args.include,
            concurrency=args.concurrency,
            max_model_len=server.max_model_len,
            timeout_s=args.timeout,
        )
        target = Target(server.base_url, run.endpoint, server.model, args.api_key)
        installed = installation.installed(self._console)
        folder = args.data or installed.data
        found = await harness.run_tasks(installed.python, run, target, folder, quiet=args.quiet)
        return scores.read(found)

    @contextmanager
    def _progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        with live_progress(self._console) as bar:
            task = bar.add_task(label, total=total, running="")
            yield lambda: bar.advance(task)
