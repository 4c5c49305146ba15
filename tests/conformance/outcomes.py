"""What became of each test of a suite, read from the files that the suites write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import msgspec

State = Literal["passed", "failed", "skipped", "expected", "unexpected"]

_PROBED: dict[str, State] = {
    "pass": "passed",
    "inconclusive": "skipped",
    "skipped": "skipped",
    "unsupported": "skipped",
}


class UnreadableResultsError(Exception):
    """A suite ended without results; the message has the end of what it printed."""


class Outcome(msgspec.Struct, frozen=True):
    """One test. `expected` is a failure that is expected, `unexpected` the lack of one; `detail`
    says why it failed or was skipped, or why it was expected to fail."""

    name: str
    state: State
    detail: str = ""


def read_junit(path: Path) -> list[Outcome]:
    """pytest's and node:test's. Raises OSError, ElementTree.ParseError."""
    return [_case(case, place) for case, place in _cases(ElementTree.parse(path).getroot(), ())]


def read_llmprobe(path: Path, surface: str | None = None) -> list[Outcome]:
    """llmprobe's, of all that it probed or of one surface. Raises OSError, ValueError, KeyError."""
    results = json.loads(path.read_bytes())["conformance"]["results"]
    return [_probe(one) for one in results if surface in (None, one["surface"])]


def _cases(element: Element, place: tuple[str, ...]) -> Iterator[tuple[Element, tuple[str, ...]]]:
    """Every test case with the names of what it is in: pytest's classes, node:test's suites."""
    for child in element:
        if child.tag == "testcase":
            written = child.get("classname", "")
            yield child, place if written in ("", "test") else tuple(written.split("."))
        elif child.tag == "testsuite":
            # pytest has one around all of its tests, which says nothing.
            inner = () if child.get("name") == "pytest" else (child.get("name", ""),)
            yield from _cases(child, place + inner)


def _case(case: Element, place: tuple[str, ...]) -> Outcome:
    name = "::".join((*place, case.get("name", "")))
    for tag, state in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            detail = found.get("message") or found.get("type") or (found.text or "").strip()
            return Outcome(name, state, detail)  # type: ignore[arg-type]
    return Outcome(name, "passed")


def _probe(result: dict[str, Any]) -> Outcome:
    state = _PROBED.get(result["outcome"], "failed")
    failures = [one.get("message") or one.get("label", "") for one in result.get("failures", ())]
    detail = "; ".join(failures) or result.get("reason") or ""
    return Outcome(result["id"], state, "" if state == "passed" else detail)
