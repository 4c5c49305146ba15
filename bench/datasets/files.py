"""Reads files of records: JSON, a JSON object a line, or CSV with a header."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from bench.errors import BenchError


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a list, of `data` in an object, one a line, or the rows of a CSV file.

    Raises BenchError: it can't be read, or is none of these.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--dataset-path {path}: can't be read: {error}") from error
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    try:
        found = json.loads(text)
    except ValueError:
        found = [
            _line(path, number, line)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    if isinstance(found, dict):
        found = found["data"] if isinstance(found.get("data"), list) else [found]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BenchError(f"--dataset-path {path}: expected JSON objects, in a list or one a line")
    return found


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise BenchError(f"--dataset-path {path}: line {number} is not JSON: {error}") from error
