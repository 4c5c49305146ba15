"""What a part of the run has measured, and what was not as it has to be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

_SHOWN: Final = 5


@dataclass(slots=True)
class Found:
    """Of one part. `figures` are ready for JSON; with any of `violations` the run has failed."""

    part: str
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def require(self, holds: bool, otherwise: str) -> None:
        """Note what is violated unless it `holds`."""
        if not holds:
            self.violations.append(otherwise)

    def none_of(self, wrong: Iterable[object], what: str) -> None:
        """Note that there are `wrong` ones, and show a few of them."""
        found = [str(one) for one in wrong]
        if found:
            shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
            self.violations.append(f"{what}: {len(found)} ({shown})")


def spread(values: Iterable[float], digits: int = 3) -> dict[str, float] | None:
    """The least, the median and the most; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    named = {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}
    return {name: round(value, digits) for name, value in named.items()}
