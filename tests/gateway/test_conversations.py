"""Conversations, as the openai SDK sees them."""

from __future__ import annotations

from typing import Any

import aiohttp
import openai
import pytest

from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.test_stored import KEYS, get

HELLO: Any = {"type": "message", "role": "user", "content": "Hello!"}
ITEMS: list[Any] = [
    {"role": "developer", "content": [{"type": "input_text", "text": "be kind"}]},
    {"role": "assistant", "content": "Hi.", "phase": "final_answer"},
    {
        "type": "message",
        "id": "msg_given",
        "status": "incomplete",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": "x", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "no"},
        ],
    },
    {"type": "function_call", "call_id": "call_1", "name": "sum", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "3"},
    {
        "type": "function_call_output",
        "call_id": "call_2",
        "output": [{"type": "input_text", "text": "4"}],
    },
    {
        "type": "reasoning",
        "id": "rs_given",
        "summary": [{"type": "summary_text", "text": "short"}],
        "content": [{"type": "reasoning_text", "text": "long"}],
    },
]


def without_ids(items: list[Any]) -> list[Any]:
    return [{key: value for key, value in item.items() if key != "id"} for item in items]


async def test_a_conversation_can_be_made_read_changed_and_deleted(gateway: LiveGateway) -> None:
    conversations = gateway.openai.conversations
    made = await conversations.create(metadata={"topic": "demo"}, items=[HELLO])
    assert made.id.startswith("conv_")
    assert (made.object, made.metadata) == ("conversation", {"topic": "demo"})
    assert abs(made.created_at - gateway.services.deployments.default.created) < 3600
    assert await conversations.retrieve(made.id) == made
    updated = await conversations.update(made.id, metadata={"a": "b"})
    assert updated == made.model_copy(update={"metadata": {"a": "b"}})
    assert await conversations.retrieve(made.id) == updated
    assert (await conversations.update(made.id, metadata=None)).metadata == {}
    deleted = await conversations.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "conversation.deleted")
    with pytest.raises(openai.NotFoundError):
        await conversations.retrieve(made.id)


async def test_a_conversation_needs_nothing(gateway: LiveGateway) -> None:
    made = await gateway.openai.conversations.create()
    assert made.metadata == {}
    async with gateway.http.post(gateway.url + "/v1/conversations") as answer:
        assert answer.status == 200
        made_without_body = await answer.json()
    assert made_without_body["metadata"] == {}
    assert await get(gateway, f"/v1/conversations/{made_without_body['id']}/items") == (
        200,
        {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False},
    )


