"""The ratios of a comparison as an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.reports import svg
from bench.reports.comparison import NO_CONCLUSION, Finding

_ROW, _LEFT, _WIDTH, _RIGHT, _TOP, _BOTTOM = 34, 230, 460, 210, 56, 40


def to_svg(names: tuple[str, str], findings: Sequence[Finding]) -> str:
    """One row a metric: a dot a round, a line for the interval, a bar for the median.

    The axis is logarithmic, so that twice and half are equally far from equal.
    """
    reach = max((abs(math.log2(r)) for f in findings for r in f.ratios), default=0.0)
    reach = max(reach, math.log2(1.1)) * 1.1
    height = _TOP + _ROW * len(findings) + _BOTTOM
    title = f"{names[0]} / {names[1]}"
    parts = [
        svg.text(_LEFT, 24, f"Ratio {title}, one dot a round", bold=True),
        *_axis(reach, height),
    ]
    for number, finding in enumerate(findings):
        parts += _row(finding, _TOP + _ROW * (number + 0.5), reach)
    return svg.picture(title, _LEFT + _WIDTH + _RIGHT, height, parts)


def _x(ratio: float, reach: float) -> float:
    return _LEFT + _WIDTH * (math.log2(ratio) + reach) / (2 * reach)


def _axis(reach: float, height: int) -> list[str]:
    bottom = height - _BOTTOM
    parts = []
    for ratio in (2**-reach, 2 ** (-reach / 2), 1.0, 2 ** (reach / 2), 2**reach):
        x = _x(ratio, reach)
        stroke = "soft" if ratio == 1.0 else "rule"
        parts.append(svg.line([(x, _TOP), (x, bottom)], stroke))
        parts.append(svg.text(x, bottom + 18, f"{ratio:.2f}", anchor="middle", soft=True))
    return parts


def _row(finding: Finding, y: float, reach: float) -> list[str]:
    colour = svg.series(4) if finding.verdict == NO_CONCLUSION else svg.series(0)
    low, high = _x(finding.low, reach), _x(finding.high, reach)
    middle = _x(finding.median_ratio, reach)
    return [
        svg.text(_LEFT - 12, y + 4, finding.metric, anchor="end"),
        svg.line([(low, y), (high, y)], colour, wide=2),
        *(svg.dot(_x(ratio, reach), y, colour, faint=True) for ratio in finding.ratios),
        svg.line([(middle, y - 9), (middle, y + 9)], colour, wide=3),
        svg.text(_LEFT + _WIDTH + 12, y + 4, f"{finding.median_ratio:.3f}  {finding.verdict}"),
    ]
