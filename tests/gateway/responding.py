"""What the tests of the Responses API share."""

from __future__ import annotations

import json
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from engine.config import EngineConfig
from engine.reasoning import ReasoningTags
from engine.simulated import SimulatedEngine
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway

TOOLS: Any = [
    {
        "type": "function",
        "name": name,
        "description": f"Tells the {name}.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    }
    for name in ("weather", "time")
]
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
OTHER = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'

_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Thinking(SimulatedEngine):
    """Reasons between tags, where its script does; the last one ends with a token of its own."""

    @property
    def reasoning_tags(self) -> ReasoningTags | None:
        return ReasoningTags("<think:", "</think>", end_id=ord(">"))


async def thinking(
    config: EngineConfig, _report: Any = None, _name: str | None = None
) -> SimulatedEngine:
    return Thinking(config)


async def speaking(start_gateway: StartGateway, text: str, **overrides: Any) -> LiveGateway:
    """A gateway whose model says `text`, each time."""
    script = {"engine.simulated.text": text, "engine.simulated.step_ms": 0}
    return await start_gateway(**script, **overrides)


async def respond(gateway: LiveGateway, **fields: Any) -> tuple[int, Any]:
    """Post with a short input, unless there is another; None drops it."""
    body = {"model": MODEL, "input": "Hi", **fields}
    sent = {key: value for key, value in body.items() if value is not None}
    return await gateway.post("/v1/responses", sent)


async def made(gateway: LiveGateway, **fields: Any) -> dict[str, Any]:
    """A response, as it must be: every field that the SDK's model declares, and valid to it."""
    status, response = await respond(gateway, **fields)
    assert status == 200, response
    return checked(response)


def checked(response: dict[str, Any]) -> dict[str, Any]:
    assert Response.model_fields.keys() <= response.keys()
    Response.model_validate(response)
    return response


async def get(gateway: LiveGateway, path: str, method: str = "GET") -> tuple[int, Any]:
    async with gateway.http.request(method, f"{gateway.url}/v1/responses/{path}") as answer:
        return answer.status, await answer.json()


async def events(gateway: LiveGateway, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, each valid."""
    body = {"model": MODEL, "input": "Hi", "stream": True, **fields}
    async with gateway.http.post(f"{gateway.url}/v1/responses", json=body) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return told(await answer.read())


async def followed(gateway: LiveGateway, response_id: str, query: str = "") -> list[dict[str, Any]]:
    """The events that a GET tells."""
    url = f"{gateway.url}/v1/responses/{response_id}?stream=true{query}"
    async with gateway.http.get(url) as answer:
        assert answer.status == 200, await answer.text()
        return told(await answer.read())


def told(stream: bytes) -> list[dict[str, Any]]:
    assert stream.endswith(b"\n\n")
    found = []
    for block in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        _EVENTS.validate_python(event)
        found.append(event)
    return found


def types(stream: list[dict[str, Any]]) -> list[str]:
    """The types of events without their common prefix, each run of deltas once."""
    names = [event["type"].removeprefix("response.") for event in stream]
    return [
        name
        for place, name in enumerate(names)
        if not (name.endswith(".delta") and place and names[place - 1] == name)
    ]


def same(response: dict[str, Any]) -> dict[str, Any]:
    """What two responses to the same must have in common: all but ids and times."""
    without = {"id", "created_at", "completed_at"}
    found = {key: value for key, value in response.items() if key not in without}
    found["output"] = [
        {key: value for key, value in item.items() if key not in ("id", "call_id")}
        for item in response["output"]
    ]
    return found


def text_of(response: dict[str, Any]) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )
