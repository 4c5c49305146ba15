"""One turn of a conversation: what the engine is asked, and how its completion is to be read.

Chat completions, responses and messages all come down to this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import msgspec
from msgspec import structs

from engine.base import (
    ChatMessage,
    Conversation,
    Engine,
    InvalidPromptError,
    SamplingOptions,
    Structure,
    Tool,
)
from engine.tools import (
    FreeCalls,
    NamedCall,
    RequiredCalls,
    ToolFinder,
    named_structure,
    required_structure,
)
from gateway.message import PLAIN, Form


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model may, must or must not call a tool.

    `named` is the only one it must call; `allowed` are those it may choose from, None: all.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    named: str | None = None
    allowed: tuple[str, ...] | None = None


class Turn(msgspec.Struct, frozen=True):
    """`structure` is what the completion is held to; where the engine has no grammar for it,
    `loose` takes its place, if there is one. `spoken`: control tokens have to be part of its text
    for it to be read."""

    conversation: Conversation
    form: Form
    structure: Structure | None = None
    loose: Structure | None = None
    spoken: bool = False

    def sampling(self, options: SamplingOptions) -> SamplingOptions:
        """`options`, with what this turn needs."""
        if self.structure is None and not self.spoken:
            return options
        return structs.replace(
            options, structure=self.structure, skip_special_tokens=not self.spoken
        )


def plan(
    engine: Engine,
    messages: Sequence[ChatMessage],
    *,
    tools: Sequence[Tool] = (),
    choice: ToolChoice | None = None,
    parallel: bool = True,
    structure: Structure | None = None,
    reasoning_effort: str | None = None,
) -> Turn:
    """Decide how a turn is made. Raises InvalidPromptError (`tools`, `tool_choice`)."""
    tags = engine.reasoning_tags
    if structure is not None:
        tags = None  # A grammar leaves no room to think.
    spoken = tags is not None and tags.special
    if not tools and choice is None:
        conversation = Conversation(messages, reasoning_effort=reasoning_effort)
        form = PLAIN if tags is None else Form(tags=tags)
        return Turn(conversation, form, structure, spoken=spoken)
    offered = _offered(tools, choice)
    mode = (choice or ToolChoice()).mode if offered else "none"
    conversation = Conversation(
        messages, tools=tuple(offered) if mode != "none" else (), reasoning_effort=reasoning_effort
    )
    syntax = engine.tool_syntax
    form = Form(tags=tags, short_ids=syntax is not None and syntax.name == "mistral")
    if mode == "none":
        return Turn(conversation, form, structure, spoken=spoken)
    if mode == "required":
        return _forced(conversation, form, offered, choice, parallel)
    if syntax is None:
        raise InvalidPromptError(
            "This model has no syntax for tool calls of its own accord: set 'tool_choice' to "
            "'required', to a function, or to 'none' (the server's engine.tool_parser names one).",
            "tool_choice",
        )
    names = frozenset(tool.name for tool in offered)
    return Turn(
        conversation,
        replace(form, finder=partial(FreeCalls, syntax, names=names, parallel=parallel)),
        structure=syntax.structure(offered, parallel=parallel, otherwise=structure),
        loose=None if any(tool.strict for tool in offered) else structure,
        spoken=spoken or syntax.spoken,
    )


def _offered(tools: Sequence[Tool], choice: ToolChoice | None) -> Sequence[Tool]:
    """The tools the model may call. Raises InvalidPromptError where the choice isn't among them."""
    if choice is None:
        return tools
    names = {tool.name for tool in tools}
    wanted = (choice.named,) if choice.named is not None else choice.allowed
    for name in wanted or ():
        if name not in names:
            raise InvalidPromptError(
                f"Invalid value for 'tool_choice': the function '{name[:64]}' is not in 'tools'.",
                "tool_choice",
            )
    if choice.mode == "required" and not tools:
        raise InvalidPromptError(
            "Invalid value for 'tool_choice': it is only allowed when 'tools' are specified.",
            "tool_choice",
        )
    if wanted is None:
        return tools
    return [tool for tool in tools if tool.name in wanted]


def _forced(
    conversation: Conversation,
    form: Form,
    tools: Sequence[Tool],
    choice: ToolChoice | None,
    parallel: bool,
) -> Turn:
    strict = any(tool.strict for tool in tools)
    finder: Callable[[], ToolFinder]
    if choice is not None and choice.named is not None:
        (tool,) = tools
        finder = partial(NamedCall, tool.name)
        exact, loose = named_structure(tool), named_structure(tool, loose=True)
    else:
        finder = RequiredCalls
        exact = required_structure(tools, parallel=parallel)
        loose = required_structure(tools, parallel=parallel, loose=True)
    return Turn(
        conversation,
        # A grammar leaves no room to think.
        replace(form, finder=finder, tags=None),
        structure=exact,
        loose=None if strict else loose,
    )
