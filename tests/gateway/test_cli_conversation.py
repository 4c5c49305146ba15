"""A conversation with a model: what it remembers, forgets and measures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base import ChatMessage
from engine.config import EngineConfig
from engine.simulated import SimulatedEngine
from gateway.commands.conversation import (
    AnswerError,
    AnswerOptions,
    ContextFullError,
    Conversation,
    EngineModel,
    Piece,
    Turn,
)

CONTEXT = 120
ANSWER = "fine."


def model(**simulated: object) -> EngineModel:
    timing = {"step_ms": 0, "prefill_ms_per_token": 0, "text": ANSWER}
    config = EngineConfig.model_validate(
        {"kind": "simulated", "max_model_len": CONTEXT, "simulated": timing | simulated}
    )
    return EngineModel(SimulatedEngine(config))


def ignore(_text: str) -> None:
    return


class Scripted:
    """A model that yields what it is told, advancing the clock by the second given with each."""

    name = "scripted"

    def __init__(self, *script: tuple[float, Piece]) -> None:
        self.script = script
        self.now = 100.0

    async def answer(
        self, messages: Sequence[ChatMessage], options: AnswerOptions
    ) -> AsyncGenerator[Piece, None]:
        for seconds, piece in self.script:
            self.now += seconds
            yield piece

    async def close(self) -> None:
        return


async def test_the_figures_are_those_of_the_design() -> None:
    scripted = Scripted(
        (0.0, Piece(prompt_tokens=30)),
        (0.5, Piece("a")),
        (1.0, Piece("b")),
        (1.0, Piece("c", finish_reason="stop")),
        (0.5, Piece(completion_tokens=11)),
    )
    conversation = Conversation(scripted, AnswerOptions(), clock=lambda: scripted.now)
    turn = await conversation.ask("?", ignore)
    assert turn.text == "abc"
    assert turn.first_token_s == 0.5
    assert turn.elapsed_s == 3.0
    assert turn.tokens_per_second == 10 / 2.0
    assert turn.total_tokens_per_second == 41 / 3.0


def test_figures_that_can_not_be_known_are_none() -> None:
    turn = Turn(0.0)
    turn.add(Piece("a"), 1.0)
    assert turn.tokens_per_second is None
    assert turn.total_tokens_per_second is None


@settings(deadline=None)
@given(st.lists(st.integers(1, 2 * CONTEXT), max_size=12), st.sampled_from([None, 5, 30]))
def test_whatever_is_asked_the_newest_question_is_answered_or_as_if_never_asked(
    lengths: list[int], max_tokens: int | None
) -> None:
    async def talk() -> None:
        conversation = Conversation(model(), AnswerOptions(max_tokens), system="S")
        for length in lengths:
            before = list(conversation.messages)
            # BOS, the roles and ends of system message and question, the role of the answer.
            alone = 1 + 3 + (length + 2) + 1
            try:
                turn = await conversation.ask("q" * length, ignore)
            except ContextFullError:
                assert alone + (max_tokens or 1) > CONTEXT
                assert len(conversation.messages) <= len(before)
            else:
                assert turn.text == ANSWER[: CONTEXT - alone]
                assert conversation.messages[-2].content == "q" * length
                kept = before[2 * turn.forgotten :]
                assert conversation.messages[:-2] == kept
            roles = [message.role for message in conversation.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
        await conversation.model.close()

    asyncio.run(talk())


async def test_an_old_exchange_makes_way_for_an_answer_of_useful_length() -> None:
    conversation = Conversation(model(), AnswerOptions())
    await conversation.ask("q" * 60, ignore)
    turn = await conversation.ask("r" * 30, ignore)
    assert turn.forgotten == 1
    assert [message.content for message in conversation.messages] == ["r" * 30, ANSWER]


async def test_an_answer_that_is_cancelled_is_kept_as_far_as_it_came() -> None:
    slow = model(text="word " * 20, step_ms=1)
    conversation = Conversation(slow, AnswerOptions())
    seen = asyncio.Event()

    def show(_text: str) -> None:
        seen.set()

    asking = asyncio.create_task(conversation.ask("q", show))
    await seen.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    (turn,) = conversation.turns
    assert turn.finish_reason is None
    assert conversation.messages[-1] == ChatMessage("assistant", turn.text)
    assert slow.engine.stats().running == 0
    await slow.close()


async def test_a_question_that_fails_before_an_answer_is_as_if_never_asked() -> None:
    dying = model(die_after_tokens=1)
    conversation = Conversation(dying, AnswerOptions())
    with pytest.raises(AnswerError):
        await conversation.ask("q", ignore)
    conversation.reset()
    with pytest.raises(AnswerError) as error:
        await conversation.ask("q", ignore)
    assert error.value.fatal
    assert conversation.messages == []
    await dying.close()
