"""Which regular expressions a schema may hold.

xgrammar expands small counts (`{0,100}`) when it compiles, where the cost shows and is limited, but
keeps large ones to be counted for each token: ambiguous ones then take seconds for a token, in
which no request in the engine gets any (measured: 36 s for one token of
`((.{0,100}){0,100}){0,100}`). So a large count has to be simple. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_PATTERN: Final = 2_048
MAX_NESTING: Final = 32
# What xgrammar 0.2.8 expands.
MAX_EXPANDED: Final = 128
MAX_COUNT: Final = 10_000
# Each may be there or not, so each doubles the ways a large count after them can begin.
MAX_OPTIONAL: Final = 3

_TOKEN: Final = re.compile(
    r"""
      (?P<escape>\\(?:[pP]\{[^}]*\}|x[0-9a-fA-F]{2}|u\{[0-9a-fA-F]+\}|u[0-9a-fA-F]{4}|c[A-Za-z]|.))
    | (?P<set>\[(?!\^?\])(?:\\.|[^\]\\])+\])
    | (?P<open>\((?:\?(?::|=|!|<=|<!|P?<\w+>))?)
    | (?P<close>\))
    | (?P<or>\|)
    | (?P<count>\*|\+|\?|\{\d+(?:,\d*)?\})\??
    | (?P<anchor>[\^$])
    | (?P<unclear>[\[{\\])
    | (?P<atom>.)
    """,
    re.VERBOSE | re.DOTALL,
)


class PatternError(ValueError):
    """The message says what was found and what is allowed."""


@dataclass(slots=True)
class _Group:
    """What has been read of a group so far. `repeats` is the largest count in it, those within
    others multiplied; `loose` counts its parts of variable length, `optional` those that are `?`;
    `large` its counts above MAX_EXPANDED. `single`: it is one character."""

    repeats: int = 1
    loose: int = 0
    optional: int = 0
    single: bool = False
    large: int = 0

    def add(self, part: _Group) -> None:
        self.repeats = max(self.repeats, part.repeats)
        self.loose += part.loose
        self.optional += part.optional
        self.large += part.large


def check_pattern(pattern: str) -> int:
    """How many counts above MAX_EXPANDED it has: 0 or 1. Raises PatternError.

    What isn't valid at all is xgrammar's to tell.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(
            f"'pattern' may have {MAX_PATTERN} characters at most, got {len(pattern)}."
        )
    groups, last = [_Group()], _Group()
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup
        if kind == "count":
            last = _repeated(last, token["count"], groups)
            continue
        groups[-1].add(last)
        last = _Group()
        if kind == "unclear" or (kind == "close" and len(groups) == 1):
            # Dialects read it differently, and what follows with it.
            raise PatternError(
                f"'pattern' has a {token[0]!r} that is neither escaped nor part of a character "
                "class, group or count."
            )
        if kind == "open":
            groups.append(_Group())
            if len(groups) > MAX_NESTING:
                raise PatternError(f"'pattern' may nest {MAX_NESTING} groups at most.")
        elif kind == "close":
            last = groups.pop()
        elif kind == "or":
            # Alternatives may differ in length.
            groups[-1].loose += 1
        elif kind != "anchor":
            last = _Group(single=True)
    return sum(group.large for group in groups) + last.large


def _repeated(part: _Group, count: str, groups: list[_Group]) -> _Group:
    low, high = _bounds(count)
    # What has no end is a loop, with nothing to count but its least number.
    times = max(low if high is None else high, 1)
    repeats = part.repeats * times
    large = part.large
    if repeats > MAX_COUNT:
        raise PatternError(f"'pattern' may repeat something {MAX_COUNT} times at most.")
    if repeats > MAX_EXPANDED:
        before = _Group()
        for group in groups:
            before.add(group)
        if not part.single or len(groups) > 1 or before.large or before.loose:
            raise PatternError(
                f"'pattern' repeats something {repeats} times. More than {MAX_EXPANDED} are "
                "allowed only once, of a single character outside of any group, and with nothing "
                "of variable length before it."
            )
        if before.optional > MAX_OPTIONAL:
            raise PatternError(
                f"'pattern' has {before.optional} optional parts before a count above "
                f"{MAX_EXPANDED}; {MAX_OPTIONAL} are allowed."
            )
        large = 1
    optional = part.optional + (count == "?")
    loose = part.loose + (high != low and count != "?")
    return _Group(repeats, loose, optional, large=large)


def _bounds(count: str) -> tuple[int, int | None]:
    if count in "*+?":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[count]
    low, comma, high = count[1:-1].partition(",")
    # Digits by the thousand would take long to read, and no number of them is allowed.
    least, most = int(low[:9]), int(high[:9]) if high else None
    return least, most if comma else least
