"""Exact match and F1 of an answer against the right ones, as SQuAD defines them.

Rajpurkar, Zhang, Lopyrev, Liang: SQuAD: 100,000+ Questions for Machine Comprehension of Text
(2016), section 6: punctuation and articles don't count, F1 is over bags of words, and of several
right answers the one that fits best counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")


def words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    plain = _PUNCTUATION.sub("", text.lower())
    return [word for word in plain.split() if word not in _ARTICLES]


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 where the words are those of a right answer, else 0."""
    return float(any(words(answer) == words(one) for one in right))


def f1(answer: str, right: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the words; of the best of `right`."""
    return max(_f1(words(answer), words(one)) for one in right)


def _f1(answer: Sequence[str], right: Sequence[str]) -> float:
    if not answer or not right:
        return float(answer == right)
    shared = (Counter(answer) & Counter(right)).total()
    return 2 * shared / (len(answer) + len(right))
