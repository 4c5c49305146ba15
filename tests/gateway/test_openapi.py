"""`/openapi.json` is true: everything that is served is in it, and is as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from openai.types.chat import ChatCompletionChunk
from starlette.routing import Route

from gateway.api.schemas import documented
from gateway.app import build_app
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.raw import RawAnswer, request, send

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "Hi"}
# What FastAPI serves beside the API.
NOT_THE_API = {"/docs", "/openapi.json"}


async def document(gateway: LiveGateway) -> dict[str, Any]:
    found: dict[str, Any] = (await send(gateway, request("GET", "/openapi.json"))).json()
    return found


def operations(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def check(found: dict[str, Any], path: str, method: str, answer: RawAnswer) -> None:
    """Raises where an answer's status, media type or body isn't as the document has it."""
    told = found["paths"][path][method]["responses"][str(answer.status)]
    if "$ref" in told:
        told = found["components"]["responses"][told["$ref"].rsplit("/")[-1]]
    schema = told["content"][answer.headers["content-type"]]["schema"]
    valid(found, schema, answer.json())


def valid(found: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": found["components"]}
    jsonschema.validate(value, whole, cls=jsonschema.Draft202012Validator)


@pytest.fixture
async def everything(start_gateway: StartGateway) -> LiveGateway:
    """What is served to administrators is there too."""
    key = [{"name": "one", "sha256": "0" * 64}]
    return await start_gateway(**{"engine.simulated.step_ms": 0.2, "auth.admin_keys": key})


async def test_every_route_is_in_it(everything: LiveGateway) -> None:
    found = await document(everything)
    served = {
        (route.path_format, method.lower())
        for route in build_app(everything.services.config).routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    told = {(path, method) for path, method, _ in operations(found)}
    assert {one for one in served if one[0] not in NOT_THE_API} <= told


async def test_every_operation_tells_what_it_takes_and_gives(everything: LiveGateway) -> None:
    found = await document(everything)
    ids = [operation["operationId"] for _, _, operation in operations(found)]
    assert len(ids) == len(set(ids))
    for path, method, operation in operations(found):
        where = f"{method} {path}: `documented` in its `openapi_extra` says it"
        assert operation["tags"], where
        assert operation["summary"], where
        answers = operation["responses"]["200"]["content"]
        assert all(media["schema"] for media in answers.values()), where
        assert {"400", "404", "405", "408", "503"} <= set(operation["responses"]), where
        for body in operation.get("requestBody", {}).get("content", {}).values():
            assert body["example"], where
            assert {"413", "415", "429"} <= set(operation["responses"]), where
            valid(found, body["schema"], body["example"])


async def test_what_is_referred_to_is_there(everything: LiveGateway) -> None:
    found = await document(everything)

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for below in node.values():
                yield from references(below)
        elif isinstance(node, list):
            for below in node:
                yield from references(below)

    for reference in set(references(found)):
        kind, name = reference.removeprefix("#/components/").split("/")
        assert name in found["components"][kind]
    assert "HTTPValidationError" not in found["components"]["schemas"]


async def test_every_example_gets_an_answer_as_documented(everything: LiveGateway) -> None:
    found = await document(everything)
    for path, method, operation in operations(found):
        if "{" in path or "requestBody" not in operation:
            continue
        example = operation["requestBody"]["content"]["application/json"]["example"]
        answer = await send(everything, request("POST", path, body=json.dumps(example).encode()))
        check(found, path, method, answer)
        if answer.status != 200:  # what needs a model of another kind, or a key
            assert answer.error["code"] in {"model_not_supported", "invalid_api_key"}, path


async def test_every_get_gets_an_answer_as_documented(everything: LiveGateway) -> None:
    found = await document(everything)
    for path, method, _ in operations(found):
        if method != "get" or path == "/metrics":
            continue
        asked = re.sub(r"{\w+}", "none", path.replace("{model}", MODEL))
        check(found, path, method, await send(everything, request("GET", asked)))


ANSWERS = [
    (CHAT, {"messages": [USER], "max_tokens": 3, "logprobs": True, "top_logprobs": 2}),
    (CHAT, {"messages": [USER], "max_tokens": 3, "n": 2, "service_tier": "auto"}),
    (TEXT, {"prompt": ["a", "b"], "max_tokens": 2}),
    (TEXT, {"prompt": "a", "max_tokens": 2, "echo": True, "logprobs": 2}),
    (CHAT, {"messages": []}),
    (CHAT, {"messages": [USER], "model": "nope"}),
    (TEXT, {"prompt": "long " * 2000}),
    ("/tokenize", {"prompt": "a", "nothing": 1}),
]


@pytest.mark.parametrize(("path", "fields"), ANSWERS)
async def test_answers_are_as_documented(
    everything: LiveGateway, path: str, fields: dict[str, Any]
) -> None:
    found = await document(everything)
    body = json.dumps({"model": MODEL, **fields}).encode()
    check(found, path, "post", await send(everything, request("POST", path, body=body)))


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        (request("POST", CHAT, "content-type: text/plain", "content-length: 1") + b"x", CHAT),
        (request("POST", CHAT, body=b"{}", length=10**9), CHAT),
        (request("POST", CHAT, "transfer-encoding: chunked") + b"zz\r\n", CHAT),
        (request("POST", CHAT, "a: " + "b" * 40_000, body=b"{}"), CHAT),
    ],
    ids=["415", "413", "400", "431"],
)
async def test_refusals_are_as_documented(everything: LiveGateway, sent: bytes, path: str) -> None:
    check(await document(everything), path, "post", await send(everything, sent))


@pytest.mark.parametrize(
    ("path", "fields"),
    [(CHAT, {"messages": [USER], "logprobs": True}), (TEXT, {"prompt": "a", "logprobs": 1})],
)
async def test_events_are_as_documented(
    everything: LiveGateway, path: str, fields: dict[str, Any]
) -> None:
    found = await document(everything)
    body = {"model": MODEL, "stream": True, "max_tokens": 3, **fields}
    answer = await send(everything, request("POST", path, body=json.dumps(body).encode()))
    media = found["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    *events, end = [
        event.removeprefix("data: ") for event in answer.body.decode().split("\n\n") if event
    ]
    assert end == "[DONE]"
    (told,) = [
        choice["properties"]["data"]["contentSchema"]
        for choice in media["schema"]["anyOf"]
        if "contentSchema" in choice["properties"]["data"]
    ]
    for event in events:
        valid(found, media["schema"], {"data": event})
        valid(found, told, json.loads(event))


async def test_a_path_that_is_read_and_posted_has_both(everything: LiveGateway) -> None:
    assert {"get", "post"} <= set((await document(everything))["paths"][CHAT])


async def test_only_a_conversation_can_be_made_of_nothing(everything: LiveGateway) -> None:
    bodies = {
        (method, path): operation["requestBody"]["required"]
        for path, method, operation in operations(await document(everything))
        if "requestBody" in operation
    }
    assert [key for key in bodies if not bodies[key]] == [("post", "/v1/conversations")]


async def test_keys_are_asked_for_where_there_are_some(start_gateway: StartGateway) -> None:
    key = [{"name": "one", "sha256": "0" * 64}]
    locked = await document(await start_gateway(**{"auth.api_keys": key}))
    unlocked = await document(await start_gateway())
    assert locked["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert (locked["security"], unlocked["security"]) == ([{"bearer": []}], [{"bearer": []}, {}])
    assert locked["paths"]["/healthz"]["get"]["security"] == []
    assert "401" not in locked["paths"]["/healthz"]["get"]["responses"]
    assert "401" in locked["paths"][CHAT]["post"]["responses"]


async def test_it_is_shown_as_a_page_unless_turned_off(start_gateway: StartGateway) -> None:
    shown = await send(await start_gateway(), request("GET", "/docs"))
    assert b"/openapi.json" in shown.body
    gateway = await start_gateway(**{"server.docs": False})
    for path in NOT_THE_API:
        assert (await send(gateway, request("GET", path))).error["code"] == "unknown_url"


def test_a_model_of_an_answer_may_be_the_type_or_its_name() -> None:
    name = f"{ChatCompletionChunk.__module__}:ChatCompletionChunk"
    assert documented(answer=ChatCompletionChunk) == documented(answer=name)
