"""The texts a perplexity is measured on: docstrings of Python's standard library, or a file.

The docstrings need no download and are on every machine. Half of the modules are for calibrating
quantized checkpoints and half for judging them: a module is for calibration where the first byte
of its name's SHA-256 is below 128. Python's versions differ in their docstrings; the hash of the
text tells.
"""

from __future__ import annotations

import ast
import platform
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from bench.errors import BenchError

# Of the first byte of a name's hash: below is for calibration.
_FIRST_FOR_EVALUATION = 128
# Characters a request to the tokenizer has at most; any server takes as much.
_PIECE = 8192
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Text:
    """`python` is the version whose docstrings these are; None of a file."""

    name: str
    content: str
    python: str | None = None

    @cached_property
    def sha256(self) -> str:
        return sha256(self.content.encode()).hexdigest()

    def pieces(self) -> Iterator[str]:
        """The text, cut after blank lines where there are any."""
        begin = 0
        while begin < len(self.content):
            end = begin + _PIECE
            if end < len(self.content):
                blank = self.content.rfind("\n\n", begin, end)
                end = blank + 2 if blank > begin else end
            yield self.content[begin:end]
            begin = end


def is_for_evaluation(module: str) -> bool:
    """Whether the docstrings of a module of this name may judge a checkpoint."""
    return _hash(module)[0] >= _FIRST_FOR_EVALUATION


def standard_library() -> Text:
    """Docstrings of this Python's public top-level modules that are for evaluation.

    Modules come in the order of their names' hashes, so that any beginning of the text is a random
    sample of them. Raises BenchError: this Python has no sources.
    """
    names = [name for name in sys.stdlib_module_names if not name.startswith("_")]
    chosen = sorted(filter(is_for_evaluation, names), key=_hash)
    root = Path(sysconfig.get_path("stdlib"))
    found = [docstrings(source) for name in chosen if (source := _source(root, name))]
    content = "\n\n".join(text for text in found if text)
    if not content:
        raise BenchError(f"{root}: no sources of the standard library; give a text with --text")
    return Text("standard-library docstrings", content, platform.python_version())


def from_file(path: Path) -> Text:
    """Raises BenchError: the file can't be read."""
    try:
        return Text(path.name, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--text {path}: can't be read as UTF-8: {error}") from error


def docstrings(source: bytes) -> str:
    """All docstrings of a module's source, with blank lines between them."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, _DOCUMENTED))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def _hash(name: str) -> bytes:
    return sha256(name.encode()).digest()


def _source(root: Path, name: str) -> bytes | None:
    """None of a module that is not written in Python."""
    for path in (root / f"{name}.py", root / name / "__init__.py"):
        if path.is_file():
            return path.read_bytes()
    return None
