"""Items: what conversations and responses are made of, as clients send them and as they come back.

Text only: `input_text`, `output_text`, refusals, function calls and their outputs, reasoning. What
is of another type is refused with the types there are. Source: the OpenAI API reference,
"Create a model response", `input`, and "Conversations", "Create items".
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag

from gateway.protocol.annotations import Annotation, Logprob
from gateway.protocol.parse import Unsupported, WireModel

MAX_PARTS = 4096

Status = Literal["in_progress", "completed", "incomplete"]
ItemId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
FunctionName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")
]


class InputText(WireModel):
    """Text that is said to the model."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Unsupported = None

    def resource(self) -> dict[str, Any]:
        return {"type": self.type, "text": self.text}


class OutputText(WireModel):
    """Text that a model said."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Annotation], Field(max_length=1024, fail_fast=True)] | None = None
    logprobs: Annotated[list[Logprob], Field(fail_fast=True)] | None = None

    def resource(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "text": self.text,
            "annotations": [one.model_dump() for one in self.annotations or ()],
            "logprobs": [one.model_dump() for one in self.logprobs or ()],
        }


class Refusal(WireModel):
    """What a model said instead of an answer."""

    type: Literal["refusal"]
    refusal: str

    def resource(self) -> dict[str, Any]:
        return {"type": self.type, "refusal": self.refusal}


class SummaryText(WireModel):
    type: Literal["summary_text"]
    text: str


class ReasoningText(WireModel):
    type: Literal["reasoning_text"]
    text: str


class _Unknown(WireModel):
    """Refuses what is of another type, whatever else it has."""

    model_config = ConfigDict(extra="ignore")


class UnknownInputPart(_Unknown):
    type: Literal["input_text"]


class UnknownOutputPart(_Unknown):
    type: Literal["output_text", "refusal"]


class UnknownItem(_Unknown):
    type: Literal["message", "function_call", "function_call_output", "reasoning"]


def _part_type(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else getattr(part, "type", None)
    return {"input_text": "InputText", "output_text": "OutputText", "refusal": "Refusal"}.get(
        kind if isinstance(kind, str) else "", "Unknown"
    )


def _input_part(part: Any) -> str:
    found = _part_type(part)
    return found if found == "InputText" else "Unknown"


def _output_part(part: Any) -> str:
    found = _part_type(part)
    return found if found != "InputText" else "Unknown"


if TYPE_CHECKING:  # what is of an unknown type is always refused, and so is never the outcome
    InputPart: TypeAlias = InputText
    OutputPart: TypeAlias = OutputText | Refusal
else:
    # The tags are spelled like classes: so they don't show in the paths of errors.
    InputPart = Annotated[
        Annotated[InputText, Tag("InputText")] | Annotated[UnknownInputPart, Tag("Unknown")],
        Discriminator(_input_part),
    ]
    OutputPart = Annotated[
        Annotated[OutputText, Tag("OutputText")]
        | Annotated[Refusal, Tag("Refusal")]
        | Annotated[UnknownOutputPart, Tag("Unknown")],
        Discriminator(_output_part),
    ]
InputParts = Annotated[list[InputPart], Field(max_length=MAX_PARTS, fail_fast=True)]
OutputParts = Annotated[list[OutputPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class _Item(WireModel):
    """`prefix` begins the ids of items of this kind."""

    id: ItemId | None = None
    status: Status | None = None

    def _named(self, prefix: str) -> str:
        return self.id or new_item_id(prefix)


class InputMessage(_Item):
    """What a user or developer says."""

    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer"]
    content: str | InputParts
    phase: Unsupported = None

    def resource(self) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._named("msg"),
            "status": self.status or "completed",
            "role": self.role,
            "content": _parts(self.content, "input_text"),
        }


class OutputMessage(_Item):
    """What a model said."""

    type: Literal["message"] = "message"
    role: Literal["assistant"]
    content: str | OutputParts
    phase: Literal["commentary", "final_answer"] | None = None

    def resource(self) -> dict[str, Any]:
        found = {
            "type": "message",
            "id": self._named("msg"),
            "status": self.status or "completed",
            "role": self.role,
            "content": _parts(self.content, "output_text"),
        }
        return found | ({"phase": self.phase} if self.phase else {})


class FunctionCall(_Item):
    """A model's wish to call a function; `arguments` is JSON text, as the model wrote it."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: str
    caller: Unsupported = None
    namespace: Unsupported = None

    def resource(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "id": self._named("fc"),
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
            "status": self.status or "completed",
        }


class FunctionCallOutput(_Item):
    """What a function answered."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: str | InputParts
    name: FunctionName | None = None
    caller: Unsupported = None
    namespace: Unsupported = None

    def resource(self) -> dict[str, Any]:
        output = self.output
        found = {
            "type": self.type,
            "id": self._named("fco"),
            "call_id": self.call_id,
            "output": output if isinstance(output, str) else [p.resource() for p in output],
            "status": self.status or "completed",
        }
        return found | ({"name": self.name} if self.name else {})


class ReasoningItem(_Item):
    """What a model thought."""

    type: Literal["reasoning"]
    summary: Annotated[list[SummaryText], Field(max_length=MAX_PARTS, fail_fast=True)]
    content: Annotated[list[ReasoningText], Field(max_length=MAX_PARTS, fail_fast=True)] | None = (
        None
    )
    encrypted_content: str | None = None

    def resource(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": self.type,
            "id": self._named("rs"),
            "summary": [part.model_dump() for part in self.summary],
        }
        if self.content is not None:
            found["content"] = [part.model_dump() for part in self.content]
        for name in ("encrypted_content", "status"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        return found


def _item_kind(item: Any) -> str:
    def field(name: str) -> Any:
        return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)

    kind = field("type")
    if kind is None and (field("role") is not None or field("content") is not None):
        kind = "message"
    if kind == "message":
        return "OutputMessage" if field("role") == "assistant" else "InputMessage"
    kinds = {
        "function_call": "FunctionCall",
        "function_call_output": "FunctionCallOutput",
        "reasoning": "ReasoningItem",
    }
    return kinds.get(kind if isinstance(kind, str) else "", "Unknown")


if TYPE_CHECKING:
    InputItem: TypeAlias = (
        InputMessage | OutputMessage | FunctionCall | FunctionCallOutput | ReasoningItem
    )
else:
    InputItem = Annotated[
        Annotated[InputMessage, Tag("InputMessage")]
        | Annotated[OutputMessage, Tag("OutputMessage")]
        | Annotated[FunctionCall, Tag("FunctionCall")]
        | Annotated[FunctionCallOutput, Tag("FunctionCallOutput")]
        | Annotated[ReasoningItem, Tag("ReasoningItem")]
        | Annotated[UnknownItem, Tag("Unknown")],
        Discriminator(_item_kind),
    ]


def new_item_id(prefix: str) -> str:
    """An unguessable id, `msg_…` style."""
    return f"{prefix}_{secrets.token_hex(24)}"


def _parts(content: str | list[Any], kind: str) -> list[dict[str, Any]]:
    if not isinstance(content, str):
        return [part.resource() for part in content]
    part: dict[str, Any] = {"type": kind, "text": content}
    return [part | {"annotations": [], "logprobs": []} if kind == "output_text" else part]
