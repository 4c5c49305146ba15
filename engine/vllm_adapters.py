"""The LoRA adapters of one engine.

vLLM keys its prefix cache by an adapter's name and path, so each that is loaded gets a name that
was never used before: blocks computed with another one of the same name can't be found.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from vllm.lora.request import LoRARequest

from engine.base import EngineDeadError, InvalidPromptError


class Adapters:
    """At most `room` at once: so many vLLM keeps loaded, and it would drop the oldest for one more.

    `llm` is an `AsyncLLM`.
    """

    def __init__(self, llm: Any, room: int) -> None:
        self._llm = llm
        self._room = room
        self._loaded: dict[str, LoRARequest] = {}
        self._numbers = itertools.count(1)
        self._changing = asyncio.Lock()

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._loaded)

    def find(self, name: str | None) -> LoRARequest | None:
        """What vLLM knows an adapter by; None for the model itself. Raises InvalidPromptError."""
        if name is None:
            return None
        found = self._loaded.get(name)
        if found is None:
            raise InvalidPromptError(f"The adapter `{name}` is not loaded.", "model")
        return found

    async def add(self, name: str, path: str) -> None:
        """As `Engine.add_adapter`, but for vLLM's exceptions where the engine has died."""
        async with self._changing:
            self._check_room(name)
            number = next(self._numbers)
            request = LoRARequest(f"{name}#{number}", number, path)
            try:
                await self._llm.add_lora(request)
            except Exception as error:
                if self._llm.errored:
                    raise EngineDeadError(
                        "The engine stopped while it loaded an adapter."
                    ) from error
                with suppress(Exception):  # whatever of it is there
                    await self._llm.remove_lora(number)
                raise InvalidPromptError(
                    f"The adapter can't be used with this model: {_reason(error)}", "path"
                ) from error
            self._loaded[name] = request

    async def remove(self, name: str) -> None:
        """As `Engine.remove_adapter`."""
        async with self._changing:
            request = self._loaded.pop(name, None)
            if request is not None:
                await self._llm.remove_lora(request.lora_int_id)

    def _check_room(self, name: str) -> None:
        if not self._room:
            raise InvalidPromptError(
                "This model takes no adapters; set engine.max_adapters in its configuration.",
                "base",
            )
        if name in self._loaded:
            raise InvalidPromptError(f"The adapter `{name}` is loaded already.", "name")
        if len(self._loaded) >= self._room:
            raise InvalidPromptError(
                f"All {self._room} places for adapters are taken; unload one first, or raise "
                "engine.max_adapters.",
                "base",
            )


def _reason(error: Exception) -> str:
    """The last line of what the engine's process says, without its traceback."""
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:300]
