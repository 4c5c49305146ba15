"""Prompts of a real tokenizer, in turns with everything else on the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from engine import vllm_start
from engine.base import ChatMessage, Conversation
from engine.models import resolve

if TYPE_CHECKING:
    from engine.vllm_render import PromptRenderer

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def renderer() -> PromptRenderer:
    vllm_start.import_vllm()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.tokenizers import get_tokenizer

    from engine.vllm_render import PromptRenderer

    path = str(resolve("smollm2-135m-instruct").path)
    return PromptRenderer(get_tokenizer(path), AsyncEngineArgs(model=path).create_model_config())


async def turns_during(renderer: PromptRenderer, texts: list[str]) -> int:
    """How many turns another task had while these were tokenized one after the other."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    for text in texts:
        await renderer.tokenize(text)
    other.cancel()
    return turns


async def test_others_have_their_turns_among_many_short_texts(renderer: PromptRenderer) -> None:
    assert await turns_during(renderer, [f"{number} " * 400 for number in range(100)]) > 10
    assert await turns_during(renderer, [str(number) for number in range(1000)]) > 10


async def test_a_short_prompt_alone_waits_for_nobody(renderer: PromptRenderer) -> None:
    for number in range(50):
        others: list[int] = []
        asyncio.get_running_loop().call_soon(others.append, number)
        await renderer.render(Conversation([ChatMessage("user", f"{number} " * 400)]))
        await renderer.render(f"{number} " * 400)
        assert not others
        await asyncio.sleep(0)
        assert others


async def test_a_long_text_that_is_given_up_before_its_turn_is_not_tokenized(
    renderer: PromptRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, tokenized = threading.Event(), threading.Event(), list[str]()

    def encode(text: str) -> list[int]:
        tokenized.append(text[0])
        begun.set()
        go_on.wait()
        return [1]

    monkeypatch.setattr(renderer._encoder, "encode", encode)
    first, second, third = (asyncio.create_task(renderer.render(x * 60_000)) for x in "abc")
    await asyncio.to_thread(begun.wait)
    second.cancel()
    await asyncio.wait([second])
    go_on.set()
    await asyncio.gather(first, third)
    assert tokenized == ["a", "c"]