async def test_items_come_back_in_the_shapes_of_the_api(gateway: LiveGateway) -> None:
    made = await gateway.openai.conversations.create()
    path = f"/v1/conversations/{made.id}/items"
    status, added = await gateway.post(path, {"items": ITEMS})
    assert status == 200
    ids = [item["id"] for item in added["data"]]
    assert (added["first_id"], added["last_id"]) == (ids[0], ids[-1])
    assert (added["object"], added["has_more"]) == ("list", False)
    assert [found.partition("_")[0] for found in ids] == [
        "msg",
        "msg",
        "msg",
        "fc",
        "fco",
        "fco",
        "rs",
    ]
    assert (ids[2], ids[6]) == ("msg_given", "rs_given")
    said = {"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}
    assert without_ids(added["data"]) == [
        {"type": "message", "status": "completed", **ITEMS[0]},
        {"type": "message", "status": "completed", **ITEMS[1], "content": [said]},
        {key: value for key, value in ITEMS[2].items() if key != "id"},
        {"status": "completed", **ITEMS[3]},
        {"status": "completed", **ITEMS[4]},
        {"status": "completed", **ITEMS[5]},
        {key: value for key, value in ITEMS[6].items() if key != "id"},
    ]
    _, listed = await get(gateway, f"{path}?order=asc")
    assert listed == added
    for item in added["data"]:
        assert await get(gateway, f"{path}/{item['id']}") == (200, item)


async def test_the_sdk_reads_items_newest_first(gateway: LiveGateway) -> None:
    conversations = gateway.openai.conversations
    made = await conversations.create(items=ITEMS)
    added = await conversations.items.create(made.id, items=[HELLO])
    newest = added.data[0]
    assert newest.type == "message"
    assert newest.content[0].text == "Hello!"  # type: ignore[union-attr]
    walked = [item async for item in conversations.items.list(made.id, limit=3)]
    assert walked[0] == newest
    assert [item.type for item in walked[1:]] == [
        item.get("type", "message") for item in reversed(ITEMS)
    ]
    found = await conversations.items.retrieve(
        newest.id, conversation_id=made.id, include=["message.output_text.logprobs"]
    )
    assert found == newest


async def test_items_can_be_deleted_while_they_are_listed(gateway: LiveGateway) -> None:
    conversations = gateway.openai.conversations
    made = await conversations.create(items=ITEMS, metadata={"a": "b"})
    async for item in conversations.items.list(made.id, limit=2):
        left = await conversations.items.delete(str(item.id), conversation_id=made.id)
        assert left == made
    assert (await conversations.items.list(made.id)).data == []
    with pytest.raises(openai.NotFoundError):
        await conversations.items.retrieve("msg_given", conversation_id=made.id)


async def test_unknown_ids_are_404s(gateway: LiveGateway) -> None:
    conversations = gateway.openai.conversations
    made = await conversations.create(items=[HELLO])
    for call in (
        conversations.retrieve("conv_x"),
        conversations.update("conv_x", metadata={}),
        conversations.delete("conv_x"),
        conversations.items.list("conv_x"),
        conversations.items.create("conv_x", items=[HELLO]),
        conversations.items.retrieve("msg_x", conversation_id=made.id),
        conversations.items.delete("msg_x", conversation_id=made.id),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            await call
        assert "_x" in refused.value.message


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "items[0].type"),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed"}, "items[0].type"),
        ({"id": "msg_1"}, "items[0].type"),
        ("Hello!", "items[0]"),
        ({"type": "message", "role": "tool", "content": "x"}, "items[0].role"),
        ({"type": "message", "content": "x"}, "items[0].role"),
        ({"role": "user"}, "items[0].content"),
        ({"role": "user", "content": 1}, "items[0].content"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
            "items[0].content[0].type",
        ),
        (
            {"role": "user", "content": [{"type": "output_text", "text": "x"}]},
            "items[0].content[0].type",
        ),
        (
            {"role": "assistant", "content": [{"type": "input_text", "text": "x"}]},
            "items[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "input_text"}]}, "items[0].content[0].text"),
        ({"role": "user", "content": "x", "mood": "good"}, "items[0].mood"),
        ({"role": "user", "content": "x", "id": "a b"}, "items[0].id"),
        ({"role": "user", "content": "x", "status": "late"}, "items[0].status"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "items[0].call_id"),
        (
            {"type": "function_call", "name": "f g", "arguments": "{}", "call_id": "c"},
            "items[0].name",
        ),
        (
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file"}]},
            "items[0].output[0].type",
        ),
        ({"type": "reasoning"}, "items[0].summary"),
    ],
)
async def test_a_wrong_item_is_a_400_that_names_the_field(
    gateway: LiveGateway, item: Any, param: str
) -> None:
    status, answer = await gateway.post("/v1/conversations", {"items": [item]})
    assert (status, answer["error"]["param"]) == (400, param), answer


async def test_what_is_not_supported_is_told_what_is(gateway: LiveGateway) -> None:
    picture = {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}
    _, answer = await gateway.post("/v1/conversations", {"items": [picture]})
    assert answer["error"]["message"] == (
        "Invalid value for 'items[0].content[0].type': 'input_image'. Supported values are: "
        "'input_text'."
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [HELLO] * 21}, "items"),
        ({"items": "x"}, "items"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"name": "x"}, "name"),
        ({"items": [{**HELLO, "id": "msg_1"}, {**HELLO, "id": "msg_1"}]}, "items"),
    ],
)
async def test_a_wrong_conversation_is_a_400_that_names_the_field(
    gateway: LiveGateway, body: Any, param: str
) -> None:
    status, answer = await gateway.post("/v1/conversations", body)
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("after=msg_x", "after"), ("include[]=all", "include[0]")],
)
async def test_a_wrong_query_is_a_400_that_names_the_parameter(
    gateway: LiveGateway, query: str, param: str
) -> None:
    made = await gateway.openai.conversations.create(items=[HELLO])
    status, answer = await get(gateway, f"/v1/conversations/{made.id}/items?{query}")
    assert (status, answer["error"]["param"]) == (400, param)


