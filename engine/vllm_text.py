"""The detokenizer of each completion, by the kind of tokenizer vLLM has loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TokenizersBackend
from vllm.v1.engine.detokenizer import SlowIncrementalDetokenizer

from engine.detokenizer import Detokenizer, TokenTexts


def detokenizers(llm: Any) -> Callable[[Any], Detokenizer]:
    """What makes a detokenizer from an `EngineCoreRequest`."""
    tokenizer = llm.get_tokenizer()
    if isinstance(tokenizer, TokenizersBackend):
        texts = TokenTexts(tokenizer._tokenizer, llm.model_config.get_vocab_size())
        return lambda request: texts.detokenizer(request.prompt_token_ids)
    return lambda request: _Incremental(tokenizer, request)


class _Incremental:
    """vLLM's own, for tokenizers that aren't Hugging Face's fast ones, such as Mistral's."""

    def __init__(self, tokenizer: Any, request: Any) -> None:
        self._decoder = SlowIncrementalDetokenizer(tokenizer, request)

    def push(self, token_id: int) -> str:
        self._decoder.token_ids.append(token_id)
        text: str = self._decoder.decode_next(token_id)
        return text

    def extend(self, token_ids: Sequence[int]) -> str:
        return "".join([self.push(token) for token in token_ids])
