"""vLLM's parsers of tool calls and of reasoning, by the names its documentation gives them.

Only their readers of whole texts are used: what they read piece by piece may differ from it. How
a completion is cut into texts that may be calls is `engine.tools`' matter.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

import vllm.tool_parsers  # noqa: F401  (registers the parsers)
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers.abstract_tool_parser import ToolParserManager
from vllm.tool_parsers.structural_tag_registry import limit_to_single_tool_call
from vllm.tool_parsers.tool_strict_level import ToolStrictLevel
from xgrammar import StructuralTag
from xgrammar.structural_tag import JSONSchemaFormat, OrFormat

from engine.base import EngineStartError, Structure, Tool
from engine.reasoning import ReasoningTags

logger = logging.getLogger(__name__)

# What a call begins with, whether only as the answer's first text, and what ends a single one.
# Of a parser that isn't listed any text may be a call, until the answer is whole.
_WHERE: Final[dict[str, tuple[tuple[str, ...], bool, str | None]]] = {
    "hermes": (("<tool_call>",), False, "</tool_call>"),
    "mistral": (("[TOOL_CALLS]",), False, None),
    "llama3_json": (("<|python_tag|>", "{"), True, None),
    "llama4_json": (("<|python_tag|>", "{"), True, None),
    "pythonic": (("[",), True, None),
    "llama4_pythonic": (("[", "<|python_start|>"), True, None),
}
_ANYWHERE: Final = (("",), True, None)
_SPACES: Final = 2
# What vLLM's own expression, which takes time by the square of a text's length, can match at all.
_PYTHONIC: Final = re.compile(r"(?:<\|python_start\|>)?\[[a-zA-Z]\w*\(")
# No tool's name is longer, so nothing longer is one.
MAX_NAME: Final = 128
# What a chat template says of the syntax it teaches; the first that fits.
_TAUGHT: Final = (
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama3_json"),
)


def syntax_of(parser: str, template: str | None, tokenizer: Any) -> VLLMToolSyntax | None:
    """The syntax named `parser`; for `auto` the one the chat template teaches, for `off` none.

    Raises EngineStartError: vLLM has no such parser, or it can't be used with this tokenizer.
    """
    if parser == "off":
        return None
    if parser != "auto":
        return _open(parser, tokenizer)
    taught = (name for mark, name in _TAUGHT if template is not None and mark in template)
    name = next(taught, None)
    try:
        return _open(name, tokenizer) if name is not None else None
    except EngineStartError as error:
        logger.warning("no tool calls of the model's own: %s", error)
        return None


def _open(name: str, tokenizer: Any) -> VLLMToolSyntax:
    try:
        parser = ToolParserManager.get_tool_parser(name)
    except KeyError:
        known = ", ".join(ToolParserManager.list_registered())
        raise EngineStartError(
            f"engine.tool_parser: vLLM has no tool parser {name!r}; it has {known}"
        ) from None
    try:
        return VLLMToolSyntax(name, parser, tokenizer)
    except Exception as error:
        raise EngineStartError(
            f"engine.tool_parser: {name!r} doesn't work with this model's tokenizer: {error}"
        ) from error


class VLLMToolSyntax:
    """Implements `engine.tools.ToolSyntax` with one of vLLM's parsers."""

    def __init__(self, name: str, parser: Any, tokenizer: Any) -> None:
        self.name = name
        self.starts, self.leads, self.end = _WHERE.get(name, _ANYWHERE)
        self._parser = parser
        self._tokenizer = tokenizer
        special = set(tokenizer.all_special_tokens)
        self.spoken = name not in _WHERE or any(start in special for start in self.starts)
        parser(tokenizer, None)  # complains where the tokenizer lacks what it needs
        # From here on parsers would log a traceback of each text they can't read, and one answer
        # may hold thousands of those.
        logging.getLogger("vllm.tool_parsers").setLevel(logging.CRITICAL)

    def calls(self, text: str) -> Sequence[tuple[str, str]]:
        if self.name == "hermes" and "{" not in text:
            return ()
        if self.leads and self.name.endswith("pythonic") and not _PYTHONIC.match(text):
            return ()
        # It keeps the state of one answer, and reads only the tools of the request.
        request = SimpleNamespace(tools=None, tool_choice="auto")
        try:
            found = self._parser(self._tokenizer, None).extract_tool_calls(text, request)
        except Exception as error:  # what a model wrote must not fail its answer
            logger.warning("the tool parser %s failed: %s", self.name, type(error).__name__)
            return ()
        calls = [(call.function.name, call.function.arguments) for call in found.tool_calls]
        arguments = [_object(text) for _, text in calls]
        named = all(0 < len(name) <= MAX_NAME for name, _ in calls)
        if not found.tools_called or None in arguments or not named:
            return ()
        return [
            (name, text)
            for (name, _), text in zip(calls, arguments, strict=True)
            if text is not None
        ]

    def structure(
        self, tools: Sequence[Tool], *, parallel: bool, otherwise: Structure | None = None
    ) -> Structure | None:
        if otherwise is None and parallel and not any(tool.strict for tool in tools):
            return None
        tag = self._tag(tools, "auto" if otherwise is None else "required")
        if tag is None:
            return otherwise
        if not parallel:
            tag = limit_to_single_tool_call(tag)
        if otherwise is not None:
            schema = json.loads(otherwise.text) if otherwise.text else {"type": "object"}
            answer = JSONSchemaFormat(json_schema=schema)
            tag = StructuralTag(format=OrFormat(elements=[answer, tag.format]))
        return Structure("structural_tag", json.dumps(_compact(tag.model_dump())), "tools")

    def _tag(self, tools: Sequence[Tool], choice: str) -> StructuralTag | None:
        params = [ChatCompletionToolsParam(type="function", function=_function(t)) for t in tools]
        request = SimpleNamespace(tools=params, tool_choice=choice)
        tag: StructuralTag | None = self._parser(self._tokenizer, None).get_structural_tag(
            request, strict_level=ToolStrictLevel.FUNCTION
        )
        return tag


