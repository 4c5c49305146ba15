"""What vLLM's parsers make of texts that may be calls, and of a tokenizer's tags."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from engine import vllm_start

if TYPE_CHECKING:
    from engine.vllm_tools import VLLMToolSyntax

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def hermes() -> VLLMToolSyntax:
    vllm_start.import_vllm()
    from engine.vllm_tools import syntax_of

    found = syntax_of("hermes", None, tokenizer())
    assert found is not None
    return found


def tokenizer(special: Sequence[str] = ()) -> Any:
    """As much of one as the parsers ask for."""
    tags = {"<think>": 1, "</think>": 2}
    return SimpleNamespace(
        all_special_tokens=list(special),
        get_vocab=lambda: tags,
        encode=lambda text, **_: [tags[text]],
    )


def call(name: str, arguments: str) -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


def test_arguments_can_be_encoded_whatever_the_model_escapes(hermes: VLLMToolSyntax) -> None:
    for written in (r'{"x": "\ud83d"}', r'"{\"x\": \"\ud83d\"}"'):
        ((_, arguments),) = hermes.calls(call("f", written))
        assert json.loads(arguments.encode()) == {"x": "\ud83d"}
    assert hermes.calls(call("f", '{"x": "☀"}')) == [("f", '{"x": "☀"}')]


def test_a_name_may_be_as_long_as_that_of_a_tool(hermes: VLLMToolSyntax) -> None:
    assert hermes.calls(call("f" * 128, "{}")) == [("f" * 128, "{}")]
    assert hermes.calls(call("f" * 129, "{}")) == ()


def test_of_what_can_not_be_read_there_is_no_traceback(
    hermes: VLLMToolSyntax, caplog: pytest.LogCaptureFixture
) -> None:
    parsers = logging.getLogger("vllm.tool_parsers.hermes_tool_parser")
    parsers.addHandler(caplog.handler)
    try:
        for text in ("<tool_call></tool_call>", "<tool_call>{</tool_call>"):
            assert hermes.calls(text) == ()
    finally:
        parsers.removeHandler(caplog.handler)
    assert not caplog.records


def test_tags_are_known_for_special_tokens(hermes: VLLMToolSyntax) -> None:
    from engine.vllm_tools import reasoning_of

    for special in ((), ("<think>",), ("</think>",)):
        tags = reasoning_of("deepseek_r1", tokenizer(special))
        assert tags is not None
        assert tags.special is bool(special)
