"""Text that calibrates: from a user's file, else from the documentation inside Python itself."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.quantize.errors import SettingsError

Message = dict[str, str]
Document = str | list[Message]
"""Plain text, or a conversation for the model's chat template."""

DEFAULT_SOURCE = "docstrings of Python's standard library"

# A shorter one says little beyond its first sentence.
_SHORTEST = 200
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
_ROLES = {"system", "user", "assistant", "tool"}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Documents, and where they are from."""

    source: str
    documents: tuple[Document, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the documents: the same text calibrates the same way."""
        text = json.dumps(self.documents, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def read_calibration(path: Path) -> Calibration:
    """A `.jsonl` file of `{"text": …}` and `{"messages": […]}`, or any other file as one text.

    Raises SettingsError.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--calibration {path} can't be read: {error}") from None
    documents = _parse_lines(path, text) if path.suffix == ".jsonl" else [text]
    found = [one for one in documents if not (isinstance(one, str) and not one.strip())]
    if not found:
        raise SettingsError(f"--calibration {path}: the file holds no text")
    return Calibration(str(path), tuple(found))


def default_calibration(*, chat: bool = False) -> Calibration:
    """Docstrings of those modules that `calibrates`, in an order that is always the same; with
    `chat` each is the answer to a question.

    Raises SettingsError: this Python has no sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = [entry for module in sorted(_modules(root)) for entry in _docstrings(root, module)]
    if not found:
        raise SettingsError(f"{root} holds no sources to calibrate on; give --calibration FILE")
    random.Random(0).shuffle(found)
    documents: list[Document] = [text for _, text in found]
    if chat:
        documents = [_conversation(f"What is {name} in Python?", text) for name, text in found]
    return Calibration(DEFAULT_SOURCE, tuple(documents))


def calibrates(module: str) -> bool:
    """Whether a top-level module's docstrings calibrate: the first byte of its name's SHA-256 is
    below 128. `bench.quality` measures perplexity on the others, so that what is measured is not
    what was calibrated on."""
    return hashlib.sha256(module.encode()).digest()[0] < 128


def _modules(root: Path) -> Iterator[Path]:
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not _LEFT_OUT & set(parts) and calibrates(parts[0].removesuffix(".py")):
            yield path


def _docstrings(root: Path, path: Path) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a module's functions and classes, and of itself."""
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
            if len(text) >= _SHORTEST:
                yield (module if isinstance(node, ast.Module) else f"{module}.{node.name}"), text


def _conversation(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _parse_lines(path: Path, text: str) -> list[Document]:
    return [
        _parse_line(f"--calibration {path}, line {number}", line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]


def _parse_line(where: str, line: str) -> Document:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise SettingsError(f"{where}: not JSON ({error})") from None
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        return str(entry["text"])
    if isinstance(entry, dict) and _is_conversation(entry.get("messages")):
        return [{"role": one["role"], "content": one["content"]} for one in entry["messages"]]
    raise SettingsError(
        f'{where}: expected {{"text": "…"}} or {{"messages": [{{"role": "user", "content": "…"}}]}}'
    )


def _is_conversation(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(
            isinstance(one, dict)
            and one.get("role") in _ROLES
            and isinstance(one.get("content"), str)
            for one in messages
        )
    )
