"""How a turn's completion is held to a form, and read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from engine.base import ChatMessage, Prompt, SamplingOptions, Structure, TokenDelta, Tool
from engine.reasoning import ReasoningTags
from engine.scripted import SCRIPTED_CALLS
from gateway.message import MessageReader
from gateway.turn import ToolChoice, Turn, plan

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


def test_control_tokens_are_part_of_the_text_where_tags_are_some() -> None:
    tags = ReasoningTags("<think>", "</think>", special=True)
    engine: Any = SimpleNamespace(reasoning_tags=tags, tool_syntax=SCRIPTED_CALLS)
    tools = [Tool("weather")]

    def skipped(**how: Any) -> bool:
        return plan(engine, MESSAGES, **how).sampling(SamplingOptions()).skip_special_tokens

    assert not skipped()
    assert not skipped(tools=tools)
    assert not skipped(tools=tools, choice=ToolChoice("none"))
    assert skipped(structure=Structure("json_object"))
    assert skipped(tools=tools, choice=ToolChoice("required"))
    assert plan(THINKER, MESSAGES).sampling(SamplingOptions()).skip_special_tokens


def test_only_calls_of_tools_that_may_be_chosen_are_calls() -> None:
    tools = [Tool("weather"), Tool("time")]
    turn = plan(THINKER, MESSAGES, tools=tools, choice=ToolChoice(allowed=("weather",)))
    for name, called in (("weather", True), ("time", False), ("other", False)):
        call = f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>'
        message = MessageReader(turn.form, Prompt(())).whole(TokenDelta(0, call, (1,), "stop"))
        assert bool(message.tool_calls) is called
        assert message.content == (None if called else call)
