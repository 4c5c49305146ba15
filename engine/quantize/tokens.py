"""Documents to the token sequences that calibrate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.quantize.calibration import Document
from engine.quantize.errors import QuantizeError


def token_sequences(
    documents: Iterable[Document], tokenizer: Any, samples: int, length: int
) -> list[list[int]]:
    """The documents' tokens end to end, cut into up to `samples` sequences of `length` tokens.

    All are equally long, so that none is padded. Raises QuantizeError: there is not one.
    """
    tokens: list[int] = []
    for document in documents:
        tokens += _tokens(document, tokenizer)
        if len(tokens) >= samples * length:
            break
    count = min(samples, len(tokens) // length)
    if not count:
        raise QuantizeError(
            f"the calibration text has {len(tokens)} tokens, fewer than one sequence of {length}; "
            "give more text with --calibration, or a shorter --sequence-length"
        )
    return [tokens[start : start + length] for start in range(0, count * length, length)]


def _tokens(document: Document, tokenizer: Any) -> list[int]:
    if isinstance(document, str):
        return list(tokenizer(document)["input_ids"])
    if not tokenizer.chat_template:
        raise QuantizeError(
            "the model has no chat template for conversations; calibrate on plain text instead"
        )
    return list(tokenizer.apply_chat_template(document, tokenize=True, return_dict=False))
