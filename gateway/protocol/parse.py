"""From a request's bytes to a wire model, or to the OpenAI error that says what was expected."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from gateway.errors import InvalidRequestError


class WireModel(BaseModel):
    """Base of request bodies: strict types, unknown fields refused, numbers finite.

    Lists fail fast (`Field(fail_fast=True)`), unless of anything: an error costs a thousand times
    what the value that is wrong did, and a body has room for a million of them.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


# An OpenAI field this server knows but doesn't serve: null, the API's word for absent, is fine.
Unsupported: TypeAlias = None

MAX_ERRORS = 1000
MAX_PARAM = 128

# Fields of vLLM's server that reach past what a client may decide. No model has them, and they are
# refused also where other unknown fields are ignored: who sends one counts on its effect.
NEVER_TAKEN = frozenset({
    "cache_salt",
    "chat_template",
    "chat_template_kwargs",
    "data_parallel_rank",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "priority",
    "prompt_embeds",
    "request_id",
})  # fmt: skip

Wire = TypeVar("Wire", bound=WireModel)

_JSON_TYPES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
    type(None): "null",
}

_EXPECTED_TYPE = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "list_type": "an array",
    "tuple_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}

_BOUNDS = {
    "greater_than_equal": ("below", "min", ">=", "ge"),
    "greater_than": ("below", "min", ">", "gt"),
    "less_than_equal": ("above", "max", "<=", "le"),
    "less_than": ("above", "max", "<", "lt"),
}

_LENGTHS = {
    "too_short": ("array", "below", "min", "at least", "min_length"),
    "too_long": ("array", "above", "max", "at most", "max_length"),
    "string_too_short": ("string", "below", "min", "at least", "min_length"),
    "string_too_long": ("string", "above", "max", "at most", "max_length"),
}


