"""Messages and text to exact token ids, and back.

Short texts are tokenized where they are: handing them to a thread costs more than the work.
Hugging Face tokenizers encode what the template made as a whole, so text of a user that spells a
control token becomes that token, as in transformers and vLLM; Mistral's never do that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jinja2
from transformers import TokenizersBackend
from vllm.renderers.hf import resolve_chat_template, resolve_chat_template_content_format
from vllm.tokenizers.mistral import MistralTokenizer

from engine.base import ChatMessage, InvalidPromptError, Prompt
from engine.checks import check_prompt, check_token_ids
from engine.encoder import Encoder, joined
from engine.template import ChatTemplate

# Half a millisecond of work; a thread costs a tenth of one.
INLINE_CHARACTERS = 2048
INLINE_TOKENS = 2048
# Of longer texts not even the parts are found here, and none is remembered.
INLINE_ALL = 50_000

T = TypeVar("T")


class PromptRenderer:
    """Wraps the tokenizer vLLM has loaded. `model_config` is vLLM's."""

    def __init__(self, tokenizer: Any, model_config: Any) -> None:
        self._tokenizer = tokenizer
        self._vocab_size: int = model_config.get_vocab_size()
        self._max_model_len: int = model_config.max_model_len
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")
        self._mistral = isinstance(tokenizer, MistralTokenizer)
        self._encoder: Encoder | None = None
        self._adds_special_tokens = True
        if isinstance(tokenizer, TokenizersBackend):
            self._encoder = Encoder(tokenizer._tokenizer)
            self._adds_special_tokens = bool(tokenizer.encode("", add_special_tokens=True))
        self._template: ChatTemplate | None = None
        self._parts = False
        template = None
        if not self._mistral:
            template = resolve_chat_template(tokenizer, None, None, model_config=model_config)
        if template is not None:
            self._template = ChatTemplate(template, tokenizer.special_tokens_map)
            self._parts = (
                resolve_chat_template_content_format(
                    template, None, "auto", tokenizer, model_config=model_config
                )
                == "openai"
            )

    async def render(self, source: Sequence[ChatMessage] | str | Sequence[int]) -> Prompt:
        """As `engine.base.Engine.render`."""
        param = "prompt"
        if isinstance(source, str):
            prompt = Prompt(await self.tokenize(source) if source else (), source)
        elif source and isinstance(source[0], ChatMessage):
            param = "messages"
            prompt = await self._render_chat([m for m in source if isinstance(m, ChatMessage)])
        else:
            prompt = Prompt([token for token in source if isinstance(token, int)])
        check_prompt(
            prompt.token_ids,
            vocab_size=self._vocab_size,
            max_model_len=self._max_model_len,
            param=param,
        )
        return prompt

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if self._encoder is None or (add_special_tokens and self._adds_special_tokens):
            return await self._run(len(text), self._encode, text, add_special_tokens)
        encoder = self._encoder
        if len(text) > INLINE_ALL:
            return await self._run(len(text), encoder.encode, text)
        parts = encoder.split(text)
        tokens = encoder.known(parts)
        unknown = [part for part in parts if part not in tokens]
        if unknown:
            fresh = await self._run(sum(map(len, unknown)), encoder.tokenize, unknown)
            encoder.remember(fresh)
            tokens |= fresh
        return joined(parts, tokens)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        # As generated text: control tokens have no text.
        size = len(token_ids) * INLINE_CHARACTERS // INLINE_TOKENS
        return await self._run(size, self._decode, list(token_ids))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, characters: int, function: Callable[..., T], *args: Any) -> T:
        if characters <= INLINE_CHARACTERS:
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        except (UnicodeEncodeError, TypeError):
            # What tokenizers raises for it depends on the tokenizer.
            raise InvalidPromptError("The text holds half a surrogate pair.") from None
        return list(encoded)

    def _decode(self, token_ids: list[int]) -> str:
        check_token_ids(token_ids, vocab_size=self._vocab_size, param="tokens")
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    async def _render_chat(self, messages: Sequence[ChatMessage]) -> Prompt:
        # A message costs a template as much as a hundred characters do.
        size = sum([len(message.content) + 100 for message in messages])
        if self._mistral:
            return Prompt(await self._run(size, self._apply_mistral, messages))
        if self._template is None:
            raise InvalidPromptError(
                "This model has no chat template: it completes prompts, but can't chat.",
                "messages",
            )
        # Rendering is copying, mostly, and much faster than tokenizing.
        text = await self._run(size // 8, self._apply_template, self._template, messages)
        return Prompt(await self.tokenize(text, add_special_tokens=False), text)

    def _apply_template(self, template: ChatTemplate, messages: Sequence[ChatMessage]) -> str:
        if not template.knows_developers:
            messages = _without_developers(messages)
        try:
            return template.render([self._as_dict(message) for message in messages])
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise InvalidPromptError(
                f"The model's chat template refuses these messages: {error}", "messages"
            ) from None

    def _apply_mistral(self, messages: Sequence[ChatMessage]) -> list[int]:
        from mistral_common.exceptions import MistralCommonException

        conversation = [self._as_dict(message) for message in _without_developers(messages)]
        try:
            tokens = self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True)
        except (
            MistralCommonException,
            AssertionError,
            ValueError,
            TypeError,
            LookupError,
        ) as error:
            raise InvalidPromptError(
                f"The model's tokenizer refuses these messages: {error}", "messages"
            ) from None
        return list(tokens)

    def _as_dict(self, message: ChatMessage) -> dict[str, Any]:
        content: Any = message.content
        if self._parts:
            content = [{"type": "text", "text": message.content}]
        named = {} if message.name is None else {"name": message.name}
        return {"role": message.role, "content": content, **named}


def _without_developers(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """Developer messages as system messages.

    Then there may be several: they become one in front, as many templates allow no other place.
    """
    if all(message.role != "developer" for message in messages):
        return messages
    system = [m.content for m in messages if m.role in ("system", "developer")]
    rest = [m for m in messages if m.role not in ("system", "developer")]
    return [ChatMessage("system", "\n\n".join(system)), *rest]