def _compact(tag: Any) -> Any:
    """JSON within a tag has little space between its parts: small models would go on with it."""
    if isinstance(tag, list):
        return [_compact(each) for each in tag]
    if not isinstance(tag, dict):
        return tag
    if tag.get("type") == "json_schema" and "json_schema" in tag:
        return {**tag, "max_whitespace_cnt": _SPACES}
    return {key: _compact(value) for key, value in tag.items()}


def _function(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
        "strict": tool.strict,
    }


def _object(arguments: str) -> str | None:
    """`arguments` as an object's JSON text, which can be encoded: some models write it as a string
    within."""
    try:
        value = json.loads(arguments)
        if isinstance(value, str):
            arguments, value = value, json.loads(value)
        arguments = _encodable(arguments, value)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(value, dict) else None


def _encodable(text: str, value: Any) -> str:
    """`text`, the JSON of `value`. Half a surrogate pair, as parsers unescape it, is escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def reasoning_of(parser: str, tokenizer: Any) -> ReasoningTags | None:
    """The tags of vLLM's reasoning parser of that name; None for `off`.

    Raises EngineStartError: there is no such parser, or reasoning isn't between two tags.
    """
    if parser == "off":
        return None
    try:
        found = ReasoningParserManager.get_reasoning_parser(parser)(tokenizer)
    except KeyError:
        known = ", ".join(ReasoningParserManager.list_registered())
        raise EngineStartError(
            f"engine.reasoning_parser: vLLM has no reasoning parser {parser!r}; it has {known}"
        ) from None
    except Exception as error:
        raise EngineStartError(
            f"engine.reasoning_parser: {parser!r} doesn't work with this model's tokenizer: {error}"
        ) from error
    start, end = found.reasoning_start_str, found.reasoning_end_str
    if not start or not end:
        raise EngineStartError(
            f"engine.reasoning_parser: {parser!r} doesn't read reasoning between two tags, which "
            "is all that is supported"
        )
    ids = tokenizer.encode(end, add_special_tokens=False)
    special = not {start, end}.isdisjoint(tokenizer.all_special_tokens)
    return ReasoningTags(start, end, ids[0] if len(ids) == 1 else None, special)
