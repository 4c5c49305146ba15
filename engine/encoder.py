"""Text to token ids, remembering the parts of conversations that come again.

A tokenizer cuts a text at its control tokens before anything else, so what lies between two of
them always gives the same tokens. A conversation repeats nearly all of itself at each turn, and
many share one system prompt: only what is new is tokenized.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping, Sequence
from typing import Final

from cachetools import LRUCache
from tokenizers import Tokenizer

from engine.base import InvalidPromptError

# Characters of remembered text: some 10 MB with their tokens.
CACHE_CHARACTERS: Final = 4_000_000
# Shorter parts are dearer to remember than to tokenize; longer ones would drive out all others.
_SHORTEST, _LONGEST = 4, CACHE_CHARACTERS // 8


class Encoder:
    """A Hugging Face tokenizer's `encode` with no special tokens added.

    In three steps, so that the one that takes long can be taken elsewhere: `split` a text,
    `tokenize` those of its parts that are `unknown`, `join` them. All but `tokenize` belong to
    one thread.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        # A copy: others may set truncation or padding on theirs.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._control = _control_tokens(self._tokenizer)
        self._cuts = _pattern(self._control) if self._control else None
        self._known: LRUCache[str, array[int]] = LRUCache(CACHE_CHARACTERS, getsizeof=len)

    def split(self, text: str) -> list[str]:
        """The parts of `text`: control tokens, and what lies between them."""
        parts = [text] if self._cuts is None else self._cuts.split(text)
        return [part for part in parts if part]

    def unknown(self, parts: Sequence[str]) -> list[str]:
        """Those whose tokens aren't remembered."""
        return [part for part in parts if part not in self._control and part not in self._known]

    def tokenize(self, parts: Sequence[str]) -> dict[str, list[int]]:
        """The tokens of each part. Any thread may call this. Raises InvalidPromptError."""
        try:
            # Without the offsets, which cost a tenth.
            encoded = self._tokenizer.encode_batch_fast(list(parts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            # What tokenizers raises for it depends on the tokenizer.
            raise InvalidPromptError("The text holds half a surrogate pair.") from None
        return {part: list(encoding.ids) for part, encoding in zip(parts, encoded, strict=True)}

    def join(self, parts: Sequence[str], fresh: Mapping[str, list[int]]) -> list[int]:
        """The tokens of all parts; `fresh` are those of the unknown ones."""
        token_ids: list[int] = []
        for part in parts:
            control = self._control.get(part)
            if control is not None:
                token_ids.append(control)
            else:
                token_ids.extend(fresh[part] if part in fresh else self._known[part])
        for part, tokens in fresh.items():
            if _SHORTEST <= len(part) <= _LONGEST:
                self._known[part] = array("i", tokens)  # a tenth of a list's size
        return token_ids


def _control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens a text can be cut at; none where the parts' tokens wouldn't be the whole's."""
    tree = json.loads(tokenizer.to_str())
    if '"Metaspace"' in json.dumps([tree["pre_tokenizer"], tree["normalizer"]]):
        return {}  # tells the beginning of a text from its middle
    found: dict[str, int] = {}
    for token in tree["added_tokens"]:
        if token["normalized"]:
            continue  # found later, within a part
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            return {}  # what stands beside it matters
        found[token["content"]] = token["id"]
    return found


def _pattern(tokens: dict[str, int]) -> re.Pattern[str]:
    """Matches the longest of the tokens at a place, as the tokenizer does."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")
