"""Stored chat completions, as the openai SDK sees them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.gateway.conftest import MODEL, LiveGateway, StartGateway

KEYS = {"auth.api_keys": [{"name": name, "env": name.upper()} for name in ("ann", "bob")]}


def completion(number: int, model: str = MODEL) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"answer {number}", "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_900_000_000 + number,
        "model": model,
        "choices": [choice],
    }


async def keep(
    gateway: LiveGateway, *numbers: int, owner: str = "anonymous", **metadata: str
) -> None:
    for number in numbers:
        messages = [{"role": "user", "content": f"question {number}"}]
        assert await gateway.services.store.completions.save(
            owner, completion(number), messages, metadata
        )


async def get(gateway: LiveGateway, path: str) -> tuple[int, Any]:
    async with gateway.http.get(gateway.url + path) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completion_made_with_store_is_kept(gateway: LiveGateway, stream: bool) -> None:
    made = await gateway.openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        metadata={"topic": "snow"},
        store=True,
        stream=stream,
    )
    chunks = [chunk async for chunk in made] if isinstance(made, openai.AsyncStream) else [made]
    [kept] = (await gateway.openai.chat.completions.list()).data
    assert kept.id == chunks[0].id
    assert kept.metadata == {"topic": "snow"}
    content = kept.choices[0].message.content
    if stream:
        told = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]  # type: ignore[union-attr]
        assert content == "".join(told)
    else:
        assert content == chunks[0].choices[0].message.content  # type: ignore[union-attr]
    [message] = (await gateway.openai.chat.completions.messages.list(kept.id)).data
    assert (message.role, message.content) == ("user", "Hi")


async def test_without_store_nothing_is_kept(gateway: LiveGateway) -> None:
    await gateway.chat()
    await gateway.chat(store=False)
    assert (await gateway.openai.chat.completions.list()).data == []


async def test_an_empty_list_has_its_fields_too(gateway: LiveGateway) -> None:
    assert await get(gateway, "/v1/chat/completions") == (
        200,
        {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False},
    )


async def test_a_list_says_where_it_begins_and_ends(gateway: LiveGateway) -> None:
    await keep(gateway, 1, 2, 3)
    _, answer = await get(gateway, "/v1/chat/completions?limit=2")
    assert [one["id"] for one in answer["data"]] == ["chatcmpl-1", "chatcmpl-2"]
    assert answer["data"][0] == {**completion(1), "metadata": {}}
    assert (answer["first_id"], answer["last_id"]) == ("chatcmpl-1", "chatcmpl-2")
    assert answer["has_more"] is True


async def test_the_sdk_walks_all_pages_and_may_delete_on_its_way(gateway: LiveGateway) -> None:
    await keep(gateway, *range(7))
    completions = gateway.openai.chat.completions
    walked = [one.id async for one in completions.list(limit=3, order="desc")]
    assert walked == [f"chatcmpl-{number}" for number in reversed(range(7))]
    async for one in completions.list(limit=3):
        deleted = await completions.delete(one.id)
        assert (deleted.id, deleted.deleted, deleted.object) == (
            one.id,
            True,
            "chat.completion.deleted",
        )
    assert (await completions.list()).data == []


async def test_lists_are_narrowed_by_model_and_metadata(gateway: LiveGateway) -> None:
    await keep(gateway, 1, topic="snow", lang="en")
    await keep(gateway, 2, topic="snow")
    await gateway.services.store.completions.save("anonymous", completion(3, model="old"), [])
    completions = gateway.openai.chat.completions
    both = await completions.list(metadata={"topic": "snow", "lang": "en"})
    assert [one.id for one in both.data] == ["chatcmpl-1"]
    one_label = await completions.list(metadata={"topic": "snow"}, model=MODEL)
    assert [one.id for one in one_label.data] == ["chatcmpl-1", "chatcmpl-2"]
    assert [one.id for one in (await completions.list(model="old")).data] == ["chatcmpl-3"]


async def test_metadata_can_be_replaced_and_cleared(gateway: LiveGateway) -> None:
    await keep(gateway, 1, topic="snow")
    completions = gateway.openai.chat.completions
    updated = await completions.update("chatcmpl-1", metadata={"a": "b"})
    assert updated.metadata == {"a": "b"}
    assert updated.choices[0].message.content == "answer 1"
    assert (await completions.retrieve("chatcmpl-1")).metadata == {"a": "b"}
    cleared = await completions.update("chatcmpl-1", metadata=None)
    assert cleared.metadata == {}


async def test_messages_have_ids_and_their_parts_apart(gateway: LiveGateway) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": parts, "name": "ann"},
    ]
    await gateway.services.store.completions.save("anonymous", completion(1), messages)
    _, answer = await get(gateway, "/v1/chat/completions/chatcmpl-1/messages")
    assert answer == {
        "object": "list",
        "data": [
            {
                "id": "chatcmpl-1-0",
                "role": "system",
                "content": "be kind",
                "name": None,
                "content_parts": None,
            },
            {
                "id": "chatcmpl-1-1",
                "role": "user",
                "content": None,
                "name": "ann",
                "content_parts": parts,
            },
        ],
        "first_id": "chatcmpl-1-0",
        "last_id": "chatcmpl-1-1",
        "has_more": False,
    }
    listing = gateway.openai.chat.completions.messages.list("chatcmpl-1", limit=1, order="desc")
    assert [one.id async for one in listing] == ["chatcmpl-1-1", "chatcmpl-1-0"]


async def test_an_unknown_id_is_a_404(gateway: LiveGateway) -> None:
    completions = gateway.openai.chat.completions
    for call in (
        completions.retrieve("chatcmpl-x"),
        completions.update("chatcmpl-x", metadata={}),
        completions.delete("chatcmpl-x"),
        completions.messages.list("chatcmpl-x"),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            await call
        assert refused.value.code == "not_found"
        assert "chatcmpl-x" in refused.value.message


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("order=up", "order"),
        ("after=chatcmpl-x", "after"),
        ("after=%00", "after"),
        ("metadata=x", "metadata"),
        ("metadata[a]=" + "x" * 513, "metadata.a"),
        ("metadata=x&metadata[a]=b&metadata[]=c", "metadata"),
        ("limit[]=1", "limit"),
        ("user=x", "user"),
    ],
)
async def test_a_wrong_query_is_a_400_that_names_the_parameter(
    gateway: LiveGateway, query: str, param: str
) -> None:
    status, answer = await get(gateway, f"/v1/chat/completions?{query}")
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"metadata": {str(key): "x" for key in range(17)}}, "metadata"),
        ({"metadata": {}, "model": "x"}, "model"),
    ],
)
async def test_a_wrong_update_is_a_400_that_names_the_field(
    gateway: LiveGateway, body: Any, param: str
) -> None:
    await keep(gateway, 1)
    status, answer = await gateway.post("/v1/chat/completions/chatcmpl-1", body)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_other_methods_are_told_which_there_are(gateway: LiveGateway) -> None:
    async with gateway.http.delete(gateway.url + "/v1/chat/completions") as answer:
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_everyone_sees_their_own(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANN", "BOB"):
        monkeypatch.setenv(name, name * 10)
    gateway = await start_gateway(**KEYS)
    ann = gateway.openai.with_options(api_key="ANN" * 10).chat.completions
    bob = gateway.openai.with_options(api_key="BOB" * 10).chat.completions
    made = await ann.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], store=True)
    assert (await bob.list()).data == []
    for call in (
        bob.retrieve(made.id),
        bob.delete(made.id),
        bob.update(made.id, metadata={}),
        bob.messages.list(made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await call
    assert (await ann.retrieve(made.id)).id == made.id
    with pytest.raises(openai.AuthenticationError):
        await gateway.openai.chat.completions.list()


async def test_a_stream_that_cant_be_kept_still_tells_all_of_its_text(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object, **_fields: object) -> bool:
        raise OSError

    monkeypatch.setattr(type(gateway.services.store.completions), "save", fail)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    url = gateway.url + "/v1/chat/completions"
    async with gateway.http.post(url, json={**body, "store": True, "stream": True}) as answer:
        told = await answer.text()
    assert '"content":"T"' in told
    assert '"error"' in told
    assert "[DONE]" not in told
