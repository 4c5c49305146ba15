"""`/v1/responses`: the bodies and queries of its requests.

Source: the OpenAI API reference, "Create a model response", "Count input tokens"; the Open
Responses specification for the penalties.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from engine.base import InvalidPromptError, SamplingOptions, Structure, Tool
from gateway.errors import InvalidRequestError
from gateway.protocol.conversations import Includable
from gateway.protocol.generation import GenerationBody
from gateway.protocol.parse import Unsupported, WireModel
from gateway.protocol.response_parts import (
    FunctionTools,
    GivenItems,
    ReasoningConfig,
    TextConfig,
    WireChoice,
    tool_choice,
)
from gateway.protocol.sampling import INT31, Metadata
from gateway.protocol.tools import checked_tools
from gateway.turn import ToolChoice

LOGPROBS = "message.output_text.logprobs"

Label = Annotated[str, StringConstraints(max_length=512)]
ObjectId = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ConversationName(WireModel):
    id: ObjectId


class ResponseStreamOptions(WireModel):
    """`include_obfuscation` is accepted and has no effect, as for chat completions."""

    include_obfuscation: bool | None = None


class InputBody(WireModel):
    """What a response is made from, and what its input tokens are counted of."""

    input: str | GivenItems | None = None
    instructions: str | None = None
    previous_response_id: ObjectId | None = None
    conversation: ObjectId | ConversationName | None = None
    tools: FunctionTools | None = None
    tool_choice: WireChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = None
    image: Unsupported = None
    prompt_cache_options: Unsupported = None

    @property
    def conversation_id(self) -> str | None:
        found = self.conversation
        return found.id if isinstance(found, ConversationName) else found

    def require_input(self) -> None:
        """Raises InvalidRequestError where there is nothing to answer, or two histories."""
        if self.previous_response_id is not None and self.conversation is not None:
            raise InvalidRequestError(
                "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Only "
                "one of them can continue what was said before.",
                code="mutually_exclusive_parameters",
                param="previous_response_id",
            )
        if self.input is None and self.previous_response_id is None and self.conversation is None:
            raise InvalidRequestError(
                "Missing required parameter: 'input', where there is no 'previous_response_id' or "
                "'conversation'.",
                code="missing_required_parameter",
                param="input",
            )

    def choice(self) -> ToolChoice:
        """The choice as a turn takes it."""
        return tool_choice(self.tool_choice)

    @cached_property
    def structure(self) -> Structure | None:
        """What the answer is held to. Raises InvalidPromptError for a schema that won't do."""
        return self.text.structure() if self.text is not None else None

    @cached_property
    def offered_tools(self) -> tuple[Tool, ...]:
        """Raises InvalidPromptError where they can't be used."""
        tools = self.tools or ()
        forced = self.choice().mode == "required"
        checked = checked_tools([tool.tool(forced=True) for tool in tools], "tools[{}].parameters")
        # Whether a schema can be kept to takes long to find out: only of what isn't too large.
        return checked if forced else tuple(tool.tool(forced=False) for tool in tools)


class CreateResponse(InputBody, GenerationBody):
    """The body of `POST /v1/responses`."""

    background: bool | None = None
    include: Annotated[list[Includable], Field(max_length=16, fail_fast=True)] | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=INT31)
    max_tool_calls: int | None = Field(None, ge=1, lt=INT31)
    metadata: Metadata | None = None
    safety_identifier: Label | None = None
    store: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    user: Label | None = None
    access_programs: Unsupported = None
    context_management: Unsupported = None
    moderation: Unsupported = None
    prompt: Unsupported = None

    @property
    def stored(self) -> bool:
        return self.store is not False

    @property
    def logprobs(self) -> bool:
        """Whether the text's log-probabilities are told."""
        return LOGPROBS in (self.include or ())

    def require_consistent(self) -> None:
        """Raises InvalidRequestError, InvalidPromptError for fields that exclude each other."""
        self.require_input()
        if self.background and not self.stored:
            raise InvalidRequestError(
                "Background responses are retrieved later, so they have to be stored: leave out "
                "'store' or set it to true.",
                code="invalid_value",
                param="store",
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidPromptError(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                "stream_options",
            )

    def options(self) -> SamplingOptions:
        """The engine's options."""
        return SamplingOptions(
            max_tokens=self.max_output_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class CountInputTokens(InputBody):
    """The body of `POST /v1/responses/input_tokens`: the default model where it names none."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None


class RetrieveQuery(WireModel):
    """What may be asked of a stored response: its events again, after the one of that number."""

    stream: Literal["true", "false"] | None = None
    starting_after: int = Field(-1, ge=0)
    include: Annotated[list[Includable], Field(max_length=16, fail_fast=True)] | None = None
    include_obfuscation: Literal["true", "false"] | None = None
