"""Text to token ids, remembering the parts of conversations that come again.

A tokenizer cuts a text at its control tokens before anything else, so what lies between two of
them always gives the same tokens. A conversation repeats nearly all of itself at each turn, and
many share one system prompt: only what is new is tokenized.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import fastokens
from cachetools import LRUCache
from tokenizers import Tokenizer

from engine.base import InvalidPromptError

# Shorter parts are dearer to remember than to tokenize. With these bounds the parts that are
# remembered take 50 MB at the very most, and some 3 MB with messages of a hundred words.
CACHED_PARTS: Final = 1024
_SHORTEST, _LONGEST = 16, 20_000
# What tokenizers differ in: spaces, digits, contractions, scripts, marks, joined emoji, controls.
_PROBES: Final = (
    "",
    " ",
    "The quick brown fox, it's said, jumps over 13 lazy dogs; they'll SLEEP!",
    "  two  spaces\tand\n\n\nlines \r\n end  ",
    "def f(x: int) -> int:\n    return x**2  # 1_000_000.5e-3\n",
    "1234567890 12 345 6,789.01 ½ ² Ⅷ",
    "naïve café, Größe, e\u0301 \u00e9 ﬁ Å \u212b",
    "東京は日本の首都。 한국어 ไทย हिन्दी العربية עברית Ελληνικά Русский",
    "🙂 👩\u200d👩\u200d👧 🇩🇪 👍🏽 ☕\ufe0f",
    "\u00a0\u2028\u3000\ufeff\u200b a\u0000b \x7f",
    "<|im_start|>user\nHi<|im_end|> </s> [INST] <tool_call>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa =====---- ........ \\\\ //",
)

# Stands within the name of a special token that is meant as text. Nobody outside can guess it.
_MARK: Final = f"\ufdd0{secrets.token_hex(8)}\ufdd1"

logger = logging.getLogger(__name__)


def unmarked(text: str) -> str:
    """`text` without what `Encoder.literal` has put into it."""
    return text.replace(_MARK, "") if _MARK in text else text


class Encoder:
    """A Hugging Face tokenizer's `encode` with no special tokens added.

    In steps, so that the one that takes long can be taken elsewhere: `split` a text, see which
    parts are `known`, `tokenize` and `remember` the others, and have it all `joined`. `known` and
    `remember` belong to one thread; the rest may be called by any.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        # A copy: others may set truncation or padding on theirs.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._quick = _quick(self._tokenizer)
        self._control = _control_tokens(self._tokenizer)
        self._cuts = _pattern(self._control) if self._control else None
        special = _special_tokens(self._tokenizer)
        self._special = _pattern(dict.fromkeys(special, 0)) if special else None
        self._beginnings = {token[0] for token in special}
        # To it special tokens are words like any other. Made here, as it takes long.
        self._words: Tokenizer | None = None
        if self._special is not None and self._cuts is not None:
            self._words = Tokenizer.from_str(self._tokenizer.to_str())
            self._words.encode_special_tokens = True
        self._memory: LRUCache[str, array[int]] = LRUCache(CACHED_PARTS)

    def literal(self, text: str) -> str:
        """`text`, which whoever wrote it may have filled with the names of special tokens, so that
        it can stand in a conversation and they stay text.

        Raises InvalidPromptError where this tokenizer can't tell the two apart.
        """
        if self._special is None or not any(first in text for first in self._beginnings):
            return text
        if self._cuts is not None:
            return self._special.sub(lambda found: found[0][0] + _MARK + found[0][1:], text)
        found = self._special.search(text)
        if found is not None:
            raise InvalidPromptError(
                f"The text holds {found[0]!r}, the name of one of this model's control tokens.",
                "messages",
            )
        return text

    def split(self, text: str) -> list[str]:
        """The parts of `text`: control tokens, and what lies between them."""
        parts = [text] if self._cuts is None else self._cuts.split(text)
        return [part for part in parts if part]

    def known(self, parts: Sequence[str]) -> dict[str, Sequence[int]]:
        """The tokens of those parts that are control tokens or remembered."""
        found: dict[str, Sequence[int]] = {}
        for part in parts:
            control = self._control.get(part)
            if control is not None:
                found[part] = (control,)
            elif (remembered := self._memory.get(part)) is not None:
                found[part] = remembered
        return found

    def tokenize(self, parts: Iterable[str]) -> dict[str, list[int]]:
        """The tokens of each part. Raises InvalidPromptError."""
        try:
            return {part: self._tokenize(part) for part in dict.fromkeys(parts)}
        except (UnicodeEncodeError, TypeError):
            # What tokenizers raises for it depends on the tokenizer.
            raise InvalidPromptError("The text holds half a surrogate pair.") from None

    def encode(self, text: str) -> list[int]:
        """All three steps, without what is remembered. Raises InvalidPromptError."""
        parts = self.split(text)
        tokens: dict[str, Sequence[int]] = {part: (one,) for part, one in self._control.items()}
        tokens |= self.tokenize(part for part in parts if part not in self._control)
        return joined(parts, tokens)

    def remember(self, fresh: Mapping[str, list[int]]) -> None:
        """Keep the tokens of these parts for the next time."""
        for part, tokens in fresh.items():
            if _SHORTEST <= len(part) <= _LONGEST:
                self._memory[part] = array("i", tokens)  # a tenth of a list's size

    def _tokenize(self, part: str) -> list[int]:
        if self._words is not None and _MARK in part:
            return _slowly(self._words, unmarked(part))
        if self._quick is not None:
            # Bytes that the vocabulary lacks are an error to it, and left out by the other.
            with suppress(ValueError):
                return _token_ids(self._quick, part)
        return _slowly(self._tokenizer, part)


