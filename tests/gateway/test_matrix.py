"""Streamed and whole answers of the real engine say the same, whatever is asked for together."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, LiveGateway

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": name, "description": f"Does {name}.", "parameters": PERSON},
    }
    for name in ("register", "greet")
]
NAMED: Any = {"type": "function", "function": {"name": "greet"}}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}
TOOL_CHOICES: dict[str, dict[str, Any]] = {
    "no tools": {},
    "auto": {"tools": TOOLS},
    "none": {"tools": TOOLS, "tool_choice": "none"},
    "required": {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
    "named": {"tools": TOOLS, "tool_choice": NAMED},
}
STRUCTURES: dict[str, dict[str, Any]] = {
    "text": {},
    "object": {"response_format": {"type": "json_object"}},
    "schema": {"response_format": FORMAT},
}
LOGPROBS: dict[str, dict[str, Any]] = {"": {}, "logprobs": {"logprobs": True, "top_logprobs": 2}}
STOPS: dict[str, dict[str, Any]] = {"": {}, "stop": {"stop": ['"name"', "Alice", " the "]}}
CHOICES: dict[str, dict[str, Any]] = {"one": {}, "three": {"n": 3}}


def combinations() -> list[Any]:
    axes = (TOOL_CHOICES, STRUCTURES, LOGPROBS, STOPS, CHOICES)
    return [
        pytest.param(
            {
                key: value
                for axis, name in zip(axes, names, strict=True)
                for key, value in axis[name].items()
            },
            id="-".join(filter(None, names)),
        )
        for names in itertools.product(*axes)
    ]


@pytest.mark.parametrize("fields", combinations())
async def test_a_stream_adds_up_to_the_whole_answer(
    tiny_gateway: LiveGateway, fields: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Greet Alice, who is 30, please."}],
        "seed": 11,
        "temperature": 0.7,
        "max_tokens": 32,
        **fields,
    }
    status, whole = await tiny_gateway.chat(**asked)
    assert status == 200, whole
    choices, usage = await streamed(tiny_gateway, asked)
    assert usage == without_cache(whole["usage"])
    assert choices == [comparable(choice) for choice in whole["choices"]]
    for choice in whole["choices"]:
        check_promises(choice, asked)


def check_promises(choice: dict[str, Any], asked: dict[str, Any]) -> None:
    """What a whole choice must be."""
    calls = choice["message"].get("tool_calls", [])
    forced = asked.get("tool_choice") not in (None, "none")
    complete = choice["finish_reason"] in ("stop", "tool_calls") and "stop" not in asked
    assert not calls or "tools" in asked
    if forced and complete:
        assert choice["finish_reason"] == "tool_calls"
        assert all(
            set(json.loads(call["function"]["arguments"])) == {"name", "age"} for call in calls
        )
    elif "response_format" in asked and complete and not calls:
        assert isinstance(json.loads(choice["message"]["content"]), dict)


async def streamed(
    gateway: LiveGateway, asked: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The choices that the chunks of a stream add up to, and its usage."""
    body = {
        "model": MODEL, **asked, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    choices: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        lines = [line async for line in answer.content if line.startswith(b"data: {")]
    for line in lines:
        chunk = json.loads(line[6:])
        assert "error" not in chunk, chunk
        usage = chunk["usage"] or usage
        for one in chunk["choices"]:
            add(choices.setdefault(one["index"], empty(one["index"])), one)
    for choice in choices.values():
        choice["logprobs"] = rounded(choice["logprobs"])
    return [choices[index] for index in sorted(choices)], without_cache(usage)


def empty(index: int) -> dict[str, Any]:
    return {"index": index, "content": None, "calls": {}, "logprobs": [], "finish_reason": None}


def add(choice: dict[str, Any], chunk: dict[str, Any]) -> None:
    assert choice["finish_reason"] is None, "something comes after the end"
    delta = chunk["delta"]
    if delta.get("content") is not None:
        choice["content"] = (choice["content"] or "") + delta["content"]
    for call in delta.get("tool_calls", ()):
        found = choice["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
        found["name"] += call["function"].get("name", "")
        found["arguments"] += call["function"]["arguments"]
    choice["logprobs"] += (chunk["logprobs"] or {"content": []})["content"]
    choice["finish_reason"] = chunk["finish_reason"]


def comparable(choice: dict[str, Any]) -> dict[str, Any]:
    """A whole choice in the same form; ids of calls are new with every answer."""
    calls = [call["function"] for call in choice["message"].get("tool_calls", ())]
    return {
        "index": choice["index"],
        "content": choice["message"]["content"],
        "calls": dict(enumerate(calls)),
        "logprobs": rounded((choice["logprobs"] or {"content": []})["content"]),
        "finish_reason": choice["finish_reason"],
    }


def rounded(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Log-probabilities to three digits, and in an order that doesn't hang on the others."""
    return [
        {key: round(value, 3) if key == "logprob" else value for key, value in entry.items()}
        | ({"top_logprobs": rounded(entry["top_logprobs"])} if "top_logprobs" in entry else {})
        for entry in entries
    ]


def without_cache(usage: dict[str, Any]) -> dict[str, Any]:
    """The second to ask finds the prompt computed."""
    return {key: value for key, value in usage.items() if key != "prompt_tokens_details"}
