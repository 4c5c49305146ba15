"""`/v1/messages` and `/v1/messages/count_tokens`: the bodies of requests.

Source: the Anthropic API reference, "Create a Message", "Count tokens in a Message".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from engine.base import Engine, InvalidPromptError, SamplingOptions, Structure, Tool
from gateway.protocol.blocks import Ignored, TextBlocks, WireMessages
from gateway.protocol.generation import GenerationBody
from gateway.protocol.history import history
from gateway.protocol.parse import Unsupported, WireModel
from gateway.protocol.sampling import INT31, StopString
from gateway.protocol.tools import checked_tools, schema_structure
from gateway.turn import ToolChoice, Turn, plan

MAX_TOOLS = 1024
MIN_BUDGET = 1024
# Up to how many tokens of thinking count as little, and as some.
LITTLE_THINKING, SOME_THINKING = 4096, 16_384

Effort = Literal["low", "medium", "high", "xhigh", "max"]
Display = Literal["summarized", "omitted", "updates"]
ToolName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")
]


class CustomTool(WireModel):
    """A tool that the client runs; `input_schema` is a JSON Schema of an object."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: Ignored = None
    allowed_callers: Annotated[list[Literal["direct"]], Field(fail_fast=True)] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None

    def tool(self) -> Tool:
        """Raises InvalidPromptError where the schema is none of an object."""
        if self.input_schema.get("type", "object") != "object":
            raise InvalidPromptError(
                f"Invalid 'input_schema' of the tool '{self.name}': its 'type' must be 'object'.",
                "tools",
            )
        schema = {"type": "object", **self.input_schema}
        return Tool(self.name, self.description, schema, bool(self.strict))


class WireToolChoice(WireModel):
    """Whether tools may, must or must not be called, and whether several at once."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None

    def choice(self) -> ToolChoice:
        """Raises InvalidPromptError where the one to be called isn't named, or another is."""
        if (self.name is not None) != (self.type == "tool"):
            raise InvalidPromptError(
                "Invalid value for 'tool_choice': 'name' is required for the type 'tool', and "
                "allowed for no other.",
                "tool_choice.name",
            )
        if self.type in ("any", "tool"):
            return ToolChoice("required", named=self.name)
        return ToolChoice("none" if self.type == "none" else "auto")


class Thinking(WireModel):
    """Whether the model thinks aloud before it answers, and how it is shown."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(None, ge=MIN_BUDGET, lt=INT31)
    display: Display | None = None

    @model_validator(mode="after")
    def _budgeted(self) -> Thinking:
        if (self.budget_tokens is not None) != (self.type == "enabled"):
            raise ValueError(
                "'thinking.budget_tokens' is required for the type 'enabled', and allowed for no "
                "other"
            )
        return self

    @property
    def effort(self) -> str:
        """In the words of chat templates; a budget is only as exact as those are."""
        if self.type == "disabled":
            return "none"
        if self.budget_tokens is None:
            return "medium"
        if self.budget_tokens <= LITTLE_THINKING:
            return "low"
        return "medium" if self.budget_tokens <= SOME_THINKING else "high"


class OutputFormat(WireModel):
    """JSON after a schema; its own key is `schema`."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(WireModel):
    """How much work an answer is worth, and its form."""

    effort: Effort | None = None
    format: OutputFormat | None = None
    task_budget: Ignored = None


class PromptFields(WireModel):
    """What makes the prompt. Fields of Anthropic's that only tune its own servers are ignored."""

    model: str = Field(min_length=1, max_length=256)
    messages: WireMessages
    system: str | TextBlocks | None = None
    tools: Annotated[list[CustomTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: WireToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Ignored = None
    context_management: Ignored = None
    speed: Literal["standard", "fast"] | None = None
    mcp_servers: Annotated[list[Any], Field(max_length=0)] | None = None

    def turn(self, engine: Engine) -> Turn:
        """Raises InvalidPromptError."""
        choice = self.tool_choice
        return plan(
            engine,
            history(self.system, self.messages),
            tools=checked_tools(
                [tool.tool() for tool in self.tools or ()], "tools[{}].input_schema"
            ),
            choice=choice.choice() if choice is not None else None,
            parallel=choice is None or not choice.disable_parallel_tool_use,
            structure=self._structure(),
            reasoning_effort=self._effort(),
        )

    def _structure(self) -> Structure | None:
        if self.output_config is None or self.output_config.format is None:
            return None
        return schema_structure(
            "output", self.output_config.format.schema_, strict=True, param="output_config.format"
        )

    def _effort(self) -> str | None:
        if self.thinking is not None and self.thinking.type == "disabled":
            return self.thinking.effort
        if self.output_config is not None and self.output_config.effort is not None:
            return self.output_config.effort
        return self.thinking.effort if self.thinking is not None else None


class CountTokensRequest(PromptFields):
    """The body of a request to count a prompt's tokens."""


class RequestMetadata(WireModel):
    """`user_id` is the client's own name for who is behind a request."""

    user_id: Annotated[str, StringConstraints(max_length=1024)] | None = None


class MessagesRequest(PromptFields, GenerationBody):
    """The body of a Messages request."""

    max_tokens: int = Field(ge=1, lt=INT31)
    stop_sequences: Annotated[list[StopString], Field(max_length=64, fail_fast=True)] | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    metadata: RequestMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    diagnostics: Ignored = None

    container: Unsupported = None
    inference_geo: Unsupported = None

    def turn(self, engine: Engine) -> Turn:
        if self.messages[-1].role == "assistant":
            raise InvalidPromptError(
                "This model does not support assistant message prefill: the conversation must "
                "end with a user message.",
                "messages",
            )
        return super().turn(engine)

    def options(self) -> SamplingOptions:
        """The engine's options. Raises InvalidPromptError."""
        budget = self.thinking.budget_tokens if self.thinking is not None else None
        if budget is not None and budget >= self.max_tokens:
            raise InvalidPromptError(
                "Invalid 'thinking.budget_tokens': it must be less than 'max_tokens'.",
                "thinking.budget_tokens",
            )
        return SamplingOptions(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            stop=tuple(self.stop_sequences or ()),
        )
