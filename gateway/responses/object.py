"""The response object, in every state it can be in.

Source: the OpenAI API reference, "The response object".
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.call import Usage
from gateway.errors import APIError
from gateway.protocol.response_parts import FunctionTool, TextConfig
from gateway.protocol.responses import CreateResponse

Response = dict[str, Any]

# Of services this server doesn't have.
_NEVER = (
    "access_programs",
    "image",
    "input_transformations",
    "moderation",
    "prompt",
    "prompt_cache_diagnostics",
    "prompt_cache_options",
    "tool_usage",
)


def opening(body: CreateResponse, *, response_id: str, model: str) -> Response:
    """The response to `body` before there is anything of it."""
    reasoning = body.reasoning
    conversation = body.conversation_id
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued" if body.background else "in_progress",
        "background": bool(body.background),
        "completed_at": None,
        "conversation": {"id": conversation} if conversation is not None else None,
        "error": None,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "presence_penalty": body.presence_penalty or 0.0,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "prompt_cache_retention": body.prompt_cache_retention,
        "reasoning": {
            "effort": reasoning.effort if reasoning is not None else None,
            "summary": (reasoning.summary or reasoning.generate_summary) if reasoning else None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.stored,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": _text(body.text),
        "tool_choice": _tool_choice(body),
        "tools": [_tool(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        **dict.fromkeys(_NEVER),
    }


def started(response: Response) -> Response:
    """The response, now that it is worked on."""
    return {**response, "status": "in_progress"}


def ended(
    response: Response,
    output: Sequence[Mapping[str, Any]],
    usage: Usage,
    *,
    reasoning_tokens: int,
    cut_short: bool,
) -> Response:
    """The response once the model has ended; `cut_short`: because there was room for no more."""
    if cut_short:
        state: Response = {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
        }
    else:
        state = {"status": "completed", "completed_at": int(time.time())}
    return {
        **response,
        **state,
        "output": output,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
            "total_tokens": usage.total_tokens,
        },
    }


def failed(
    response: Response, error: APIError, output: Sequence[Mapping[str, Any]] = ()
) -> Response:
    """The response that ended with `error`, with as much as there was."""
    return {
        **response,
        "status": "failed",
        "error": {"code": _error_code(error), "message": error.message},
        "output": output,
    }


def cancelled(response: Response, output: Sequence[Mapping[str, Any]] = ()) -> Response:
    """The response that nobody wanted any more, with as much as there was."""
    return {**response, "status": "cancelled", "output": output}


def _error_code(error: APIError) -> str:
    """Of the few codes that a response's error may have."""
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"


def _text(config: TextConfig | None) -> Response:
    text: Response = {"format": {"type": "text"}, "verbosity": "medium"}
    if config is None:
        return text
    if config.format is not None:
        text["format"] = config.format.model_dump(by_alias=True)
        if config.format.type == "json_schema":
            text["format"]["strict"] = config.strict
    return text


def _tool_choice(body: CreateResponse) -> Any:
    choice = body.tool_choice
    if choice is None:
        return "auto"
    return choice if isinstance(choice, str) else choice.model_dump()


def _tool(tool: FunctionTool) -> Response:
    return {**tool.model_dump(), "strict": tool.kept_to}
