"""What the pairs of runs say: ratios, intervals, and whether the tools agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.agreement.load import Figures
from bench.reports.comparison import NO_CONCLUSION, Finding, judged
from bench.stats import Interval

METRICS = {
    "total_tokens_per_s": "total tokens/s",
    "output_tokens_per_s": "output tokens/s",
    "ttft_p50_ms": "TTFT p50, ms",
    "ttft_mean_ms": "TTFT mean, ms",
    "tpot_p50_ms": "TPOT p50, ms",
    "tpot_mean_ms": "TPOT mean, ms",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A tool's run and ours beside it; `ours_first` says in which order."""

    round: int
    tool: str
    ours_first: bool
    ours: Figures
    other: Figures

    def __str__(self) -> str:
        theirs, ours = self.other.total_tokens_per_s, self.ours.total_tokens_per_s
        return f"{self.tool}: {theirs:,.1f} total tokens/s, beside it bench.throughput: {ours:,.1f}"

    def clean(self, requests: int) -> bool:
        """Whether every request succeeded on both sides: only such pairs are compared."""
        return all(one.failed == 0 and one.succeeded == requests for one in (self.ours, self.other))


def judge(pairs: Sequence[Pair], requests: int, tolerance: float) -> list[Finding]:
    """Every metric of every tool that has a clean pair; `first` is the tool's, `second` ours."""
    findings = []
    for tool in dict.fromkeys(pair.tool for pair in pairs):
        clean = [pair for pair in pairs if pair.tool == tool and pair.clean(requests)]
        if clean:
            findings += [
                _judged(f"{tool}: {label}", [_values(pair, name) for pair in clean], tolerance)
                for name, label in METRICS.items()
            ]
    return findings


def differs(finding: Finding) -> bool:
    """Whether the tool and ours have been found to disagree."""
    return finding.verdict.startswith("differs")


def _values(pair: Pair, name: str) -> tuple[float, float]:
    return getattr(pair.other, name), getattr(pair.ours, name)


def _judged(metric: str, values: Sequence[tuple[float, float]], tolerance: float) -> Finding:
    low, high = 1 - tolerance, 1 + tolerance

    def verdict(ratio: Interval) -> str:
        if low <= ratio.low and ratio.high <= high:
            return f"within {tolerance:.0%}"
        if ratio.high < low or ratio.low > high:
            return f"differs by more than {tolerance:.0%}"
        return NO_CONCLUSION

    return judged(metric, values, verdict)