def parse(model: type[Wire], body: bytes, *, ignore_unknown: bool = False) -> Wire:
    """Validate a JSON body. Raises InvalidRequestError (400) for the first thing wrong.

    With `ignore_unknown` fields that the model doesn't have are left out, at any depth; those of
    NEVER_TAKEN, and more than MAX_ERRORS of them, are refused all the same.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        details = _told(error)
    unknown = [item for item in details if item["type"] == "extra_forbidden"]
    if not (ignore_unknown and unknown):
        raise _explain(_most_telling(details))
    for item in unknown:
        if item["loc"][-1] in NEVER_TAKEN:
            raise _explain(item)
    try:
        return model.model_validate_json(body, extra="ignore")
    except ValidationError as error:
        raise _explain(_most_telling(_told(error))) from None


def _told(error: ValidationError) -> list[ErrorDetails]:
    """What is wrong. Raises InvalidRequestError where telling each would take seconds."""
    if error.error_count() > MAX_ERRORS:
        raise _problem(
            "invalid_value", None, "The request body has too many errors to name them."
        ) from None
    return error.errors(include_url=False)


def _most_telling(details: list[ErrorDetails]) -> ErrorDetails:
    """A union reports one error per branch; the one that got furthest is about what was meant."""
    first = details[0]["loc"][:1]
    same_field = [item for item in details if item["loc"][:1] == first]
    return max(same_field, key=_progress)


def _progress(item: ErrorDetails) -> tuple[int, bool]:
    return len(item["loc"]), item["type"] not in _EXPECTED_TYPE


def _explain(item: ErrorDetails) -> InvalidRequestError:
    kind, value, ctx = item["type"], item["input"], item.get("ctx", {})
    if kind == "json_invalid":
        return InvalidRequestError(
            "We could not parse the JSON body of your request: "
            f"{ctx.get('error', 'invalid JSON')}.",
            code="invalid_json",
        )
    if kind == "extra_forbidden":
        # The last part is a name of the client's, whatever it looks like.
        *parents, name = item["loc"]
        param = ".".join(filter(None, [_path(tuple(parents), more=True), str(name)]))[:MAX_PARAM]
        return _problem("unknown_parameter", param, f"Unknown parameter: '{param}'.")
    param = _path(item["loc"])[:MAX_PARAM]
    if kind == "value_error":
        return _problem("invalid_value", param or None, f"Invalid request: {ctx.get('error')}.")
    if not param:
        return _problem("invalid_type", None, "The request body must be a JSON object.")
    if kind == "none_required":
        return _problem(
            "unsupported_parameter",
            param,
            f"Unsupported parameter: '{param}' is not supported by this server.",
        )
    if kind == "missing":
        return _problem(
            "missing_required_parameter",
            param,
            f"Missing required parameter: '{param}'.",
        )
    if kind in _EXPECTED_TYPE:
        got = _JSON_TYPES.get(type(value), "something else")
        return _problem(
            "invalid_type",
            param,
            f"Invalid type for '{param}': expected {_EXPECTED_TYPE[kind]}, but got {got} instead.",
        )
    if kind in _BOUNDS:
        return _out_of_bounds(kind, param, value, ctx)
    if kind in _LENGTHS:
        return _wrong_length(kind, param, ctx)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _wrong_tag(kind, param, ctx)
    if kind == "literal_error":
        return _problem(
            "invalid_value",
            param,
            f"Invalid value for '{param}': {_shown(value)}. "
            f"Supported values are: {ctx.get('expected')}.",
        )
    return _problem("invalid_value", param, f"Invalid '{param}': {item['msg']}.")


def _wrong_tag(kind: str, param: str, ctx: dict[str, Any]) -> InvalidRequestError:
    """Objects of several kinds, told apart by one of their fields."""
    field = f"{param}.{str(ctx['discriminator']).strip(chr(39))}"
    if kind == "union_tag_not_found":
        return _problem(
            "missing_required_parameter", field, f"Missing required parameter: '{field}'."
        )
    return _problem(
        "invalid_value",
        field,
        f"Invalid value for '{field}': {_shown(ctx['tag'])}. "
        f"Supported values are: {ctx['expected_tags']}.",
    )


def _out_of_bounds(kind: str, param: str, value: Any, ctx: dict[str, Any]) -> InvalidRequestError:
    side, bound, sign, key = _BOUNDS[kind]
    noun = "integer" if isinstance(value, int) else "decimal"
    return _problem(
        f"{noun}_{side}_{bound}_value",
        param,
        f"Invalid '{param}': {noun} {side} {bound}imum value. "
        f"Expected a value {sign} {ctx[key]}, but got {_shown(value)} instead.",
    )


def _wrong_length(kind: str, param: str, ctx: dict[str, Any]) -> InvalidRequestError:
    noun, side, bound, words, key = _LENGTHS[kind]
    if noun == "array" and ctx[key] == 1 and side == "below":
        return _problem(
            "empty_array",
            param,
            f"Invalid '{param}': empty array. Expected an array with at least 1 element.",
        )
    return _problem(
        f"{noun}_{side}_{bound}_length",
        param,
        f"Invalid '{param}': expected {words} {ctx[key]} "
        f"{'elements' if noun == 'array' else 'characters'}.",
    )


def _problem(code: str, param: str | None, message: str) -> InvalidRequestError:
    return InvalidRequestError(message, code=code, param=param)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 64 else text[:61] + "..."


def _path(loc: tuple[int | str, ...], *, more: bool = False) -> str:
    """`('messages', 0, 'content', 'str')` → `messages[0].content`: union branches left out. `more`:
    a name is to follow."""
    path = ""
    for before, part, after in zip(
        (None, *loc), loc, (*loc[1:], "" if more else None), strict=False
    ):
        if isinstance(part, int):
            path += f"[{part}]"
        elif (isinstance(before, int) and part in _TAGS and after is not None) or (
            path and (not part.isidentifier() or part in _BRANCHES or part[0].isupper())
        ):
            continue
        else:
            path += f".{part}" if path else part
    return path


_BRANCHES = {"str", "int", "float", "bool", "list"}
# What tells the kinds of objects in an array apart stands behind their place in it.
_TAGS = {
    *("system", "developer", "user", "assistant", "tool"),
    *("text", "thinking", "redacted_thinking", "tool_use", "tool_result"),
    *("file_citation", "url_citation", "container_file_citation", "file_path"),
}
