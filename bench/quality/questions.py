"""Questions with their right answers, from a JSONL file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench.client import Endpoint
from bench.errors import BenchError

# Thirty plain facts, for models as small as the embedded one.
SAMPLE = Path(__file__).with_name("facts.jsonl")


@dataclass(frozen=True, slots=True)
class Question:
    """`prompt` is a text or a list of messages; `right` holds the right answers, one or more."""

    prompt: str | list[dict[str, Any]]
    right: tuple[str, ...]

    def fields(self, endpoint: Endpoint) -> dict[str, Any]:
        """The request's. A completion ends with its line: what follows is another question."""
        if endpoint == "completions":
            return {"prompt": self.prompt, "stop": ["\n"]}
        if isinstance(self.prompt, str):
            return {"messages": [{"role": "user", "content": self.prompt}]}
        return {"messages": self.prompt}


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """`sha256` is of the file's bytes."""

    name: str
    sha256: str
    questions: tuple[Question, ...]


def read(path: Path, endpoint: Endpoint) -> QuestionFile:
    """Raises BenchError: unreadable, or a line is no question for this endpoint."""
    try:
        content = path.read_bytes()
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--answers {path}: can't be read as UTF-8: {error}") from error
    questions = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                questions.append(_question(json.loads(line), endpoint))
            except (ValueError, BenchError) as error:
                raise BenchError(f"--answers {path}, line {number}: {error}") from error
    if len(questions) < 2:
        raise BenchError(f"--answers {path}: two questions at least are needed for an interval")
    return QuestionFile(path.name, sha256(content).hexdigest(), tuple(questions))


def _question(entry: Any, endpoint: Endpoint) -> Question:
    """Raises BenchError, without the place."""
    if not isinstance(entry, dict):
        raise BenchError('expected an object like {"prompt": "...", "answer": "..."}')
    prompt = _only(entry, "prompt", "messages")
    if isinstance(prompt, list) and endpoint == "completions":
        raise BenchError('"messages" are for a chat; give --endpoint chat, or a "prompt"')
    is_text = "prompt" in entry and isinstance(prompt, str)
    is_chat = "messages" in entry and isinstance(prompt, list) and bool(prompt)
    if not (is_text or is_chat):
        raise BenchError('"prompt" is a string, "messages" a list of messages')
    right = _only(entry, "answer", "answers")
    answers = [right] if isinstance(right, str) else right
    if not isinstance(answers, list) or not answers or not all(map(_is_text, answers)):
        raise BenchError('"answer" is a string, "answers" a list of strings')
    return Question(prompt, tuple(answers))


def _only(entry: Mapping[str, Any], one: str, other: str) -> Any:
    if (one in entry) == (other in entry):
        raise BenchError(f'give one of "{one}" and "{other}"')
    return entry[one] if one in entry else entry[other]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
