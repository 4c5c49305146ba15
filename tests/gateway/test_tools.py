"""Tool calls, as clients of the OpenAI API see them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base import InvalidPromptError, Tool
from engine.scripted import SCRIPTED_CALLS, ScriptedCalls
from engine.structure import check_tool_parameters
from engine.tools import (
    MAX_BROKEN,
    CallArguments,
    CallBegun,
    FreeCalls,
    NamedCall,
    Piece,
    RequiredCalls,
    named_structure,
)
from gateway.protocol import response_parts
from gateway.protocol.responses import CreateResponse
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("weather", "time")
]
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich ☀"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


async def speaking(start: StartGateway, text: str) -> LiveGateway:
    overrides = {"engine.simulated.text": text, "engine.simulated.step_ms": 0}
    return await start(**overrides)


def calls_of(message: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]


async def streamed(gateway: LiveGateway, **fields: Any) -> tuple[Any, list[Any]]:
    """The message the SDK puts together, with its finish reason, and all chunks."""
    async with gateway.openai.chat.completions.stream(
        model=MODEL, messages=QUESTION, **fields
    ) as stream:
        chunks = [event.chunk async for event in stream if event.type == "chunk"]
        completion = await stream.get_final_completion()
    return completion.choices[0], chunks


ANSWERS = [
    (CALL, None, [("weather", '{"city": "Z\\u00fcrich \\u2600"}')]),
    (f"Let me see.\n{CALL}", "Let me see.\n", [("weather", '{"city": "Z\\u00fcrich \\u2600"}')]),
    (f"{CALL}\n{OTHER}", None, [("weather", '{"city": "Z\\u00fcrich \\u2600"}'), ("time", "{}")]),
    ("<tool_call>not JSON</tool_call>", "<tool_call>not JSON</tool_call>", []),
    ("a <tool_call> that never ends", "a <tool_call> that never ends", []),
    ("2 < 3 <tool", "2 < 3 <tool", []),
]


@pytest.mark.parametrize(("text", "content", "calls"), ANSWERS)
async def test_calls_a_model_writes_are_told_whole_and_streamed_alike(
    start_gateway: StartGateway, text: str, content: str | None, calls: list[tuple[str, str]]
) -> None:
    gateway = await speaking(start_gateway, text)
    whole = (
        await gateway.openai.chat.completions.create(model=MODEL, messages=QUESTION, tools=TOOLS)
    ).choices[0]
    choice, _ = await streamed(gateway, tools=TOOLS)
    for found in (whole, choice):
        assert found.message.content == content
        assert calls_of(found.message) == calls
        assert found.finish_reason == ("tool_calls" if calls else "stop")


async def test_ids_of_calls_differ_and_are_repeated_by_nobody(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, CALL + OTHER)
    answer = await gateway.openai.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=TOOLS, n=3
    )
    ids = [call.id for choice in answer.choices for call in choice.message.tool_calls or ()]
    assert len(set(ids)) == 6
    assert all(name.startswith("call_") for name in ids)


async def test_without_tools_what_looks_like_a_call_is_text(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, CALL)
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = await gateway.openai.chat.completions.create(
            model=MODEL, messages=QUESTION, **fields
        )
        assert answer.choices[0].message.content == CALL
        assert answer.choices[0].finish_reason == "stop"


async def test_a_call_that_is_cut_off_is_no_call(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, CALL)
    answer = await gateway.openai.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=TOOLS, max_tokens=20
    )
    assert answer.choices[0].finish_reason == "length"
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].message.content == CALL[:20]


NAMED: Any = {"type": "function", "function": {"name": "weather"}}
FORCED = [
    (NAMED, '{"city": "Paris"}', [("weather", '{"city": "Paris"}')]),
    (
        "required",
        '[{"name": "weather", "parameters": {"a": "}]\\"", "b": [{}]}}, '
        '{"name": "time", "parameters": {}}]',
        [("weather", '{"a": "}]\\"", "b": [{}]}'), ("time", "{}")],
    ),
]


@pytest.mark.parametrize(("choice", "text", "calls"), FORCED, ids=["named", "required"])
async def test_forced_calls_are_told_whole_and_streamed_alike(
    start_gateway: StartGateway, choice: Any, text: str, calls: list[tuple[str, str]]
) -> None:
    gateway = await speaking(start_gateway, text)
    fields: Any = {"tools": TOOLS, "tool_choice": choice}
    whole = (
        await gateway.openai.chat.completions.create(model=MODEL, messages=QUESTION, **fields)
    ).choices[0]
    found, chunks = await streamed(gateway, **fields)
    for one in (whole, found):
        assert one.message.content is None
        assert calls_of(one.message) == calls
        assert one.finish_reason == "tool_calls"
    told = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices]
    # Arguments come as they are generated.
    assert sum(1 for calls in told if calls) > 2


async def test_the_answers_of_tools_can_be_sent_back(start_gateway: StartGateway) -> None:
    gateway = await speaking(start_gateway, CALL)
    first = await gateway.openai.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=TOOLS
    )
    message = first.choices[0].message
    assert message.tool_calls
    history = [
        *QUESTION,
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"},
    ]
    second = await gateway.openai.chat.completions.create(
        model=MODEL, messages=history, tools=TOOLS
    )
    assert second.choices


async def test_log_probabilities_of_a_call_come_whole_and_streamed_alike(
    start_gateway: StartGateway,
) -> None:
    gateway = await speaking(start_gateway, f"Hm. {CALL}")
    fields: Any = {"tools": TOOLS, "logprobs": True, "top_logprobs": 1}
    whole = await gateway.openai.chat.completions.create(model=MODEL, messages=QUESTION, **fields)
    _, chunks = await streamed(gateway, **fields)
    told = [
        entry
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs is not None
        for entry in choice.logprobs.content or ()
    ]
    assert whole.choices[0].logprobs
    assert told == whole.choices[0].logprobs.content
    assert bytes(byte for entry in told for byte in entry.bytes or ()).decode() == f"Hm. {CALL}"


pieces_of = st.lists(
    st.sampled_from([CALL, OTHER, "<tool_call>", "</tool_call>", " ", "\n", "words", "<tool"]),
    max_size=6,
).map("".join)


def joined(pieces: list[Piece]) -> list[Any]:
    """Pieces as if they had come at once."""
    found: list[Any] = []
    for piece in pieces:
        if found and isinstance(piece, str) and isinstance(found[-1], str):
            found[-1] += piece
        elif found and isinstance(piece, CallArguments) and isinstance(found[-1], CallArguments):
            found[-1] = CallArguments(found[-1].text + piece.text)
        else:
            found.append(piece)
    return found


def read(finder: Any, text: str, cuts: list[int]) -> list[Any]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(places)]
    found = [piece for part in parts for piece in finder.push(part)]
    return joined([*found, *finder.finish()])


@given(pieces_of, st.lists(st.integers(0, 1000), max_size=8))
def test_where_a_text_is_cut_changes_nothing_of_its_calls(text: str, cuts: list[int]) -> None:
    assert read(FreeCalls(SCRIPTED_CALLS), text, cuts) == read(FreeCalls(SCRIPTED_CALLS), text, [])


json_objects = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=5,
    ),
    max_size=3,
)


@given(
    st.lists(st.tuples(st.sampled_from(["weather", "time"]), json_objects), min_size=1, max_size=4),
    st.lists(st.integers(0, 1000), max_size=8),
    st.sampled_from([None, 1]),
)
def test_required_calls_are_read_wherever_their_text_is_cut(
    calls: list[tuple[str, dict[str, Any]]], cuts: list[int], indent: int | None
) -> None:
    written = [{"name": name, "parameters": arguments} for name, arguments in calls]
    found = read(RequiredCalls(), json.dumps(written, indent=indent), cuts)
    assert [piece.name for piece in found[::2]] == [name for name, _ in calls]
    assert [json.loads(piece.text) for piece in found[1::2]] == [args for _, args in calls]


def test_a_named_call_of_no_text_is_none() -> None:
    assert read(NamedCall("weather"), "", []) == []
    assert read(NamedCall("weather"), "{}", [1]) == [CallBegun("weather"), CallArguments("{}")]


def test_what_is_held_for_long_is_looked_at_once() -> None:
    finder = FreeCalls(SCRIPTED_CALLS)
    pieces = 200_000
    found = [piece for _ in range(pieces) for piece in finder.push(" \n")]
    found += finder.push('<tool_call>{"name": "time", "arguments": {"at": "')
    found += [piece for _ in range(pieces) for piece in finder.push("</tool>")]
    found += finder.push('"}}</tool_call>')
    assert found == [CallBegun("time"), CallArguments(json.dumps({"at": "</tool>" * pieces}))]


class Calling(ScriptedCalls):
    """Takes anything for a call, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def calls(self, text: str) -> Sequence[tuple[str, str]]:
        self.asked += 1
        return [("time", "{}")]


