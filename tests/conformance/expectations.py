"""The tests that are expected to fail, each with its reason, and what that makes of outcomes."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tests.conformance.outcomes import Outcome, State


class ExpectationsError(Exception):
    """The list can't be read; the message names the file."""


class Result(msgspec.Struct, frozen=True):
    """A suite's. `client` is what it ran, with its version."""

    suite: str
    client: str
    seconds: float
    outcomes: Sequence[Outcome]

    def count(self, state: State) -> int:
        return Counter(one.state for one in self.outcomes)[state]

    @property
    def good(self) -> bool:
        """Whether every test did what is expected of it, and there were some."""
        return bool(self.outcomes) and not (self.count("failed") or self.count("unexpected"))


class Expectations:
    """By suite, by test: why it fails. A name without parameters stands for all of them."""

    def __init__(self, reasons: Mapping[str, Mapping[str, str]]) -> None:
        self._reasons = reasons

    @classmethod
    def read(cls, path: Path) -> Expectations:
        """Raises ExpectationsError."""
        try:
            return cls(msgspec.convert(tomllib.loads(path.read_text()), dict[str, dict[str, str]]))
        except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ExpectationsError(f"{path.name}: {error}") from None

    def judge(self, suite: str, client: str, seconds: float, outcomes: Sequence[Outcome]) -> Result:
        """A test that passes though it is expected to fail is bad too: the list must stay true."""
        return Result(suite, client, seconds, [self._judged(suite, one) for one in outcomes])

    def _judged(self, suite: str, outcome: Outcome) -> Outcome:
        reasons = self._reasons.get(suite, {})
        reason = reasons.get(outcome.name) or reasons.get(outcome.name.partition("[")[0])
        if reason is None or outcome.state == "skipped":
            return outcome
        state: State = "expected" if outcome.state == "failed" else "unexpected"
        return Outcome(outcome.name, state, reason)
