"""What the requests of one case say: parts that add up to the time the client saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from bench.client import Failure, Outcome
from bench.components.exchange import Trace
from bench.stats import Summary, summarize

CONNECT: Final = "connect"
NETWORK: Final = "network"
UNEXPLAINED: Final = "unexplained"
# As a request goes through them. What a server tells besides stands before the last.
_ORDER: Final = (
    CONNECT,
    NETWORK,
    "auth",
    "parse",
    "grammar",
    "render",
    "tokenize",
    "queue",
    "prefill",
    "decode",
    "detokenize",
    "frame",
    "send",
    "store",
)
# Beside each other in every report, whether they take time or not.
_ALWAYS: Final = (NETWORK, UNEXPLAINED)


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of answer at one concurrency."""

    stream: bool
    concurrency: int

    @property
    def answers(self) -> str:
        return "streamed" if self.stream else "whole"


@dataclass(frozen=True)
class Cell:
    """The answers of one case. `warmup` are the failures before it."""

    case: Case
    outcomes: Sequence[Outcome]
    warmup: Sequence[Failure] = ()

    @cached_property
    def traces(self) -> list[Trace]:
        return [one for one in self.outcomes if isinstance(one, Trace)]

    @property
    def failures(self) -> list[Failure]:
        return [*self.warmup, *(one for one in self.outcomes if isinstance(one, Failure))]

    @cached_property
    def parts_ms(self) -> list[dict[str, float]]:
        """The parts of each request."""
        return [parts_ms(one) for one in self.traces]

    def summary(self, part: str) -> Summary | None:
        """Of a part, in milliseconds; a request without it spent nothing on it."""
        return summarize(parts.get(part, 0.0) for parts in self.parts_ms)

    @property
    def total(self) -> Summary | None:
        """From before a request was sent to the last byte of its answer, in milliseconds."""
        return summarize(1000 * one.e2el_s for one in self.traces)

    @property
    def unexplained_ms(self) -> float:
        """The most of any request, whichever way it is off."""
        return max((abs(parts[UNEXPLAINED]) for parts in self.parts_ms), default=0.0)

    @property
    def typical(self) -> Trace | None:
        """The request of median duration: of one request the parts add up, of medians they don't.
        The lower one of two."""
        ordered = sorted(self.traces, key=lambda one: one.e2el_s)
        return ordered[(len(ordered) - 1) // 2] if ordered else None


def parts_ms(trace: Trace) -> dict[str, float]:
    """Where a request's time went, in milliseconds.

    `network` is what the client saw beyond what the server accounts for: the way there and back,
    the kernels' buffers, and waiting for the event loops of both sides. `unexplained` is what of
    the server's own total no stage has.
    """
    if trace.server is None:
        raise ValueError("a trace without the server's account has no parts")
    connect, stages = 1000 * trace.connect_s, trace.server.stages_ms
    return {
        CONNECT: connect,
        NETWORK: 1000 * trace.e2el_s - connect - trace.server.total_ms,
        **stages,
        UNEXPLAINED: trace.server.total_ms - sum(stages.values()),
    }


def names(cells: Iterable[Cell]) -> list[str]:
    """The parts that took time in any of the requests, in the order of a request's life."""
    taken = {
        name
        for cell in cells
        for parts in cell.parts_ms
        for name, spent in parts.items()
        if spent or name in _ALWAYS
    }
    known = [name for name in _ORDER if name in taken]
    new = sorted(taken - {*known, UNEXPLAINED})
    return [*known, *new, *([UNEXPLAINED] if UNEXPLAINED in taken else [])]
