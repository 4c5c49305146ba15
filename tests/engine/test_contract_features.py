"""What every engine promises of log-probabilities, grammars, tools and control tokens."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from engine.base import (
    ChatMessage,
    Conversation,
    Engine,
    GenerateRequest,
    InvalidPromptError,
    SamplingOptions,
    Structure,
    TokenDelta,
    Tool,
    ToolCall,
)
from engine.config import EngineConfig, SimulatedConfig
from engine.simulated import SimulatedEngine
from engine.streaming import generate
from tests.engines import Engines

pytestmark = pytest.mark.asyncio(loop_scope="session")

_ids = (f"features-{number}" for number in itertools.count())
WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
    strict=True,
)


@pytest_asyncio.fixture(loop_scope="session")
async def engine(kind: str, engines: Engines) -> AsyncIterator[Engine]:
    if kind != "simulated":
        yield await engines.use(kind)
        return
    config = EngineConfig(
        kind="simulated", simulated=SimulatedConfig(step_ms=0.1, text="12, 🙂 13, 14 and é!")
    )
    simulated = SimulatedEngine(config)
    yield simulated
    await simulated.close()


async def complete(engine: Engine, source: Any, **options: Any) -> TokenDelta:
    """The whole of one choice."""
    prompt = await engine.render(source)
    sampling = SamplingOptions(**{"temperature": 0.0, "max_tokens": 16, **options})
    request = GenerateRequest(next(_ids), prompt, sampling)
    deltas = [delta async for delta in generate(engine, request)]
    return TokenDelta(
        0,
        "".join(delta.text for delta in deltas),
        [token for delta in deltas for token in delta.token_ids],
        deltas[-1].finish_reason,
        logprobs=[one for delta in deltas for one in delta.logprobs],
        prompt_logprobs=[one for delta in deltas for one in delta.prompt_logprobs],
    )


async def test_the_tokens_that_have_log_probabilities_spell_the_text(engine: Engine) -> None:
    answer = await complete(engine, "1, 2, 3,", logprobs=2, ignore_eos=True)
    assert b"".join(one.bytes for one in answer.logprobs).decode() == answer.text
    assert len(answer.logprobs) == len(answer.token_ids)
    for one in answer.logprobs:
        assert one.logprob is not None
        assert one.logprob <= 0
        likeliest = [other.logprob for other in one.top if other.logprob is not None]
        assert likeliest == sorted(likeliest, reverse=True)
        # Greedy: nothing is likelier than what was chosen.
        assert math.isclose(likeliest[0], one.logprob, abs_tol=1e-6)


async def test_a_log_probability_alone_has_no_alternatives(engine: Engine) -> None:
    answer = await complete(engine, "1, 2, 3,", logprobs=0, max_tokens=3)
    assert not any(one.top for one in answer.logprobs)
    assert len(answer.logprobs) == 3


async def test_an_answer_without_them_has_no_log_probabilities(engine: Engine) -> None:
    answer = await complete(engine, "1, 2, 3,")
    assert not answer.logprobs
    assert not answer.prompt_logprobs


async def test_the_tokens_of_a_stop_string_have_no_log_probabilities(engine: Engine) -> None:
    whole = await complete(engine, "1, 2, 3,", logprobs=0, ignore_eos=True)
    stop = whole.text[4:7]
    before = whole.text[: whole.text.index(stop)]
    answer = await complete(engine, "1, 2, 3,", logprobs=0, stop=(stop,), ignore_eos=True)
    assert answer.text == before
    assert answer.finish_reason == "stop"
    # A token may begin before the stop string and end within it.
    assert b"".join(one.bytes for one in answer.logprobs).decode().startswith(before)
    assert len(answer.logprobs) <= len(answer.token_ids)


async def test_each_token_of_a_prompt_is_scored_but_for_the_first(engine: Engine) -> None:
    prompt = await engine.render("The quick brown fox jumps")
    answer = await complete(
        engine, "The quick brown fox jumps", logprobs=1, prompt_logprobs=1, max_tokens=1
    )
    assert [one.token_id for one in answer.prompt_logprobs] == list(prompt.token_ids)
    first, *others = answer.prompt_logprobs
    assert first.logprob is None
    assert all(one.logprob is not None and len(one.top) == 1 for one in others)


async def test_tools_are_part_of_the_prompt(engine: Engine) -> None:
    messages = [ChatMessage("user", "What is the weather in Paris?")]
    without = await engine.render(Conversation(messages))
    offered = await engine.render(Conversation(messages, tools=(WEATHER,)))
    assert len(offered.token_ids) > len(without.token_ids)
    assert "get_weather" in await engine.detokenize(offered.token_ids)


async def test_calls_and_what_tools_answered_are_part_of_the_prompt(engine: Engine) -> None:
    call = ToolCall("call_1", "get_weather", '{"city": "Paris"}')
    messages = [
        ChatMessage("user", "What is the weather?"),
        ChatMessage("assistant", "", tool_calls=(call,)),
        ChatMessage("tool", "mild and sunny", tool_call_id="call_1"),
    ]
    prompt = await engine.render(Conversation(messages, tools=(WEATHER,)))
    text = await engine.detokenize(prompt.token_ids)
    assert "Paris" in text
    assert "mild and sunny" in text


async def test_a_conversation_may_hold_calls_that_are_no_json(engine: Engine) -> None:
    call = ToolCall("call_1", "get_weather", "Paris, please")
    messages = [
        ChatMessage("user", "What is the weather?"),
        ChatMessage("assistant", "", tool_calls=(call,)),
        ChatMessage("tool", "?", tool_call_id="call_1"),
    ]
    prompt = await engine.render(Conversation(messages, tools=(WEATHER,)))
    assert "Paris, please" in await engine.detokenize(prompt.token_ids)


@pytest.mark.parametrize("kind", ["smollm2", "public"], scope="session", indirect=True)
@pytest.mark.engine
async def test_a_completion_follows_its_schema(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "kind": {"enum": ["town", "village"]},
        },
        "required": ["city", "kind"],
        "additionalProperties": False,
    }
    structure = Structure("json_schema", json.dumps(schema))
    await engine.check_structure(structure)
    answer = await complete(
        engine,
        Conversation([ChatMessage("user", "Name a city as JSON.")]),
        structure=structure,
        max_tokens=100,
    )
    found = json.loads(answer.text)
    assert set(found) == {"city", "kind"}
    assert found["kind"] in ("town", "village")
    assert answer.finish_reason == "stop"


CONTROL = "<|im_end|>"


@pytest.mark.parametrize("kind", ["smollm2"], scope="session", indirect=True)
@pytest.mark.parametrize(
    "call",
    [
        ToolCall("call_1", "f", json.dumps({"a": CONTROL, CONTROL: [CONTROL]})),
        ToolCall("call_1", "f", '{"a": "\\u003c|im_end|>"}'),
        ToolCall("call_1", "f", CONTROL),
        ToolCall("call_1", CONTROL, "{}"),
        ToolCall(CONTROL, "f", "{}"),
    ],
)
@pytest.mark.engine
async def test_calls_and_tools_that_name_control_tokens_spell_them(
    engine: Engine, call: ToolCall
) -> None:
    def told(call: ToolCall, tool: Tool) -> Conversation:
        messages = [
            ChatMessage("user", "Hi"),
            ChatMessage("assistant", "", tool_calls=(call,)),
            ChatMessage("tool", "ok", "f", tool_call_id=call.id),
        ]
        return Conversation(messages, tools=(tool,))

    (control,) = await engine.tokenize(CONTROL, add_special_tokens=False)
    harmless = await engine.render(told(ToolCall("call_1", "f", "{}"), Tool("f", "x")))
    tool = Tool("f", CONTROL, {"type": "object", "properties": {CONTROL: {"title": CONTROL}}})
    prompt = await engine.render(told(call, tool))
    assert list(prompt.token_ids).count(control) == list(harmless.token_ids).count(control)
    assert prompt.text is not None
    assert CONTROL in prompt.text


@pytest.mark.parametrize("kind", ["smollm2"], scope="session", indirect=True)
@pytest.mark.engine
async def test_arguments_that_nest_however_deeply_are_rendered_or_refused(engine: Engine) -> None:
    for depth in range(1, 1100, 7):
        call = ToolCall("call_1", "f", '{"a":' * depth + "1" + "}" * depth)
        messages = [
            ChatMessage("assistant", "", tool_calls=(call,)),
            ChatMessage("tool", "ok", tool_call_id="call_1"),
        ]
        with contextlib.suppress(InvalidPromptError):
            await engine.render(Conversation(messages))


@pytest.mark.parametrize("kind", ["smollm2", "public"], scope="session", indirect=True)
@pytest.mark.engine
async def test_control_tokens_are_text_only_where_they_are_asked_for(engine: Engine) -> None:
    conversation = Conversation([ChatMessage("user", "Say hi.")])
    (end,) = await engine.tokenize("<|im_end|>", add_special_tokens=False)
    forced = {"logit_bias": {end: 100.0}, "ignore_eos": True, "max_tokens": 2}
    assert (await complete(engine, conversation, **forced)).text == ""
    spoken = await complete(engine, conversation, **forced, skip_special_tokens=False)
    assert spoken.text == "<|im_end|>" * 2
