"""What an OpenAI-compatible server answered, and how that differs from what was expected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Expected:
    """The text of each choice, and the completion tokens of all of them.

    `finish_reason` None accepts any. An answer that is left early has to be a beginning of this.
    """

    texts: tuple[str, ...]
    completion_tokens: int
    finish_reason: str | None = "length"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, chat or completion, streamed or not; a value is None where it isn't stated.

    `done` says that it is whole: a stream's `[DONE]` was there, or the object was complete.
    """

    texts: tuple[str, ...]
    finish_reasons: tuple[str | None, ...]
    completion_tokens: int | None
    prompt_tokens: int | None
    done: bool


class UnreadableAnswerError(Exception):
    """A body that is no answer; the message says what it is."""


def decode(body: bytes) -> Answer:
    """Read a whole body, or the beginning of a stream. Raises UnreadableAnswerError."""
    if body.lstrip()[:1] == b"{":
        return _gather([_object(body)], done=True)
    events = list(_events(body))
    done = events[-1:] == [b"[DONE]"]
    return _gather([_object(event) for event in (events[:-1] if done else events)], done=done)


def difference(answer: Answer, expected: Expected, *, partial: bool = False) -> str | None:
    """The first thing that differs from what was expected, for people; None where nothing does.

    With `partial` the answer may be any beginning of what was expected.
    """
    if len(answer.texts) > len(expected.texts):
        return f"{len(answer.texts)} choices, expected {len(expected.texts)}"
    for index, (got, wanted) in enumerate(zip(answer.texts, expected.texts, strict=False)):
        if not (wanted.startswith(got) if partial else got == wanted):
            return _text_difference(index, got, wanted)
    if partial:
        return None
    if not answer.done:
        return "the stream ended without [DONE]"
    if len(answer.texts) < len(expected.texts):
        return f"{len(answer.texts)} choices, expected {len(expected.texts)}"
    if answer.completion_tokens != expected.completion_tokens:
        return (
            f"usage says {answer.completion_tokens} completion tokens, "
            f"expected {expected.completion_tokens}"
        )
    reasons = set(answer.finish_reasons)
    if expected.finish_reason is not None and reasons != {expected.finish_reason}:
        return f"finish reasons {answer.finish_reasons}, expected {expected.finish_reason}"
    return None


def _events(body: bytes) -> Iterator[bytes]:
    """The data of every complete event; one that was cut off is not part of it."""
    complete, _, _ = body.replace(b"\r\n", b"\n").rpartition(b"\n\n")
    for event in complete.split(b"\n\n"):
        lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            yield b"\n".join(lines)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnreadableAnswerError(f"not a JSON object: {_start(data)}")
    if found.get("error") is not None:
        raise UnreadableAnswerError(f"an error: {_start(data)}")
    return found


def _gather(objects: list[dict[str, Any]], *, done: bool) -> Answer:
    texts: dict[int, list[str]] = {}
    reasons: dict[int, str | None] = {}
    usage: dict[str, Any] = {}
    for one in objects:
        for choice in one.get("choices") or ():
            index = choice.get("index", 0)
            part = choice.get("delta") or choice.get("message")
            text = choice.get("text") if part is None else part.get("content")
            texts.setdefault(index, []).append(text or "")
            reasons[index] = choice.get("finish_reason") or reasons.get(index)
        usage = one.get("usage") or usage
    order = range(max(texts, default=-1) + 1)
    return Answer(
        texts=tuple("".join(texts.get(index, ())) for index in order),
        finish_reasons=tuple(reasons.get(index) for index in order),
        completion_tokens=usage.get("completion_tokens"),
        prompt_tokens=usage.get("prompt_tokens"),
        done=done,
    )


def _text_difference(index: int, got: str, wanted: str) -> str:
    pairs = enumerate(zip(got, wanted, strict=False))
    at = next((at for at, (a, b) in pairs if a != b), min(len(got), len(wanted)))
    start = max(0, at - _SHOWN // 2)
    return (
        f"the text of choice {index} differs from character {at} on: "
        f"got …{got[start : at + _SHOWN]!r}, expected …{wanted[start : at + _SHOWN]!r}"
    )


def _start(data: bytes) -> str:
    return data[:300].decode(errors="replace")
