"""What tokens say, in a completion and on their own, by the kind of tokenizer vLLM has loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from transformers import TokenizersBackend
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.detokenizer import SlowIncrementalDetokenizer

from engine.base import GenerateRequest
from engine.detokenizer import Detokenizer, TokenBytes, TokenTexts
from engine.logprobs import Spelling


def detokenizers(llm: Any) -> Callable[[GenerateRequest], Detokenizer]:
    """What makes a detokenizer for each choice of a request."""
    tokenizer = llm.get_tokenizer()
    if not isinstance(tokenizer, TokenizersBackend):
        return lambda request: _Incremental(tokenizer, request)
    make = partial(TokenTexts, tokenizer._tokenizer, llm.model_config.get_vocab_size())
    silent = make()
    # Few ask for control tokens as text, and a table takes a while.
    spoken = cache(partial(make, spoken=True))

    def detokenizer(request: GenerateRequest) -> Detokenizer:
        texts = silent if request.sampling.skip_special_tokens else spoken()
        return texts.detokenizer(request.prompt.token_ids)

    return detokenizer


def spelling(llm: Any) -> Spelling:
    """What tokens say on their own."""
    tokenizer = llm.get_tokenizer()
    if isinstance(tokenizer, TokenizersBackend):
        return TokenBytes(tokenizer._tokenizer)
    return _Spelled(tokenizer)


class _Spelled:
    """Of a tokenizer that isn't one of Hugging Face's fast ones, such as Mistral's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def bytes_of(self, token_id: int) -> bytes:
        (piece,) = self._tokenizer.convert_ids_to_tokens([token_id])
        return piece if isinstance(piece, bytes) else str(piece).encode()


class _Incremental:
    """vLLM's own, for tokenizers that aren't Hugging Face's fast ones, such as Mistral's."""

    def __init__(self, tokenizer: Any, request: GenerateRequest) -> None:
        # As much of an `EngineCoreRequest` as it reads. Stop strings are found elsewhere.
        core = SimpleNamespace(
            prompt_token_ids=list(request.prompt.token_ids),
            prompt_embeds=None,
            sampling_params=SamplingParams(
                skip_special_tokens=request.sampling.skip_special_tokens
            ),
        )
        self._decoder = SlowIncrementalDetokenizer(tokenizer, core)

    def push(self, token_id: int) -> str:
        self._decoder.token_ids.append(token_id)
        text: str = self._decoder.decode_next(token_id)
        return text

    def extend(self, token_ids: Sequence[int]) -> str:
        return "".join([self.push(token) for token in token_ids])
