"""What requests of the Responses API are made of besides items: tools, the choice among them, the
form of the answer.

Source: the OpenAI API reference, "Create a model response".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag

from engine.base import InvalidPromptError, Structure, Tool
from engine.structure import check_tool_parameters
from gateway.protocol.items import InputItem, ItemId
from gateway.protocol.parse import WireModel
from gateway.protocol.tools import MAX_TOOLS, ToolName, schema_structure
from gateway.turn import ToolChoice

MAX_ITEMS = 4096

Description = Annotated[str, StringConstraints(max_length=16_384)]


class ItemReference(WireModel):
    """An item that is stored, by its id."""

    type: Literal["item_reference"] | None = None
    id: ItemId


class FunctionTool(WireModel):
    """A function the model may call; `parameters` is a JSON Schema."""

    type: Literal["function"]
    name: ToolName
    description: Description | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @cached_property
    def kept_to(self) -> bool:
        """Whether arguments follow the schema: unless it says no, where that can be promised."""
        if self.strict is not None:
            return self.strict
        try:
            check_tool_parameters(Tool(self.name, None, self.parameters, strict=True), "")
        except InvalidPromptError:
            return False
        return True

    def tool(self, *, forced: bool) -> Tool:
        """As the engine takes it. A call that is `forced` is kept to its schema anyway, as far as
        there is a grammar for it."""
        strict = bool(self.strict) if forced else self.kept_to
        return Tool(self.name, self.description, self.parameters, strict)


class FunctionChoice(WireModel):
    """The one function the model must call."""

    type: Literal["function"]
    name: ToolName


class AllowedTools(WireModel):
    """Those of the tools that may be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[FunctionChoice], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)
    ]


class TextFormat(WireModel):
    type: Literal["text"]


class JSONObjectFormat(WireModel):
    """Any JSON object."""

    type: Literal["json_object"]


class JSONSchemaFormat(WireModel):
    """JSON after a schema."""

    type: Literal["json_schema"]
    name: ToolName
    description: Description | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class _Unknown(WireModel):
    """Refuses what is of another type, whatever else it has."""

    model_config = ConfigDict(extra="ignore")


class UnknownChoice(_Unknown):
    type: Literal["function", "allowed_tools"]


class UnknownFormat(_Unknown):
    type: Literal["text", "json_object", "json_schema"]


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


# The tags are spelled like classes: so they don't show in the paths of errors.
def _item(value: Any) -> str:
    named = isinstance(value, (Mapping, ItemReference))
    bare = all(_field(value, name) is None for name in ("type", "role", "content"))
    reference = named and (bare or _field(value, "type") == "item_reference")
    return "Reference" if reference else "Item"


def _choice(value: Any) -> str:
    if isinstance(value, str):
        return "Word"
    kinds = {"function": "Function", "allowed_tools": "Allowed"}
    return kinds.get(str(_field(value, "type")), "Unknown")


def _format(value: Any) -> str:
    kinds = {"text": "Text", "json_object": "Object", "json_schema": "Schema"}
    return kinds.get(str(_field(value, "type")), "Unknown")


GivenItem = Annotated[
    Annotated[ItemReference, Tag("Reference")] | Annotated[InputItem, Tag("Item")],
    Discriminator(_item),
]
GivenItems = Annotated[list[GivenItem], Field(max_length=MAX_ITEMS, fail_fast=True)]
FunctionTools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)]
WireChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("Word")]
    | Annotated[FunctionChoice, Tag("Function")]
    | Annotated[AllowedTools, Tag("Allowed")]
    | Annotated[UnknownChoice, Tag("Unknown")],
    Discriminator(_choice),
]
WireFormat = Annotated[
    Annotated[TextFormat, Tag("Text")]
    | Annotated[JSONObjectFormat, Tag("Object")]
    | Annotated[JSONSchemaFormat, Tag("Schema")]
    | Annotated[UnknownFormat, Tag("Unknown")],
    Discriminator(_format),
]


def tool_choice(wire: WireChoice | None) -> ToolChoice:
    """The choice as a turn takes it."""
    if isinstance(wire, FunctionChoice):
        return ToolChoice("required", named=wire.name)
    if isinstance(wire, AllowedTools):
        return ToolChoice(wire.mode, allowed=tuple(tool.name for tool in wire.tools))
    return ToolChoice(wire if isinstance(wire, str) else "auto")


class TextConfig(WireModel):
    """The form of the answer's text."""

    format: WireFormat | None = None
    verbosity: Literal["medium"] | None = None

    @property
    def strict(self) -> bool:
        """Whether a schema has to be kept to."""
        return isinstance(self.format, JSONSchemaFormat) and bool(self.format.strict)

    def structure(self) -> Structure | None:
        """What the answer is held to. Raises InvalidPromptError for a schema that won't do."""
        if isinstance(self.format, JSONSchemaFormat):
            return schema_structure(
                self.format.name,
                self.format.schema_,
                strict=self.strict,
                param="text.format.schema",
            )
        if isinstance(self.format, JSONObjectFormat):
            return Structure("json_object", "", "text.format")
        return None


class ReasoningConfig(WireModel):
    """How long to think. Reasoning is told as it is, without a summary."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None
