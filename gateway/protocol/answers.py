"""The shapes of answers that the openai SDK has no model of, or not quite: for `/openapi.json`."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

One = TypeVar("One")


class Shape(BaseModel):
    """An answer that has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class ErrorObject(Shape):
    """What is wrong; `param` is the request field it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Shape):
    """Every error of the API."""

    error: ErrorObject


class MessagesErrorObject(Shape):
    """What is wrong, in Anthropic's words."""

    type: str
    message: str


class MessagesError(Shape):
    """Every error of Anthropic's API."""

    type: Literal["error"]
    error: MessagesErrorObject
    request_id: str | None = None


class Page(BaseModel, Generic[One]):
    """Objects in a list; those after `last_id` are asked for with `after`."""

    object: Literal["list"]
    data: list[One]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class Usage(BaseModel):
    """Tokens of what was sent."""

    prompt_tokens: int
    total_tokens: int


class TextLogprobs(Shape):
    """Log-probabilities of a completion; the first token of an echoed prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None]
    text_offset: list[int]


class TextChoice(Shape):
    """One completion of a prompt."""

    text: str
    index: int
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"] | None


class TextCompletion(BaseModel):
    """`text_completion`, whole or a chunk of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: dict[str, Any] | None = None


class StoredMessage(BaseModel):
    """A message of a stored completion's request; content that came in parts stands apart."""

    id: str
    role: str
    content: str | None
    name: str | None
    content_parts: list[dict[str, Any]] | None


class ResponseDeleted(Shape):
    """A response that no longer is."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class MessagesAnswer(BaseModel):
    """`message` of Anthropic's API."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[MessagesBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage


class MessagesBlock(BaseModel):
    """A piece of a message, with the fields of its type."""

    type: Literal["text", "thinking", "redacted_thinking", "tool_use"]


class MessagesUsage(BaseModel):
    """Tokens; those the prefix cache had are not among `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessagesEvent(BaseModel):
    """An event of a stream, with the fields of its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]


class InputTokens(Shape):
    """How long a prompt is."""

    input_tokens: int


class Embedding(Shape):
    """A vector: its numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(Shape):
    """A vector for each input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class RankedDocument(Shape):
    """The text that was ranked."""

    text: str


class RankedResult(BaseModel):
    """One document; `index` is its place in the request."""

    index: int
    relevance_score: float
    document: RankedDocument | None = None


class Ranking(BaseModel):
    """Documents, the best first."""

    id: str
    model: str
    results: list[RankedResult]
    usage: Usage


class Score(Shape):
    """Of one pair of texts."""

    object: Literal["score"]
    index: int
    score: float


class ScoreList(BaseModel):
    """A score for each pair."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: Usage


class TokenList(Shape):
    """Token ids and their count."""

    count: int
    max_model_len: int
    tokens: list[int]


class DetokenizedText(Shape):
    """The text of token ids."""

    prompt: str


class Health(Shape):
    """Whether the process can still serve."""

    status: Literal["alive", "dead"]


class Readiness(Shape):
    """Whether requests will be served; `models` where there are several."""

    status: Literal["ready", "loading", "restarting", "stalled", "draining", "dead"]
    models: dict[str, Literal["ready", "loading", "restarting", "stalled", "dead"]] = {}


class Running(BaseModel):
    """An engine, and the seconds each part of its start took; null while it is loading."""

    engine: dict[str, Any] | None
    start: dict[str, float] | None


class Version(Running):
    """The program's version, its first model's engine, and all of them by model."""

    version: str
    models: dict[str, Running]


class Adapter(Shape):
    """A LoRA adapter that is served."""

    id: str
    object: Literal["adapter"]
    created: int
    base: str


class AdapterDeleted(Shape):
    """An adapter that no longer is."""

    id: str
    object: Literal["adapter"]
    deleted: Literal[True]