def joined(parts: Sequence[str], tokens: Mapping[str, Sequence[int]]) -> list[int]:
    """The tokens of all parts, each of which is in `tokens`."""
    return [token for part in parts for token in tokens[part]]


def _quick(tokenizer: Tokenizer) -> fastokens.Tokenizer | None:
    """The same tokenizer as fastokens has it, if it can and all it says is the same."""
    try:
        quick = fastokens.Tokenizer.from_json_str(tokenizer.to_str())
        differing = next(
            (t for t in _PROBES if _token_ids(quick, t) != _slowly(tokenizer, t)), None
        )
    except ValueError as error:
        logger.info("fastokens can't serve this tokenizer: %s", error)
        return None
    if differing is not None:
        logger.warning("fastokens is not used: it tokenizes %r differently", differing)
        return None
    return quick


def _token_ids(quick: fastokens.Tokenizer, text: str) -> list[int]:
    encoding = quick.encode(text, add_special_tokens=False)
    return list(encoding.ids)


def _slowly(tokenizer: Tokenizer, text: str) -> list[int]:
    # Of one text, but without the offsets, which cost a tenth.
    (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    return list(encoding.ids)


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


def _special_tokens(tokenizer: Tokenizer) -> list[str]:
    """The names of control tokens, but for those of one character, which are in any text."""
    added = tokenizer.get_added_tokens_decoder().values()
    return [str(token.content) for token in added if token.special and len(token.content) > 1]


def _pattern(tokens: dict[str, int]) -> re.Pattern[str]:
    """Matches the longest of the tokens at a place, as the tokenizer does, in time that doesn't
    grow with their number: as a tree of their characters."""
    tree: dict[str, Any] = {}
    for token in tokens:
        node = tree
        for character in token:
            node = node.setdefault(character, {})
        node[""] = {}
    return re.compile(f"({_expression(tree)})")


def _expression(tree: dict[str, Any]) -> str:
    ends = "" in tree
    branches = [re.escape(c) + _expression(below) for c, below in tree.items() if c]
    if not branches:
        return ""
    if len(branches) == 1 and not ends:
        return branches[0]
    return f"(?:{'|'.join(branches)}){'?' if ends else ''}"