async def test_everyone_sees_their_own_conversations(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANN", "BOB"):
        monkeypatch.setenv(name, name * 10)
    gateway = await start_gateway(**KEYS)
    ann = gateway.openai.with_options(api_key="ANN" * 10).conversations
    bob = gateway.openai.with_options(api_key="BOB" * 10).conversations
    given: Any = {**HELLO, "id": "msg_1"}
    made = await ann.create(items=[given])
    for call in (
        bob.retrieve(made.id),
        bob.update(made.id, metadata={}),
        bob.delete(made.id),
        bob.items.list(made.id),
        bob.items.create(made.id, items=[HELLO]),
        bob.items.retrieve("msg_1", conversation_id=made.id),
        bob.items.delete("msg_1", conversation_id=made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await call
    assert (await ann.retrieve(made.id)).id == made.id


async def test_a_restart_forgets_nothing(start_gateway: StartGateway, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    first = await start_gateway(**{"state.url": url})
    made = await first.openai.conversations.create(items=[HELLO])
    first.serving.stop()
    assert await first.task == 0
    second = await start_gateway(**{"state.url": url})
    assert await second.openai.conversations.retrieve(made.id) == made


async def test_a_body_of_another_type_is_refused(gateway: LiveGateway) -> None:
    form = aiohttp.FormData({"items": "x"})
    async with gateway.http.post(gateway.url + "/v1/conversations", data=form) as answer:
        assert answer.status == 415


LOGPROB: Any = {"token": "x", "bytes": [120], "logprob": -0.5}
CITATION: Any = {"type": "url_citation", "url": "https://example.com", "title": "A title"}
BESIDE: Any = {
    "annotations": [
        CITATION | {"start_index": 0, "end_index": 1},
        {"type": "file_citation", "file_id": "file-1", "filename": "a.txt", "index": 0},
        {"type": "file_path", "file_id": "file-1", "index": 0},
    ],
    "logprobs": [LOGPROB | {"top_logprobs": [LOGPROB]}],
}


def said(**beside: Any) -> Any:
    part = {"type": "output_text", "text": "x", **beside}
    return {"items": [{"type": "message", "role": "assistant", "content": [part]}]}


async def test_what_stands_beside_a_text_comes_back_as_it_was(gateway: LiveGateway) -> None:
    made = await gateway.openai.conversations.create()
    status, page = await gateway.post(f"/v1/conversations/{made.id}/items", said(**BESIDE))
    assert status == 200
    assert page["data"][0]["content"] == [{"type": "output_text", "text": "x", **BESIDE}]


@pytest.mark.parametrize(
    ("beside", "param"),
    [
        ({"logprobs": [{}]}, "logprobs[0].token"),
        ({"logprobs": [1]}, "logprobs[0]"),
        ({"logprobs": [LOGPROB]}, "logprobs[0].top_logprobs"),
        ({"annotations": [None]}, "annotations[0]"),
        ({"annotations": [{}]}, "annotations[0].type"),
        ({"annotations": [{"type": "map"}]}, "annotations[0].type"),
        ({"annotations": [CITATION]}, "annotations[0].start_index"),
    ],
)
async def test_what_stands_beside_a_text_has_the_shapes_of_the_api(
    gateway: LiveGateway, beside: Any, param: str
) -> None:
    made = await gateway.openai.conversations.create()
    status, answer = await gateway.post(f"/v1/conversations/{made.id}/items", said(**beside))
    assert (status, answer["error"]["param"]) == (400, f"items[0].content[0].{param}")