def test_many_calls_in_one_piece_are_each_looked_at_once() -> None:
    syntax, number = Calling(), 200_000
    finder = FreeCalls(syntax)
    found = [*finder.push(f"{OTHER}\n" * number), *finder.finish()]
    assert found == [CallBegun("time"), CallArguments("{}")] * number
    assert syntax.asked == number


@given(pieces_of, st.lists(st.integers(0, 1000), max_size=8))
def test_a_call_of_what_is_not_offered_is_content(text: str, cuts: list[int]) -> None:
    found = read(FreeCalls(SCRIPTED_CALLS, names={"time"}), text, cuts)
    told = [piece.name for piece in found if isinstance(piece, CallBegun)]
    every = read(FreeCalls(SCRIPTED_CALLS), text, [])
    begun = [piece.name for piece in every if isinstance(piece, CallBegun)]
    assert told == [name for name in begun if name == "time"]
    content = "".join(piece for piece in found if isinstance(piece, str))
    assert content.count(CALL) == text.count(CALL)


@pytest.mark.parametrize("cuts", [[], list(range(0, 4000, 7))])
def test_after_many_broken_calls_the_rest_is_content(cuts: list[int]) -> None:
    broken = "<tool_call>{</tool_call>" * MAX_BROKEN
    finder = FreeCalls(SCRIPTED_CALLS)
    assert read(finder, f"{broken}{CALL} <tool_call>", cuts) == [f"{broken}{CALL} <tool_call>"]
    fewer = broken.removeprefix("<tool_call>{</tool_call>")
    assert CallBegun("weather") in read(FreeCalls(SCRIPTED_CALLS), f"{fewer}{CALL}", cuts)


