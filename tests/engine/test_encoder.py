"""Text to tokens, part by part: as if the whole had been tokenized."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from engine.base import InvalidPromptError
from engine.encoder import Encoder, joined
from engine.models import resolve


@cache
def tokenizer(kind: str) -> Tokenizer:
    if kind == "smollm2":
        return Tokenizer.from_file(str(resolve("smollm2-135m-instruct").path / "tokenizer.json"))
    found = Tokenizer(models.BPE(unk_token="?"))
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["?", "<s>", "<s>s"], show_progress=False
    )
    if kind == "metaspace":
        found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    else:
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.normalizer = normalizers.NFC()
    found.train_from_iterator(["the thin thing is the s of <s> é"], trainer)
    if kind == "greedy":
        found.add_tokens([AddedToken("<g>", lstrip=True, normalized=False)])
    if kind == "normalized":
        found.add_tokens([AddedToken("thé", normalized=True)])
    return found


@cache
def encoder(kind: str) -> Encoder:
    return Encoder(tokenizer(kind))


def encode(kind: str, text: str) -> list[int]:
    one = encoder(kind)
    parts = one.split(text)
    tokens = one.known(parts)
    fresh = one.tokenize(part for part in parts if part not in tokens)
    one.remember(fresh)
    return joined(parts, tokens | fresh)


CONTROLS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "<s>s", "<g>", "?", "thé", "<|"]
BITS = [*CONTROLS, " ", "  ", "\n", "é", "e\u0301", "漢字", "🙂", "s", "user", "the thing", "x" * 9]


@pytest.mark.parametrize("kind", ["smollm2", "plain", "metaspace", "greedy", "normalized"])
@settings(deadline=None)  # the first time a tokenizer is made
@given(
    bits=st.lists(
        st.one_of(st.sampled_from(BITS), st.text(st.characters(codec="utf-8"))), max_size=9
    )
)
def test_parts_have_the_tokens_the_whole_has_the_first_time_and_again(
    kind: str, bits: list[str]
) -> None:
    text = "".join(bits)
    whole = tokenizer(kind).encode(text, add_special_tokens=False).ids
    assert encode(kind, text) == whole
    assert encode(kind, text) == whole
    assert encoder(kind).encode(text) == whole


def test_what_was_tokenized_before_is_not_tokenized_again() -> None:
    one = Encoder(tokenizer("smollm2"))
    system = "<|im_start|>system\nYou are brief, kind and helpful.<|im_end|>\n"
    parts = one.split(system + "<|im_start|>user\nHi")
    one.remember(one.tokenize(part for part in parts if part not in one.known(parts)))
    again = one.split(system + "<|im_start|>user\nand more")
    # A part of a few characters is not worth remembering.
    assert [part for part in again if part not in one.known(again)] == ["\n", "user\nand more"]


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidPromptError):
        encode("smollm2", "\ud83d")
