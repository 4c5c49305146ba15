"""Token ids to text, one at a time, never a character in halves.

What a token says is looked up in a table where it is the same in every context. A token that is
part of a character goes through the tokenizer's own incremental decoder (`DecodeStream`), until
whole characters have come out; so the text is the one that decoder would have given for all of
them. What the last tokens of a completion only begin is not part of its text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Protocol, cast

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
# Tokens without a whole character among them, and of a prompt's end that decides how a text begins.
_MAX_HELD: Final = 64
_MAX_CONTEXT: Final = 64
_INVALID_PREFIX: Final = "Invalid prefix encountered"


class Detokenizer(Protocol):
    """One completion's text."""

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; often empty."""
        ...

    def extend(self, token_ids: Sequence[int]) -> str:
        """The text that is complete with these."""
        ...


class TokenTexts:
    """What each token of a vocabulary says on its own.

    `table[token]` is its text (empty for control tokens, unless they are `spoken`), or None where
    it depends on the tokens around it; always None with a kind of decoder this doesn't know.
    `contextual` is whether the beginning of a text is decoded differently. `vocab_size` is the
    model's, which may be larger than the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, *, spoken: bool = False) -> None:
        self.tokenizer = tokenizer
        self.silent = not spoken
        self.table: list[str | None] = [None] * vocab_size
        self.contextual = True
        decoder = json.loads(tokenizer.to_str())["decoder"]
        known = tokenizer.get_vocab_size(with_added_tokens=True)
        tokens = range(min(known, vocab_size))
        if _is_byte_level(decoder):
            self.contextual = False
            texts = tokenizer.decode_batch(
                [[token] for token in tokens], skip_special_tokens=self.silent
            )
            self.table[: len(texts)] = [_whole(text) for text in texts]
        elif _is_sentencepiece(decoder):
            self._fill_in_context(tokens)

    def detokenizer(self, prompt: Sequence[int]) -> TableDetokenizer:
        """For a completion of `prompt`."""
        return TableDetokenizer(self, self._context(prompt) if self.contextual else [])

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """The end of the prompt that decides whether the completion is the beginning of a text."""
        prompt = prompt[-_MAX_CONTEXT:]
        last = next((i for i in reversed(range(len(prompt))) if self.table[prompt[i]]), 0)
        end = list(prompt[last:])
        # The decoder would repeat a context that ends within a character.
        cut = self.tokenizer.decode(end).endswith(REPLACEMENT)
        return end[:1] if cut and self.table[end[0]] else end

    def _decode(self, sequences: list[list[int]]) -> list[str]:
        return self.tokenizer.decode_batch(sequences, skip_special_tokens=self.silent)

    def _fill_in_context(self, tokens: range) -> None:
        """SentencePiece decoders strip the text's first space: so each token after another one."""
        anchor = next((t for t in tokens if self.tokenizer.decode([t, t]).isalpha()), None)
        if anchor is None:
            return
        before = len(self.tokenizer.decode([anchor]))
        texts = self.tokenizer.decode_batch(
            [[anchor, t] for t in tokens], skip_special_tokens=self.silent
        )
        for token, text in zip(tokens, texts, strict=True):
            spelled = self.tokenizer.id_to_token(token) or ""
            # A byte is decoded together with the bytes around it, even where it is ASCII.
            if not _is_byte(spelled) and _whole(text) is not None:
                self.table[token] = text[before:]


class TableDetokenizer:
    """Implements `Detokenizer`; made by `TokenTexts.detokenizer`."""

    __slots__ = ("_context", "_since", "_stream", "_texts", "table", "whole")

    def __init__(self, texts: TokenTexts, context: list[int]) -> None:
        self.table = texts.table
        # Whether the next token may be looked up in `table`.
        self.whole = not texts.contextual or bool(context and texts.table[context[0]])
        self._texts = texts
        self._context = context
        self._since: list[int] = []
        self._stream: DecodeStream | None = None

    def push(self, token_id: int) -> str:
        if self._stream is None and self.whole:
            text = self.table[token_id]
            if text is not None:
                if text and self._texts.contextual:
                    self._context = [token_id]
                return text
        return self._decode(token_id)

    def extend(self, token_ids: Sequence[int]) -> str:
        if self._stream is None and self.whole:
            table = self.table
            texts = [table[token] for token in token_ids]
            if None not in texts:
                if self._texts.contextual:
                    self._context = [t for t in token_ids if table[t]][-1:] or self._context
                return "".join(cast("list[str]", texts))
        return "".join([self.push(token) for token in token_ids])

    def _decode(self, token_id: int) -> str:
        if self._stream is None:
            self.whole = False
            self._since = []
            self._stream = DecodeStream(ids=self._context, skip_special_tokens=self._texts.silent)
        self._since.append(token_id)
        text = self._step(token_id)
        if not text and len(self._since) < _MAX_HELD:
            return ""
        if not text:
            # No character is that long, and the decoder reads all of it again for each token.
            text = self._texts.tokenizer.decode(self._since, skip_special_tokens=self._texts.silent)
        # The text ends with a whole character: from here on the table serves again.
        self.whole, self._stream = True, None
        if self._texts.contextual:
            self._context = self._since
        return text

    def _step(self, token_id: int) -> str | None:
        if self._stream is None:
            return None
        try:
            return self._stream.step(self._texts.tokenizer, token_id)
        except Exception as error:
            if not str(error).startswith(_INVALID_PREFIX):
                raise
            # Bytes that spoil what they follow: begin anew with this token, as vLLM does.
            self._stream = DecodeStream(skip_special_tokens=self._texts.silent)
            return self._stream.step(self._texts.tokenizer, token_id)


class TokenBytes:
    """The bytes of each token of a vocabulary. Implements `logprobs.Spelling`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        decoder = json.loads(tokenizer.to_str())["decoder"]
        self._byte_level = _is_byte_level(decoder)
        self._sentencepiece = _is_sentencepiece(decoder)
        # With log-probabilities there are up to 21 to look up for each token.
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token_id: int) -> bytes:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._spell(token_id)
        return known

    def _spell(self, token_id: int) -> bytes:
        if token_id in self._added:
            return str(self._added[token_id].content).encode()
        spelled = self._tokenizer.id_to_token(token_id) or ""
        if self._byte_level and all(character in _BYTES for character in spelled):
            return bytes([_BYTES[character] for character in spelled])
        if self._sentencepiece:
            if _is_byte(spelled):
                return bytes.fromhex(spelled[3:5])
            return spelled.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
        return str(self._tokenizer.decode([token_id], skip_special_tokens=False)).encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: bytes that print stand for themselves, the others for characters from 256 on.

    Source: tokenizers' `ByteLevel`, after the code released with Radford et al., "Language Models
    are Unsupervised Multitask Learners" (2019).
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTES: Final = _byte_alphabet()


def _is_byte(spelled: str) -> bool:
    return len(spelled) == len("<0x00>") and spelled.startswith("<0x")


def _whole(text: str) -> str | None:
    """None for a text that may hold part of a character."""
    return None if REPLACEMENT in text else text


def _is_byte_level(decoder: dict[str, object] | None) -> bool:
    return decoder is not None and decoder["type"] == "ByteLevel"


def _is_sentencepiece(decoder: dict[str, object] | None) -> bool:
    """Llama 2's and Mistral's: spaces for ▁, bytes together, the first space stripped."""
    if decoder is None or decoder["type"] != "Sequence":
        return False
    parts = decoder["decoders"]
    known = {"Replace", "ByteFallback", "Fuse", "Strip"}
    return isinstance(parts, list) and {part["type"] for part in parts} <= known
