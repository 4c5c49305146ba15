"""Tokens to text, one at a time: as the tokenizer's own incremental decoder would."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.decoders import DecodeStream

from engine.detokenizer import TokenTexts
from engine.models import resolve

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
PADDING = 7


@cache
def tokenizer(kind: str) -> Tokenizer:
    if kind == "smollm2":
        return Tokenizer.from_file(str(resolve("smollm2-135m-instruct").path / "tokenizer.json"))
    if kind == "bytes":
        found = Tokenizer(models.BPE())
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<end>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        found.train_from_iterator(["the thin thing 漢字 漢字 🙂🙂 é é"] * 3, trainer)
        found.decoder = decoders.ByteLevel()
        return found
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", "▁▁", "▁Hello", "▁world", "a", "b", "▁é", "漢", "🙂", ".", "\n", "ing"]
    vocab = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *spelled, *words])}
    found = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    found.add_special_tokens(["<unk>", "<s>", "</s>", "[/INST]"])
    found.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    if kind == "sentencepiece":
        return found
    found.decoder = decoders.Metaspace()
    return found


@cache
def texts(kind: str) -> TokenTexts:
    return TokenTexts(tokenizer(kind), vocab_size(kind))


def vocab_size(kind: str) -> int:
    """Of the model: some checkpoints pad the vocabulary."""
    return tokenizer(kind).get_vocab_size(with_added_tokens=True) + PADDING


def streamed(kind: str, prompt: list[int], completion: list[int]) -> str:
    """What the tokenizers library says, begun anew after bytes it can't go on from."""
    stream, text = DecodeStream(ids=prompt, skip_special_tokens=True), ""
    for token in completion:
        try:
            step = stream.step(tokenizer(kind), token)
        except Exception as error:
            if not str(error).startswith("Invalid prefix"):
                raise
            stream = DecodeStream(skip_special_tokens=True)
            step = stream.step(tokenizer(kind), token)
        text += step or ""
    return text


KINDS = ("smollm2", "bytes", "sentencepiece", "unknown")


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_tokens_have_the_text_of_the_incremental_decoder(
    kind: str, data: st.DataObject
) -> None:
    # Half of them parts of characters or control tokens, which are rare in a vocabulary.
    table = texts(kind).table
    hard = [token for token, text in enumerate(table) if not text]
    token = st.one_of(st.sampled_from(hard), st.integers(0, vocab_size(kind) - 1))
    prompt = data.draw(st.lists(token, max_size=4))
    if kind in ("smollm2", "bytes") or REPLACEMENT in tokenizer(kind).decode(prompt):
        # A prompt that ends within a character would be repeated by the library.
        prompt.append(next(t for t, text in enumerate(table) if text) if any(table) else 262)
    completion = data.draw(st.lists(token, max_size=10))
    detokenizer = texts(kind).detokenizer(prompt)
    assert "".join(map(detokenizer.push, completion)) == streamed(kind, prompt, completion)


@pytest.mark.parametrize("kind", ["smollm2", "bytes"])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_text_comes_back_whole_and_no_piece_of_it_ends_within_a_character(
    kind: str, text: str
) -> None:
    tokens = tokenizer(kind).encode(text, add_special_tokens=False).ids
    whole = tokenizer(kind).decode(tokens)
    detokenizer = texts(kind).detokenizer([])
    pieces = [detokenizer.push(token) for token in tokens]
    if REPLACEMENT not in whole:
        assert "".join(pieces) == whole
        assert not any(REPLACEMENT in piece for piece in pieces)


def test_a_prompt_that_ends_within_a_character_is_not_repeated() -> None:
    encoded = tokenizer("bytes").encode("a🎉").ids
    detokenizer = texts("bytes").detokenizer(encoded[:-1])
    assert "a" not in detokenizer.push(encoded[-1]) + detokenizer.push(encoded[0])[:-1]


def test_bytes_that_never_become_a_character_are_told_after_a_while() -> None:
    stray = next(t for t, text in enumerate(texts("bytes").table) if text is None)
    detokenizer = texts("bytes").detokenizer([])
    pieces = [detokenizer.push(stray) for _ in range(200)]
    assert set("".join(pieces)) == {REPLACEMENT}
    assert 2 < sum(map(bool, pieces)) < 10
