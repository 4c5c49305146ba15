"""Numbers as options take them: types for argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from bench.prompts.lengths import Lengths, parse_lengths


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number not below `minimum`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    parse.__name__ = "whole number"
    return parse


def positive(text: str) -> float:
    """An argparse type: a number above zero."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, and finite, not {text}")
    return value


def not_negative(text: str) -> float:
    """An argparse type: zero, or a number above."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or above, and finite, not {text}")
    return value


def lengths(text: str) -> int | Lengths:
    """An argparse type: `128`, `64:256` or `normal:128:32`."""
    try:
        return parse_lengths(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
