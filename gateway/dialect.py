"""In whose words an error is told: OpenAI's, and Anthropic's where its API is spoken.

Source: the Anthropic API reference, "Errors".
"""

from __future__ import annotations

from typing import Final

import msgspec

from engine.base import ContextLengthError
from gateway.errors import APIError

MESSAGES_PATH: Final = "/v1/messages"

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def speaks_messages(path: str) -> bool:
    """Whether `path` belongs to Anthropic's API, there or not."""
    return path == MESSAGES_PATH or path.startswith(MESSAGES_PATH + "/")


def messages_error(error: APIError, request_id: str | None = None) -> bytes:
    """The error object of Anthropic's API, as JSON."""
    kind = _TYPES.get(error.status) or (
        "invalid_request_error" if error.status < 500 else "api_error"
    )
    body = {"type": "error", "error": {"type": kind, "message": _message(error)}}
    return msgspec.json.encode(body | {"request_id": request_id} if request_id else body)


def _message(error: APIError) -> str:
    cause = error.__cause__
    if not isinstance(cause, ContextLengthError):
        return error.message
    # Agents look for these words, and at the numbers, before they shorten a conversation.
    most = cause.max_model_len - 1
    return f"prompt is too long: {cause.prompt_tokens} tokens > {most} maximum"


def error_body(error: APIError, path: str, request_id: str) -> bytes:
    """The body of the answer that `error` is, at `path`."""
    return messages_error(error, request_id) if speaks_messages(path) else error.body()
