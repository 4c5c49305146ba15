"""How long prompts and answers are: all alike, or drawn from a distribution."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

_SPREADS = 3  # a normal distribution is cut off so many deviations from its mean
_FORMS = "a number, LOW:HIGH or normal:MEAN:DEVIATION"


@dataclass(frozen=True, slots=True)
class Lengths:
    """Whole numbers of tokens. `uniform`: both ends included; `normal`: rounded, and drawn again
    until it is within three deviations of the mean and at least 1."""

    kind: Literal["uniform", "normal"]
    first: int
    second: int

    @property
    def shortest(self) -> int:
        if self.kind == "uniform":
            return self.first
        return max(1, self.first - _SPREADS * self.second)

    @property
    def longest(self) -> int:
        return self.second if self.kind == "uniform" else self.first + _SPREADS * self.second

    def draw(self, rng: random.Random) -> int:
        if self.kind == "uniform":
            return rng.randint(self.first, self.second)
        while True:
            value = round(rng.gauss(self.first, self.second))
            if self.shortest <= value <= self.longest:
                return value

    def __str__(self) -> str:
        prefix = "" if self.kind == "uniform" else "normal:"
        return f"{prefix}{self.first}:{self.second}"


def parse_lengths(text: str) -> int | Lengths:
    """Read `128`, `64:256` or `normal:128:32`. Raises ValueError, with what is expected."""
    name, _, rest = text.partition(":") if text.startswith("normal:") else ("", "", text)
    try:
        numbers = [int(part) for part in rest.split(":")]
    except ValueError:
        raise ValueError(f"expected {_FORMS}, not {text}") from None
    if len(numbers) == 1 and not name:
        return _at_least_one(numbers[0])
    if len(numbers) != 2:
        raise ValueError(f"expected {_FORMS}, not {text}")
    first, second = numbers
    _at_least_one(first)
    if name:
        if second < 0:
            raise ValueError(f"the deviation must be at least 0, not {second}")
        return Lengths("normal", first, second)
    if second < first:
        raise ValueError(f"{text}: the lower end comes first")
    return Lengths("uniform", first, second)


def shortest(lengths: int | Lengths) -> int:
    return lengths if isinstance(lengths, int) else lengths.shortest


def longest(lengths: int | Lengths) -> int:
    return lengths if isinstance(lengths, int) else lengths.longest


def draw(lengths: int | Lengths, rng: random.Random) -> int:
    return lengths if isinstance(lengths, int) else lengths.draw(rng)


def _at_least_one(number: int) -> int:
    if number < 1:
        raise ValueError(f"must be at least 1, not {number}")
    return number