def test_tools_that_are_too_large_are_refused_before_it_is_asked_what_can_be_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def counted(tool: Tool, param: str) -> int:
        asked.append(tool.name)
        return check_tool_parameters(tool, param)

    monkeypatch.setattr(response_parts, "check_tool_parameters", counted)
    schema = {"type": "object", "properties": {str(number): {} for number in range(3000)}}
    tools = [{"type": "function", "name": f"f{n}", "parameters": schema} for n in range(8)]
    with pytest.raises(InvalidPromptError, match="subschemas together"):
        _ = CreateResponse.model_validate({"model": MODEL, "tools": tools}).offered_tools
    assert asked == []
    body = CreateResponse.model_validate({"model": MODEL, "tools": tools[:2]})
    assert [tool.strict for tool in body.offered_tools] == [False, False]
    assert asked == ["f0", "f1"]


async def test_only_one_call_is_told_where_parallel_ones_are_unwanted(
    start_gateway: StartGateway,
) -> None:
    gateway = await speaking(start_gateway, f"{CALL}\n{OTHER}")
    fields: Any = {"tools": TOOLS, "parallel_tool_calls": False}
    whole = await gateway.openai.chat.completions.create(model=MODEL, messages=QUESTION, **fields)
    choice, _ = await streamed(gateway, **fields)
    for found in (whole.choices[0], choice):
        assert [name for name, _ in calls_of(found.message)] == ["weather"]
        assert found.message.content is None


async def test_a_tools_answer_may_name_the_function(gateway: LiveGateway) -> None:
    function = {"name": "time", "arguments": "{}"}
    call = {"id": "call_1", "type": "function", "function": function}
    answer = {"role": "tool", "tool_call_id": "call_1", "name": "time", "content": "noon"}
    history = [*QUESTION, {"role": "assistant", "tool_calls": [call]}, answer]
    status, _ = await gateway.chat(messages=history, tools=TOOLS)
    assert status == 200


async def test_the_schemas_of_all_tools_together_are_limited(gateway: LiveGateway) -> None:
    schema = {"type": "object", "properties": {"a": {"anyOf": [{}] * 3000}}}
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": schema}}
        for number in range(8)
    ]
    status, answer = await gateway.chat(tools=tools)
    assert (status, answer["error"]["param"]) == (400, "tools")
    status, _ = await gateway.chat(tools=tools[:2])
    assert status == 200


def test_arguments_are_an_object_also_where_their_schema_says_nothing_of_it() -> None:
    structure = named_structure(Tool("f", parameters={"description": "what it takes"}))
    assert json.loads(structure.text)["type"] == "object"
    recursive = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}
    assert json.loads(named_structure(Tool("f", parameters=recursive)).text) == recursive
