"""Service level objectives, and which answers meet them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.client import Sample
from bench.errors import BenchError

_NAMES = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Slo:
    """Upper bounds in milliseconds; None: no bound. An answer is good when it meets all."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None

    @property
    def given(self) -> bool:
        return not (self.ttft_ms is None and self.tpot_ms is None and self.e2el_ms is None)

    def met_by(self, sample: Sample, late_s: float = 0.0) -> bool:
        """`late_s`: how long after its intended time the request was sent, which its user waited
        too. An answer of one token has no TPOT and meets any."""
        return (
            _within(sample.ttft_s, late_s, self.ttft_ms)
            and (sample.tpot_s is None or _within(sample.tpot_s, 0.0, self.tpot_ms))
            and _within(sample.e2el_s, late_s, self.e2el_ms)
        )

    def __str__(self) -> str:
        bounds = zip(_NAMES, (self.ttft_ms, self.tpot_ms, self.e2el_ms), strict=True)
        return ", ".join(f"{name.upper()} ≤ {ms:g} ms" for name, ms in bounds if ms is not None)


def parse_slo(bounds: Sequence[str]) -> Slo:
    """Read `ttft=500`, `tpot=50`, `e2el=10000`. Raises BenchError."""
    slo = Slo()
    for bound in bounds:
        name, _, text = bound.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if name not in _NAMES or not 0 < value < math.inf:
            raise BenchError(
                f"--slo {bound}: expected ttft=MS, tpot=MS or e2el=MS, such as --slo ttft=500"
            )
        slo = replace(slo, **{f"{name}_ms": value})
    return slo


def _within(seconds: float | None, late_s: float, bound_ms: float | None) -> bool:
    if bound_ms is None:
        return True
    return seconds is not None and 1000 * (seconds + late_s) <= bound_ms
