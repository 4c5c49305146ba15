"""Tools, the choice among them, and the form of answers, as chat completions have them.

Source: the OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from engine.base import InvalidPromptError, Structure, Tool, ToolCall
from engine.structure import MAX_PLACES, check_response_schema, check_tool_parameters
from gateway.protocol.parse import WireModel
from gateway.turn import ToolChoice

MAX_TOOLS = 128
MAX_CALLS = 128

ToolName = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
]


class FunctionSpec(WireModel):
    """A function the model may call; `parameters` is a JSON Schema."""

    name: ToolName
    description: Annotated[str, StringConstraints(max_length=16_384)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(WireModel):
    """A tool; functions are the only kind here."""

    type: Literal["function"]
    function: FunctionSpec

    def tool(self) -> Tool:
        spec = self.function
        return Tool(spec.name, spec.description, spec.parameters, bool(spec.strict))


Tools = Annotated[list[FunctionTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class FunctionName(WireModel):
    name: ToolName


class NamedFunction(WireModel):
    """The one function the model must call."""

    type: Literal["function"]
    function: FunctionName


class AllowedToolsSpec(WireModel):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class AllowedTools(WireModel):
    """Those of the tools that may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolsSpec


WireToolChoice = Literal["none", "auto", "required"] | NamedFunction | AllowedTools


class FunctionCall(WireModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    arguments: str


class WireToolCall(WireModel):
    """A call an assistant's message holds."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    type: Literal["function"]
    function: FunctionCall

    def call(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, self.function.arguments)


class JSONSchemaSpec(WireModel):
    """The schema the answer follows; its own key is `schema`."""

    name: ToolName
    description: Annotated[str, StringConstraints(max_length=16_384)] | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(WireModel):
    """Text, any JSON object, or JSON after a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaSpec | None = None

    def structure(self) -> Structure | None:
        """What the answer is held to. Raises InvalidPromptError where the schema is missing."""
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise InvalidPromptError(
                "'response_format.json_schema' is required for the type 'json_schema', and "
                "allowed for no other.",
                "response_format.json_schema",
            )
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.schema_ is None:
            return Structure("json_object", "", "response_format")
        spec = self.json_schema
        return schema_structure(
            spec.name, self.json_schema.schema_, strict=bool(spec.strict), param="response_format"
        )


def schema_structure(name: str, schema: Any, *, strict: bool, param: str) -> Structure:
    """An answer's schema as the engine takes it. Raises InvalidPromptError for one it can't."""
    check_response_schema(name, schema, strict=strict, param=param)
    return Structure("json_schema", json.dumps(schema, ensure_ascii=False), param)


def checked_tools(
    tools: Sequence[Tool], schema_at: str = "tools[{}].function.parameters"
) -> tuple[Tool, ...]:
    """Raises InvalidPromptError: a name is there twice, parameters, which the body has at
    `schema_at`, are no usable schema, or all of them together are too large."""
    names = set()
    places = 0
    for place, tool in enumerate(tools):
        if tool.name in names:
            raise InvalidPromptError(
                f"Invalid 'tools[{place}]': there is a function '{tool.name}' already.", "tools"
            )
        names.add(tool.name)
        places += check_tool_parameters(tool, schema_at.format(place))
        if places > MAX_PLACES:
            raise InvalidPromptError(
                f"Invalid 'tools': their schemas may have {MAX_PLACES} subschemas together.",
                "tools",
            )
    return tuple(tools)


def tool_choice(wire: WireToolChoice | None) -> ToolChoice:
    """The choice as a turn takes it."""
    if wire is None or isinstance(wire, str):
        return ToolChoice(wire or "auto")
    if isinstance(wire, NamedFunction):
        return ToolChoice("required", named=wire.function.name)
    spec = wire.allowed_tools
    return ToolChoice(spec.mode, allowed=tuple(tool.function.name for tool in spec.tools))
