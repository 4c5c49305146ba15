"""The ratios of a comparison as an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bench.comparison import NO_CONCLUSION, Finding

_ROW, _LEFT, _WIDTH, _RIGHT, _TOP, _BOTTOM = 34, 230, 460, 210, 56, 40


def to_svg(names: tuple[str, str], findings: Sequence[Finding]) -> str:
    """One row a metric: a dot a round, a line for the interval, a bar for the median.

    The axis is logarithmic, so that twice and half are equally far from equal.
    """
    reach = max((abs(math.log2(r)) for f in findings for r in f.ratios), default=0.0)
    reach = max(reach, math.log2(1.1)) * 1.1
    height = _TOP + _ROW * len(findings) + _BOTTOM
    width = _LEFT + _WIDTH + _RIGHT
    title = f"{names[0]} / {names[1]}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(_LEFT, 24, f"Ratio {title}, one dot a round", bold=True),
        *_axis(reach, height),
    ]
    for number, finding in enumerate(findings):
        parts += _row(finding, _TOP + _ROW * (number + 0.5), reach)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(ratio: float, reach: float) -> float:
    return _LEFT + _WIDTH * (math.log2(ratio) + reach) / (2 * reach)


def _axis(reach: float, height: int) -> list[str]:
    bottom = height - _BOTTOM
    parts = []
    for ratio in (2**-reach, 2 ** (-reach / 2), 1.0, 2 ** (reach / 2), 2**reach):
        x = _x(ratio, reach)
        colour = "#444" if ratio == 1.0 else "#ddd"
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}"/>'
        )
        parts.append(_text(x, bottom + 18, f"{ratio:.2f}", anchor="middle"))
    return parts


def _row(finding: Finding, y: float, reach: float) -> list[str]:
    colour = "#888" if finding.verdict == NO_CONCLUSION else "#1f6fb2"
    low, high = _x(finding.low, reach), _x(finding.high, reach)
    middle = _x(finding.median_ratio, reach)
    dots = [
        f'<circle cx="{_x(ratio, reach):.1f}" cy="{y:.1f}" r="4" fill="{colour}" '
        'fill-opacity="0.45"/>'
        for ratio in finding.ratios
    ]
    return [
        _text(_LEFT - 12, y + 4, finding.metric, anchor="end"),
        f'<line x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}" stroke="{colour}" '
        'stroke-width="2"/>',
        *dots,
        f'<rect x="{middle - 1.5:.1f}" y="{y - 9:.1f}" width="3" height="18" fill="{colour}"/>',
        _text(_LEFT + _WIDTH + 12, y + 4, f"{finding.median_ratio:.3f}  {finding.verdict}"),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
