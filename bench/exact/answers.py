"""Asks a server the requests of a plan, and says what it has to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.exact.compare import Missing
from bench.exact.plan import Case
from bench.load import Answer, Outcome, Request, UnreadableAnswerError, run_aside
from bench.tiny.model import END, TinyModel
from bench.tiny.walk import Foretold, foretell

# What a run receives is kept until it ends: at 32 kB a stream some 30 MB.
_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Question:
    """One request in one mode."""

    case: Case
    stream: bool


def batches(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """All questions, in groups to ask together: of one path each, and not too many."""
    for path in sorted({question.case.path for question in questions}):
        group = [question for question in questions if question.case.path == path]
        for first in range(0, len(group), _AT_ONCE):
            yield group[first : first + _AT_ONCE]


async def ask(
    base_url: str,
    batch: Sequence[Question],
    *,
    concurrency: int,
    on_progress: Callable[[int], None],
) -> list[Answer | Missing]:
    """The answers to a batch, in its order. Raises BenchError: the server can't be reached."""
    result = await run_aside(
        base_url,
        batch[0].case.path,
        [Request(question.case.encoded(stream=question.stream)) for question in batch],
        concurrency=concurrency,
        on_progress=on_progress,
    )
    return [
        _answer(question, outcome) for question, outcome in zip(batch, result.outcomes, strict=True)
    ]


def foretold(model: TinyModel, case: Case) -> Foretold | None:
    """What each choice has to be; None where it can't be known before."""
    if case.start is None:
        return None
    body = case.body
    ending = set(body.get("stop_token_ids", ()))
    return foretell(
        model,
        case.start,
        max_tokens=case.max_tokens,
        min_tokens=body.get("min_tokens", 0),
        ending=ending if body["ignore_eos"] else ending | {END},
        stop=case.stops,
    )


def expected(case: Case, choice: Foretold) -> Answer:
    """The answer whose choices are all alike."""
    return Answer(
        texts=(choice.text,) * case.choices,
        finish_reasons=(choice.finish_reason,) * case.choices,
        completion_tokens=choice.completion_tokens * case.choices,
        prompt_tokens=case.prompt_tokens,
        done=True,
    )


def _answer(question: Question, outcome: Outcome) -> Answer | Missing:
    if outcome.error is not None:
        return Missing(outcome.error)
    try:
        found = outcome.answer()
    except UnreadableAnswerError as error:
        return Missing(str(error))
    if not found.done:
        return Missing("the stream ended without [DONE]")
    if len(found.texts) != question.case.choices:
        return Missing(f"{len(found.texts)} choices, asked for {question.case.choices}")
    return found
