"""Getting a model ready to chat with: loaded here, or reached over a URL."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from typing import cast

from engine.base import ChatMessage, Engine, EngineStartError
from engine.config import EngineConfig
from gateway.app import start_engine
from gateway.commands.conversation import AnswerError, AnswerOptions, EngineModel, Model, Piece
from gateway.commands.terminal import HeldOutput, Screen, descriptors_held, ready_line
from gateway.config import GatewayConfig


async def connect(screen: Screen, url: str, api_key: str, name: str | None) -> Model:
    """A model of the server at `url`. Raises AnswerError."""
    from gateway.commands.remote import RemoteModel

    model = await RemoteModel.connect(url, api_key, name)
    screen.note(f"{model.name} at {model.url}")
    return model


async def load(screen: Screen, config: GatewayConfig, *, verbose: bool) -> Model:
    """The configured model, loaded and warmed up in this process. Raises AnswerError."""
    started = time.perf_counter()
    held: HeldOutput | None = None
    chosen = next((m for m in config.served if m.engine.runner == "generate"), None)
    if chosen is None:
        raise AnswerError("the configuration has no model that generates text", fatal=True)
    try:
        settings = _at_hand(chosen.engine)
        with ExitStack() as stack:
            if not verbose:
                held = stack.enter_context(descriptors_held())
            report = stack.enter_context(screen.starting(chosen.public_name))
            engine = cast(Engine, await start_engine(settings, report))
    except EngineStartError as error:
        raise AnswerError(_with_log(str(error), held), fatal=True) from error
    except BaseException:
        if held is not None:
            held.discard()
        raise
    seconds = time.perf_counter() - started
    screen.note(ready_line(engine.info, chosen.public_name, engine.start_phases, seconds))
    return LoadedModel(engine, held)


class LoadedModel(EngineModel):
    """An engine of our own, with the file its processes write to."""

    def __init__(self, engine: Engine, held: HeldOutput | None) -> None:
        super().__init__(engine)
        self._held = held

    async def answer(
        self, messages: Sequence[ChatMessage], options: AnswerOptions
    ) -> AsyncGenerator[Piece, None]:
        """See `Model.answer`. Where the engine dies its last words are added."""
        try:
            async with aclosing(super().answer(messages, options)) as pieces:
                async for piece in pieces:
                    yield piece
        except AnswerError as error:
            if not error.fatal:
                raise
            held, self._held = self._held, None
            raise AnswerError(_with_log(str(error), held), fatal=True) from error

    async def close(self) -> None:
        await super().close()
        if self._held is not None:
            self._held.discard()


def _at_hand(config: EngineConfig) -> EngineConfig:
    """Fetch or convert the model first: its own progress bars and the spinner don't mix."""
    if config.kind != "vllm":
        return config
    from engine.models import resolve

    resolved = resolve(config.model, config.revision, weights=config.load_format != "dummy")
    return config.model_copy(update={"model": str(resolved.path), "revision": None})


def _with_log(message: str, held: HeldOutput | None) -> str:
    """`message` and what the engine wrote last; its log stays where there is one."""
    if held is None:
        return message
    written = held.tail()
    if not written:
        held.discard()
        return message
    return f"{message}\n{written}\n(all of the engine's log: {held.path})"
