"""How a turn's completion is held to a form, and read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from engine.base import ChatMessage, Prompt, Structure, TokenDelta, Tool
from engine.reasoning import ReasoningTags
from engine.scripted import SCRIPTED_CALLS
from gateway.message import MessageReader
from gateway.turn import Turn, plan

THINKER: Any = SimpleNamespace(
    reasoning_tags=ReasoningTags("<think>", "</think>"), tool_syntax=SCRIPTED_CALLS
)
MESSAGES = [ChatMessage("user", "Hi")]
# A prompt that ends with the opening tag, as some templates have it.
PROMPT = Prompt((1,), "<|user|>Hi<|assistant|><think>\n")


def read(turn: Turn, text: str) -> tuple[str, str | None]:
    """The reasoning and the content."""
    message = MessageReader(turn.form, PROMPT).whole(TokenDelta(0, text, (1,), "stop"))
    return message.reasoning, message.content


def test_an_answer_that_a_grammar_makes_holds_no_reasoning() -> None:
    form = Structure("json_object")
    for tools in ((), (Tool("weather"),)):
        free = plan(THINKER, MESSAGES, tools=tools)
        assert read(free, "Hm.</think>Hello!") == ("Hm.", "Hello!")
        held = plan(THINKER, MESSAGES, tools=tools, structure=form)
        assert read(held, '{"a": 1}') == ("", '{"a": 1}')
