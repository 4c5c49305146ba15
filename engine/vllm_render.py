"""Messages and text to exact token ids, and back.

Short texts are tokenized where they are: handing them to a thread costs more than the work.
Hugging Face tokenizers encode what the template made as a whole, and with transformers and vLLM
text that spells a control token becomes that token; here what messages say stays text, as it does
with Mistral's own tokenizers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from transformers import TokenizersBackend
from vllm.renderers.hf import resolve_chat_template, resolve_chat_template_content_format
from vllm.tokenizers.mistral import MistralTokenizer

from engine.base import (
    ChatMessage,
    Conversation,
    EngineStartError,
    InvalidPromptError,
    Prompt,
    Source,
    Tool,
    ToolCall,
)
from engine.checks import check_prompt, check_token_ids
from engine.encoder import Encoder, joined, unmarked
from engine.template import ChatTemplate

# Half a millisecond of work; a thread costs a tenth of one.
INLINE_CHARACTERS = 2048
INLINE_TOKENS = 2048
# Of longer texts not even the parts are found here, and none is remembered.
INLINE_ALL = 50_000
# Of short texts in a row so much is done before everybody else has a turn. A call costs as much as
# a hundred characters do.
INLINE_TURN = 4 * INLINE_CHARACTERS
_CALL = 100
# What templates raise for messages and schemas they weren't written for: a list where they look
# for an object, arguments that nest too deeply.
_REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

T = TypeVar("T")


class PromptRenderer:
    """Wraps the tokenizer vLLM has loaded. `model_config` is vLLM's.

    `chat_template` is a Jinja file that takes the place of the checkpoint's. Raises
    EngineStartError where it can't be read.
    """

    def __init__(
        self, tokenizer: Any, model_config: Any, *, chat_template: str | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size: int = model_config.get_vocab_size()
        self._max_model_len: int = model_config.max_model_len
        # Ends with the last request it reads for: that may wait for the next engine.
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")
        # Characters, and calls as such, since the loop last began a turn.
        self._inline = 0
        self._separated: bool = model_config.use_sep_token
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
            own = _read(chat_template) if chat_template is not None else None
            template = resolve_chat_template(tokenizer, own, None, model_config=model_config)
        # Mistral's own tokenizer has the format of its tool calls built in.
        self.template_source: str | None = "[TOOL_CALLS]" if self._mistral else template
        if template is not None:
            self._template = ChatTemplate(template, tokenizer.special_tokens_map)
            self._parts = (
                resolve_chat_template_content_format(
                    template, None, "auto", tokenizer, model_config=model_config
                )
                == "openai"
            )

    async def render(self, source: Source, on_text: Callable[[], object] | None = None) -> Prompt:
        """As `engine.base.Engine.render`."""
        param = "prompt"
        if isinstance(source, str):
            prompt = Prompt(await self.tokenize(source) if source else (), source)
        elif isinstance(source, Conversation):
            param = "messages"
            prompt = await self._render_chat(source, on_text)
        else:
            prompt = Prompt(source)
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

    async def pair(self, first: str, second: str) -> tuple[list[int], int | None]:
        """Two texts as a cross-encoder reads them, and where its second segment begins, if it
        knows segments."""
        return await self._run(len(first) + len(second), self._encode_pair, first, second)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        # As generated text: control tokens have no text.
        size = len(token_ids) * INLINE_CHARACTERS // INLINE_TOKENS
        return await self._run(size, self._decode, list(token_ids))

    async def _run(self, characters: int, function: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        if characters > INLINE_CHARACTERS:
            return await loop.run_in_executor(self._threads, function, *args)
        if self._inline > INLINE_TURN:
            await asyncio.sleep(0)  # once: what others do inline meanwhile is as short
        if not self._inline:
            loop.call_soon(self._begin_turn)
        self._inline += _CALL + characters
        return function(*args)

    def _begin_turn(self) -> None:
        self._inline = 0

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        except (UnicodeEncodeError, TypeError):
            # What tokenizers raises for it depends on the tokenizer.
            raise InvalidPromptError("The text holds half a surrogate pair.") from None
        return list(encoded)

    def _encode_pair(self, first: str, second: str) -> tuple[list[int], int | None]:
        if not self._separated:
            return self._encode(first + second, True), None
        try:
            encoded = self._tokenizer(text=first, text_pair=second)
        except (UnicodeEncodeError, TypeError):
            raise InvalidPromptError("The text holds half a surrogate pair.") from None
        segments = encoded.get("token_type_ids")
        second_at = None if segments is None else len(segments) - sum(segments)
        return list(encoded["input_ids"]), second_at

    def _decode(self, token_ids: list[int]) -> str:
        check_token_ids(token_ids, vocab_size=self._vocab_size, param="tokens")
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    async def _render_chat(
        self, conversation: Conversation, on_text: Callable[[], object] | None
    ) -> Prompt:
        # A message costs a template as much as a hundred characters do.
        size = sum([len(message.content) + 100 for message in conversation.messages])
        if conversation.tools:
            size += len(json.dumps([_function(tool) for tool in conversation.tools]))
        if self._mistral:
            return Prompt(await self._run(size, self._apply_mistral, conversation))
        if self._template is None:
            raise InvalidPromptError(
                "This model has no chat template: it completes prompts, but can't chat.",
                "messages",
            )
        # Rendering is copying, mostly, and much faster than tokenizing.
        text = await self._run(size // 8, self._apply_template, self._template, conversation)
        if on_text is not None:
            on_text()
        tokens = await self.tokenize(text, add_special_tokens=False)
        return Prompt(tokens, unmarked(text))

    def _apply_template(self, template: ChatTemplate, conversation: Conversation) -> str:
        messages = conversation.messages
        if not template.knows_developers:
            messages = _without_developers(messages)
        try:
            return template.render(
                [self._as_dict(message) for message in messages],
                tools=self._literal([_function(tool) for tool in conversation.tools]) or None,
                options=_thinking(conversation.reasoning_effort),
            )
        except _REFUSALS as error:
            raise InvalidPromptError(
                f"The model's chat template refuses these messages: {error}", "messages"
            ) from None

    def _apply_mistral(self, conversation: Conversation) -> list[int]:
        from mistral_common.exceptions import MistralCommonException

        messages = [self._as_dict(m) for m in _without_developers(conversation.messages)]
        tools = [_function(tool) for tool in conversation.tools] or None
        try:
            tokens = self._tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True
            )
        except (MistralCommonException, AssertionError, *_REFUSALS) as error:
            raise InvalidPromptError(
                f"The model's tokenizer refuses these messages: {error}", "messages"
            ) from None
        return list(tokens)

    def _as_dict(self, message: ChatMessage) -> dict[str, Any]:
        content: Any = self._literal(message.content)
        if self._parts:
            content = [{"type": "text", "text": content}]
        found: dict[str, Any] = {"role": message.role, "content": content}
        if message.name is not None:
            found["name"] = self._literal(message.name)
        if message.tool_calls:
            # Marked once it is parsed: JSON has several ways to write a control token's name.
            found["tool_calls"] = [self._literal(_call(call)) for call in message.tool_calls]
        if message.tool_call_id is not None:
            found["tool_call_id"] = self._literal(message.tool_call_id)
        if message.reasoning is not None:
            found["reasoning_content"] = self._literal(message.reasoning)
        return found

    def _literal(self, value: Any) -> Any:
        """`value`, all of whose strings stay text, whatever they spell. Raises RecursionError."""
        if self._encoder is None:
            return value
        if isinstance(value, str):
            return self._encoder.literal(value)
        if isinstance(value, Mapping):
            return {self._literal(key): self._literal(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._literal(inner) for inner in value]
        return value


def _read(chat_template: str) -> str:
    try:
        return Path(chat_template).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineStartError(
            f"engine.chat_template: {chat_template} can't be read: {error}"
        ) from None


def _function(tool: Tool) -> dict[str, Any]:
    """A tool as templates expect it."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _call(call: ToolCall) -> dict[str, Any]:
    """A call as templates expect it: arguments as an object where they are one."""
    arguments: Any = call.arguments
    try:
        parsed = json.loads(call.arguments or "{}")
        arguments = parsed if isinstance(parsed, dict) else arguments
    except (ValueError, RecursionError):
        pass  # what a model once wrote need not be JSON
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _thinking(effort: str | None) -> dict[str, Any]:
    """What templates of reasoning models look for, by the names in use."""
    if effort is None:
        return {}
    return {"reasoning_effort": effort, "enable_thinking": effort != "none"}


def _without_developers(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """Developer messages as system messages.

    Then there may be several: they become one in front, as many templates allow no other place.
    """
    if all(message.role != "developer" for message in messages):
        return messages
    system = [m.content for m in messages if m.role in ("system", "developer")]
    rest = [m for m in messages if m.role not in ("system", "developer")]
    return [ChatMessage("system", "\n\n".join(system)), *rest]
