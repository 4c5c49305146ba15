"""A conversation with a model, measured turn by turn, and the model in process to have it with."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from engine import base
from engine.base import (
    ChatMessage,
    ContextLengthError,
    Engine,
    EngineDeadError,
    EngineError,
    GenerateRequest,
    SamplingOptions,
)
from engine.streaming import generate

DEFAULT_MAX_TOKENS = 1024
COMFORTABLE_TOKENS = 256


class AnswerError(Exception):
    """No answer, or no more of it. `fatal`: the model will not answer again."""

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class ContextFullError(AnswerError):
    """The conversation and the answer asked for no longer fit the model's context."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How to answer. `max_tokens` None: up to 1024 in process, the server's own limit by URL."""

    max_tokens: int | None = None
    temperature: float = 0.2
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer. Token counts are totals so far, None where not known (yet)."""

    text: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None


class Model(Protocol):
    """Something that answers a conversation."""

    name: str

    def answer(
        self, messages: Sequence[ChatMessage], options: AnswerOptions
    ) -> AsyncGenerator[Piece, None]:
        """Stream one answer; closing the generator stops it. Raises AnswerError."""
        ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Turn:
    """One answer and its performance, filled in while it is being made. Times in seconds."""

    started: float
    text: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    elapsed_s: float = 0.0
    forgotten: int = 0

    def add(self, piece: Piece, now: float) -> None:
        """Take in `piece`, which arrived at `now`."""
        self.elapsed_s = now - self.started
        if piece.text and self.first_token_s is None:
            self.first_token_s = self.elapsed_s
        if piece.text or piece.finish_reason:
            self.last_token_s = self.elapsed_s
        self.text += piece.text
        for name in (
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "finish_reason",
        ):
            value = getattr(piece, name)
            if value is not None:
                setattr(self, name, value)

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed: tokens after the first over the time they took."""
        if not self.completion_tokens or self.completion_tokens < 2:
            return None
        if self.first_token_s is None or self.last_token_s is None:
            return None
        seconds = self.last_token_s - self.first_token_s
        return (self.completion_tokens - 1) / seconds if seconds > 0 else None

    @property
    def total_tokens_per_second(self) -> float | None:
        """Total throughput: prompt and completion tokens over the whole time."""
        if self.prompt_tokens is None or self.completion_tokens is None or self.elapsed_s <= 0:
            return None
        return (self.prompt_tokens + self.completion_tokens) / self.elapsed_s


@dataclass(slots=True)
class Conversation:
    """The messages so far and one `Turn` for each answer.

    Where the context is full, the oldest exchanges are forgotten to make room; the system
    message and the newest question never are.
    """

    model: Model
    options: AnswerOptions
    system: str | None = None
    clock: Callable[[], float] = time.perf_counter
    messages: list[ChatMessage] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def reset(self) -> None:
        """Forget every message; the turns stay for the totals."""
        self.messages.clear()

    async def ask(self, text: str, show: Callable[[str], None]) -> Turn:
        """Ask `text` and pass the answer on to `show` piece by piece.

        A turn cut short, by cancellation or an error, is kept as far as it came; a question that
        got no answer at all is as if never asked. Raises AnswerError; ContextFullError where
        nothing is left to forget.
        """
        turn = Turn(self.clock())
        self.messages.append(ChatMessage("user", text))
        try:
            while not await self._stream(turn, show):
                del self.messages[:2]
                turn.forgotten += 1
        finally:
            turn.elapsed_s = self.clock() - turn.started
            if turn.text or turn.finish_reason:
                self.turns.append(turn)
            if turn.text:
                self.messages.append(ChatMessage("assistant", turn.text))
            else:
                self.messages.pop()
        return turn

    async def _stream(self, turn: Turn, show: Callable[[str], None]) -> bool:
        """False where the context is full but an older exchange can make way."""
        system = [ChatMessage("system", self.system)] if self.system else []
        answer = self.model.answer([*system, *self.messages], self.options)
        try:
            async with aclosing(answer) as pieces:
                async for piece in pieces:
                    turn.add(piece, self.clock())
                    if piece.text:
                        show(piece.text)
        except ContextFullError:
            if turn.text or len(self.messages) == 1:
                raise
            return False
        return True


class EngineModel:
    """A model in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = engine.info.model

    async def answer(
        self, messages: Sequence[ChatMessage], options: AnswerOptions
    ) -> AsyncGenerator[Piece, None]:
        """See `Model.answer`. Prompt tokens are known from the first piece on."""
        completion_tokens = 0
        try:
            prompt = await self.engine.render(base.Conversation(messages))
            prompt_tokens = len(prompt.token_ids)
            yield Piece(prompt_tokens=prompt_tokens, completion_tokens=0)
            sampling = SamplingOptions(
                max_tokens=options.max_tokens or self._room(prompt_tokens, messages),
                temperature=options.temperature,
                top_p=options.top_p,
                seed=options.seed,
            )
            request = GenerateRequest(f"chat-{uuid.uuid4().hex}", prompt, sampling)
            async with aclosing(generate(self.engine, request)) as deltas:
                async for delta in deltas:
                    completion_tokens += len(delta.token_ids)
                    yield Piece(
                        delta.text,
                        completion_tokens=completion_tokens,
                        cached_tokens=delta.cached_tokens,
                        finish_reason=delta.finish_reason,
                    )
        except ContextLengthError as error:
            raise ContextFullError(str(error)) from error
        except EngineError as error:
            raise AnswerError(str(error), fatal=isinstance(error, EngineDeadError)) from error

    def _room(self, prompt_tokens: int, messages: Sequence[ChatMessage]) -> int:
        """The longest answer that fits; too short a one is worth forgetting old exchanges for."""
        context = self.engine.info.max_model_len
        room = context - prompt_tokens
        comfortable = min(COMFORTABLE_TOKENS, context // 4)
        if room < comfortable and sum(message.role == "user" for message in messages) > 1:
            raise ContextLengthError(
                max_model_len=context,
                prompt_tokens=prompt_tokens,
                requested_tokens=comfortable,
            )
        return min(room, DEFAULT_MAX_TOKENS)

    async def close(self) -> None:
        await self.engine.close()
