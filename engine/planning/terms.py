"""Terms of a sum of times, which can say how they come about."""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate of a device, bytes or operations a second, and the share of it that is reached."""

    peak: float
    share: float = 1.0

    @property
    def reached(self) -> float:
        return self.peak * self.share

    def text(self, unit: str) -> str:
        peak = f"{amount(self.peak, unit)}/s"
        return peak if self.share == 1 else f"({peak} x {self.share:.2g})"


@dataclass(frozen=True, slots=True)
class Roof:
    """The roofline of one part: it takes as long as its bytes or its operations, whichever take
    longer (Williams, Waterman and Patterson, 2009)."""

    name: str
    moved: float
    bandwidth: Limit
    operations: float
    rate: Limit
    times: int = 1

    @property
    def memory_s(self) -> float:
        return self.moved / self.bandwidth.reached

    @property
    def compute_s(self) -> float:
        return self.operations / self.rate.reached

    @property
    def seconds(self) -> float:
        return self.times * max(self.memory_s, self.compute_s)

    def text(self) -> str:
        memory = _quotient(self.moved, self.bandwidth, "B", self.memory_s)
        compute = _quotient(self.operations, self.rate, "FLOP", self.compute_s)
        greatest = f"max({memory}, {compute})"
        return greatest if self.times == 1 else f"{self.times} x {greatest}"


@dataclass(frozen=True, slots=True)
class Overhead:
    """Something that is done so many times and takes as long each time."""

    name: str
    count: float
    each_s: float
    what: str

    @property
    def seconds(self) -> float:
        return self.count * self.each_s

    def text(self) -> str:
        what = self.what.removesuffix("s") if self.count == 1 else self.what
        return f"{self.count:,.0f} {what} x {duration(self.each_s)}"


@dataclass(frozen=True, slots=True)
class Phase:
    """Parts of a phase, one after the other."""

    name: str
    terms: tuple[Roof | Overhead, ...]

    @property
    def seconds(self) -> float:
        return sum(term.seconds for term in self.terms)

    def lines(self) -> list[str]:
        """The sum with its numbers put in."""
        rows = [(term.name, f"{term.text()} -> {duration(term.seconds)}") for term in self.terms]
        rows.append(("sum", duration(self.seconds)))
        width = max(len(name) for name, _ in rows)
        return [self.name, *(f"  {name:<{width}}  {text}" for name, text in rows)]


def _quotient(number: float, limit: Limit, unit: str, seconds: float) -> str:
    return f"{amount(number, unit)} / {limit.text(unit)} = {duration(seconds)}"


def amount(number: float, unit: str) -> str:
    """`1.23 GB`; thousands, not 1024."""
    for size, prefix in _UNITS:
        if abs(number) >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"
