"""Loads to measure at, and the notation of their ranges."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["concurrency", "rate"]

MOST_POINTS = 100
NOTATION = "FIRST:LAST:xFACTOR, FIRST:LAST:+STEP or a list A,B,C"


@dataclass(frozen=True, slots=True, order=True)
class Load:
    """Requests in flight (a closed loop), or requests that begin a second (an open loop)."""

    kind: Kind
    value: float

    def __str__(self) -> str:
        """As people read it after the word: `concurrency 8`, `rate 1.5/s`."""
        return f"{self.value:g}" if self.kind == "concurrency" else f"{self.value:g}/s"


def concurrencies(text: str) -> tuple[Load, ...]:
    """An argparse type: a range of whole numbers from 1; others are rounded to the nearest."""
    values = sorted({round(value) for value in _values(text)})
    if values[0] < 1:
        raise ArgumentTypeError(f"{text}: a concurrency is at least 1, not {values[0]}")
    return tuple(Load("concurrency", value) for value in values)


def rates(text: str) -> tuple[Load, ...]:
    """An argparse type: a range of requests a second, each with four digits that count."""
    values = sorted({float(f"{value:.4g}") for value in _values(text)})
    if values[0] <= 0:
        raise ArgumentTypeError(f"{text}: a rate is above 0, not {values[0]:g}")
    return tuple(Load("rate", value) for value in values)


def _values(text: str) -> list[float]:
    try:
        values = list(_spelled(text))
    except ValueError:
        raise ArgumentTypeError(f"{text}: expected {NOTATION}") from None
    if not values:
        raise ArgumentTypeError(f"{text}: the last is below the first")
    return values


def _spelled(text: str) -> Iterator[float]:
    if ":" not in text:
        yield from (_number(part) for part in text.split(","))
        return
    first_text, last_text, step = text.split(":")
    if step[:1] not in ("x", "+"):
        raise ValueError(step)
    first, last, by = _number(first_text), _number(last_text), _number(step[1:])
    if (by <= 1 or first <= 0) if step[0] == "x" else by <= 0:
        raise ArgumentTypeError(f"{text}: {step} never reaches {last_text}")
    for number in range(MOST_POINTS + 1):
        value = first * by**number if step[0] == "x" else first + by * number
        # The last value is meant, whatever floating point made of it.
        if value > last * (1 + 1e-9):
            return
        if number == MOST_POINTS:
            raise ArgumentTypeError(f"{text}: more than {MOST_POINTS} points; take larger steps")
        yield value


def _number(text: str) -> float:
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError(text)
    return value
