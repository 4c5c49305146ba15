"""openai: chat completions, with every helper the SDK has for them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion
from shapes import ASK_PERSON, WEATHER_TOOL, Person, Weather
from target import TARGET

JAPAN: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


def ask(client: OpenAI, **fields: Any) -> ChatCompletion:
    fields = {"messages": JAPAN, "max_completion_tokens": 16, "temperature": 0, **fields}
    return client.chat.completions.create(model=TARGET.model, **fields)


def test_a_completion_is_whole(client: OpenAI) -> None:
    answer = ask(client, max_completion_tokens=40)
    (choice,) = answer.choices
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", TARGET.model)
    assert answer.created > 1_700_000_000
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert "Tokyo" in (choice.message.content or "")
    assert choice.message.role == "assistant"
    assert choice.message.tool_calls is None
    assert choice.message.refusal is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.completion_tokens_details is not None


def test_a_completion_stops_at_its_limit(client: OpenAI) -> None:
    answer = ask(client, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert ask(client, max_completion_tokens=None, max_tokens=3).choices[0].message == (
        answer.choices[0].message
    )


def test_a_stream_adds_up_to_the_whole_answer(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=TARGET.model,
            messages=JAPAN,
            temperature=0,
            max_completion_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *parts, last = chunks
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert parts[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in parts][-1] == "stop"
    assert all(chunk.choices[0].finish_reason is None for chunk in parts[:-1])
    assert all(chunk.usage is None for chunk in parts)
    assert last.choices == []
    whole = ask(client, max_completion_tokens=40)
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    text = "".join(chunk.choices[0].delta.content or "" for chunk in parts)
    assert text == whole.choices[0].message.content


def test_a_stream_without_usage_has_no_chunk_without_choices(client: OpenAI) -> None:
    chunks = client.chat.completions.create(
        model=TARGET.model, messages=JAPAN, max_completion_tokens=4, stream=True
    )
    assert all(len(chunk.choices) == 1 for chunk in chunks)


def test_the_stream_helper_tells_of_content(client: OpenAI) -> None:
    kinds, text = [], ""
    with client.chat.completions.stream(
        model=TARGET.model,
        messages=JAPAN,
        temperature=0,
        max_completion_tokens=40,
        stream_options={"include_usage": True},
    ) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "content.delta":
                text += event.delta
                assert event.snapshot == text
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)
    assert final.choices[0].message.content == text
    assert final.usage is not None


async def test_the_async_client_streams(async_client: AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(
        model=TARGET.model, messages=JAPAN, max_completion_tokens=4, stream=True
    )
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"


def test_a_stream_can_be_closed_midway(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=TARGET.model, messages=JAPAN, max_completion_tokens=200, stream=True
    )
    next(iter(stream))
    stream.close()
    assert ask(client).choices


def test_parse_gives_what_the_schema_describes(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=TARGET.model,
        messages=[{"role": "user", "content": ASK_PERSON}],
        response_format=Person,
        temperature=0,
        max_completion_tokens=100,
    )
    message = answer.choices[0].message
    assert isinstance(message.parsed, Person)
    assert Person.model_validate_json(message.content or "") == message.parsed


def test_the_stream_helper_parses(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=TARGET.model,
        messages=[{"role": "user", "content": ASK_PERSON}],
        response_format=Person,
        temperature=0,
        max_completion_tokens=100,
    ) as stream:
        done = [event for event in stream if event.type == "content.done"]
        final = stream.get_final_completion()
    assert isinstance(done[0].parsed, Person)
    assert final.choices[0].message.parsed == done[0].parsed


def test_parse_gives_the_arguments_of_a_pydantic_tool(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=TARGET.model,
        messages=WEATHER,
        tools=[openai.pydantic_function_tool(Weather)],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_completion_tokens=100,
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)


def test_a_cut_off_structure_is_the_sdks_length_error(client: OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model=TARGET.model,
            messages=[{"role": "user", "content": ASK_PERSON}],
            response_format=Person,
            max_completion_tokens=2,
        )


def test_json_mode_gives_an_object(client: OpenAI) -> None:
    answer = ask(
        client,
        messages=[{"role": "user", "content": 'Answer with the JSON {"ok": true}, no more.'}],
        response_format={"type": "json_object"},
        max_completion_tokens=200,
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_a_forced_call_has_an_id_a_name_and_json_arguments(client: OpenAI, choice: Any) -> None:
    answer = ask(
        client,
        messages=WEATHER,
        tools=[WEATHER_TOOL],
        tool_choice=choice,
        parallel_tool_calls=False,
        max_completion_tokens=100,
    )
    message = answer.choices[0].message
    assert message.content is None
    (call,) = message.tool_calls or []
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city", "days"}
    assert answer.choices[0].finish_reason in {"tool_calls", "stop"}


def test_streamed_arguments_add_up(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=TARGET.model,
        messages=WEATHER,
        tools=[WEATHER_TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_completion_tokens=100,
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    (done,) = [one for one in events if one.type == "tool_calls.function.arguments.done"]
    told = "".join(
        one.arguments_delta for one in events if one.type == "tool_calls.function.arguments.delta"
    )
    assert done.name == "get_weather"
    assert told == done.arguments
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.function.arguments, call.id != "") == (told, True)
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_tools_result_is_taken_back(client: OpenAI) -> None:
    offered: Any = {"tools": [WEATHER_TOOL], "max_completion_tokens": 100}
    first = ask(
        client, messages=WEATHER, tool_choice=NAMED, parallel_tool_calls=False, **offered
    ).choices[0]
    (call,) = first.message.tool_calls or []
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "It is sunny."}
    last = ask(client, messages=[*WEATHER, first.message, result], tool_choice="none", **offered)
    assert last.choices[0].message.content
    assert last.choices[0].message.tool_calls is None


def test_the_model_may_choose_among_allowed_tools_or_none(client: OpenAI) -> None:
    other = json.loads(json.dumps(WEATHER_TOOL).replace("get_weather", "other"))
    allowed: Any = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "other"}}],
        },
    }
    fields: Any = {"messages": WEATHER, "tools": [WEATHER_TOOL, other]}
    answer = ask(
        client,
        tool_choice=allowed,
        parallel_tool_calls=False,
        max_completion_tokens=100,
        **fields,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.name == "other"
    assert ask(client, tool_choice="none", **fields).choices[0].message.tool_calls is None
    free = ask(client, tool_choice="auto", **fields).choices[0].message
    assert free.content or free.tool_calls


def test_several_choices_come_with_their_index(client: OpenAI) -> None:
    answer = ask(client, n=3, temperature=1, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_a_seed_repeats_an_answer(client: OpenAI) -> None:
    fields: Any = {"temperature": 1, "seed": 11}
    assert ask(client, **fields).choices[0].message == ask(client, **fields).choices[0].message


@pytest.mark.parametrize("stop", ["Japan", ["Japan", "never"]])
def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(client: OpenAI, stop: Any) -> None:
    (choice,) = ask(client, stop=stop).choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == "The capital of "


def test_logprobs_tell_of_every_token(client: OpenAI) -> None:
    answer = ask(client, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert answer.usage is not None
    assert len(tokens) in {answer.usage.completion_tokens, answer.usage.completion_tokens - 1}
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
    spelt = b"".join(bytes(token.bytes or []) for token in tokens)
    assert spelt.decode().startswith(choice.message.content or "")


def test_a_banned_token_does_not_come(client: OpenAI) -> None:
    first = (ask(client, logprobs=True).choices[0].message.content or "").split()[0]
    tokens = client.post(
        TARGET.root + "/tokenize",
        body={"model": TARGET.model, "prompt": first, "add_special_tokens": False},
        cast_to=object,
    )
    banned = str(tokens["tokens"][0])  # type: ignore[index]
    content = ask(client, logit_bias={banned: -100}).choices[0].message.content or ""
    assert not content.startswith(first)


def test_messages_of_every_role_and_content_in_parts(client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "name": "ann", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
    ]
    assert ask(client, messages=messages).choices[0].message.content


def test_every_answer_has_a_request_id(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=TARGET.model, messages=JAPAN, max_completion_tokens=1
    )
    parsed = raw.parse()
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.headers["x-request-id"] == parsed._request_id != ""
    assert float(raw.headers["openai-processing-ms"]) >= 0


def test_an_unprocessed_stream_is_server_sent_events(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=TARGET.model, messages=JAPAN, max_completion_tokens=2, stream=True
    ) as raw:
        lines = [line for line in raw.iter_lines() if line]
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
