"""`message`, whole and in events: an assistant's turn as content blocks.

Source: the Anthropic API reference, "Create a Message", "Streaming Messages".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

from engine.base import Prompt, TokenDelta
from engine.reasoning import Reasoning
from gateway.answers import Heading, encode
from gateway.answers.blocks import Block, block_of
from gateway.call import Usage
from gateway.dialect import messages_error
from gateway.errors import APIError
from gateway.message import FinishReason, Form, MessagePart, MessageReader

ThinkingDisplay: TypeAlias = Literal["told", "omitted", "hidden"]
"""Whether thinking is told; `omitted`: only that there was some."""

_STOP_REASONS: Final[dict[FinishReason, str]] = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
}


class MessagesAnswer:
    """Implements `answers.Answer`. `form` is how the completion is to be read, `max_tokens` what
    was asked for, which may be more than the context holds."""

    def __init__(
        self,
        heading: Heading,
        *,
        form: Form,
        max_tokens: int,
        thinking: ThinkingDisplay = "told",
    ) -> None:
        self._heading = heading
        self._form = form
        self._max_tokens = max_tokens
        self._thinking = thinking
        self._prompt = Prompt(())
        self._reader = MessageReader(form, self._prompt)
        self._started = False
        self._open: Block | None = None
        self._index = 0
        self._finish_reason: FinishReason = "stop"
        self._stop_string: str | None = None

    @property
    def reasoning_tokens(self) -> int:
        return self._reader.reasoning_tokens

    def begin(self, prompts: Sequence[Prompt]) -> None:
        (self._prompt,) = prompts
        self._reader = MessageReader(self._form, self._prompt)

    def whole(self, choices: Sequence[TokenDelta], usage: Usage) -> bytes:
        (delta,) = choices
        blocks: list[tuple[Block, list[MessagePart]]] = []
        for part in self._parts(delta):
            if not blocks or not blocks[-1][0].takes(part):
                blocks.append((self._block(part), []))
            blocks[-1][1].append(part)
        content = [block.whole(parts) for block, parts in blocks]
        return encode(self._message(content, self._stopped(usage), usage))

    def events(self, delta: TokenDelta) -> bytes:
        found = b"" if self._started else self._start(delta)
        for part in self._parts(delta):
            if self._open is None or not self._open.takes(part):
                found += self._close() + self._begin(part)
            if self._open is not None:
                found += self._gain(self._open.delta(part))
        if delta.finish_reason is not None:
            found += self._close()
        return found

    def finished(self, usage: Usage) -> bytes:
        delta = {"delta": self._stopped(usage), "usage": self._usage(usage)}
        return _event("message_delta", delta) + _event("message_stop", {})

    def failed(self, error: APIError) -> bytes:
        return b"event: error\ndata: %b\n\n" % messages_error(error)

    def record(self, usage: Usage) -> bytes | None:
        return None

    def _parts(self, delta: TokenDelta) -> Sequence[MessagePart]:
        parts = self._reader.read(delta)
        if delta.finish_reason is not None:
            self._finish_reason = self._reader.finish_reason(delta) or delta.finish_reason
            self._stop_string = delta.stop_string
        if self._thinking == "hidden":
            return [part for part in parts if not isinstance(part, Reasoning)]
        return parts

    def _block(self, first: MessagePart) -> Block:
        return block_of(first, thinking=self._thinking == "told")

    def _start(self, delta: TokenDelta) -> bytes:
        """Only with the first delta it is known what the prefix cache had."""
        self._started = True
        usage = Usage(len(self._prompt.token_ids), len(delta.token_ids), delta.cached_tokens)
        return _event("message_start", {"message": self._message([], _stop(None), usage)})

    def _begin(self, part: MessagePart) -> bytes:
        self._open = self._block(part)
        opening = {"index": self._index, "content_block": self._open.opening()}
        return _event("content_block_start", opening)

    def _gain(self, delta: dict[str, Any] | None) -> bytes:
        if delta is None:
            return b""
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        found = self._gain(self._open.closing())
        found += _event("content_block_stop", {"index": self._index})
        self._open = None
        self._index += 1
        return found

    def _stopped(self, usage: Usage) -> dict[str, str | None]:
        if self._stop_string is not None:
            return _stop("stop_sequence", self._stop_string)
        if self._finish_reason == "length" and usage.completion_tokens < self._max_tokens:
            return _stop("model_context_window_exceeded")
        return _stop(_STOP_REASONS[self._finish_reason])

    def _message(
        self, content: Sequence[Any], stopped: dict[str, str | None], usage: Usage
    ) -> dict[str, Any]:
        return {
            "id": self._heading.id,
            "type": "message",
            "role": "assistant",
            "model": self._heading.model,
            "content": content,
            **stopped,
            "usage": self._usage(usage) | {"service_tier": "standard"},
        }

    def _usage(self, usage: Usage) -> dict[str, Any]:
        counted: dict[str, Any] = {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        }
        if self._form.tags is not None:
            counted["output_tokens_details"] = {"thinking_tokens": self._reader.reasoning_tokens}
        return counted


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))


def _stop(reason: str | None, sequence: str | None = None) -> dict[str, str | None]:
    return {"stop_reason": reason, "stop_sequence": sequence}
