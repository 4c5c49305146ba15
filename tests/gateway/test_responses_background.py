"""Responses that are made while their client is away."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from gateway.errors import UnavailableError
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.responding import (
    CALL,
    TOOLS,
    checked,
    events,
    followed,
    get,
    made,
    respond,
    same,
    speaking,
    text_of,
    told,
    types,
)
from tests.gateway.test_hangups import request_bytes, settled

STALLED = {"engine.simulated.stall_after_tokens": 3}


async def ended(gateway: LiveGateway, response_id: str) -> dict[str, Any]:
    """The response, once it isn't worked on any more."""
    async with asyncio.timeout(10):
        while True:
            status, response = await get(gateway, response_id)
            assert status == 200
            if response["status"] not in ("queued", "in_progress"):
                return checked(response)


async def cancelled(gateway: LiveGateway, response_id: str) -> tuple[int, Any]:
    return await get(gateway, f"{response_id}/cancel", "POST")


async def next_event(reader: asyncio.StreamReader, name: str) -> None:
    async with asyncio.timeout(5):
        await reader.readuntil(f"event: response.{name}\n".encode())


async def begun(gateway: LiveGateway) -> str:
    """The id of a streamed background response of which something has been told; its client has
    gone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = {"model": MODEL, "input": "Hi", "stream": True, "background": True}
    writer.write(request_bytes(body, "/v1/responses"))
    await reader.readuntil(b'"id":"')
    response_id = (await reader.readuntil(b'"')).decode().rstrip('"')
    await next_event(reader, "output_text.delta")
    writer.transport.abort()
    return response_id


async def test_a_background_response_is_queued_and_ends_as_a_whole_one(
    start_gateway: StartGateway,
) -> None:
    gateway = await speaking(start_gateway, f"I see.{CALL}")
    whole = await made(gateway, tools=TOOLS)
    queued = await made(gateway, tools=TOOLS, background=True)
    assert (queued["status"], queued["output"], queued["background"]) == ("queued", [], True)
    response = await ended(gateway, queued["id"])
    assert same(response) == same({**whole, "background": True})
    assert response["created_at"] == queued["created_at"]


async def test_a_background_response_is_in_progress_until_it_is_cancelled(
    start_gateway: StartGateway,
) -> None:
    before = asyncio.all_tasks()
    gateway = await start_gateway(**STALLED)
    queued = await made(gateway, background=True)
    async with asyncio.timeout(5):
        while (await get(gateway, queued["id"]))[1]["status"] == "queued":
            pass
    status, answer = await respond(gateway, previous_response_id=queued["id"])
    assert (status, answer["error"]["code"]) == (400, "previous_response_not_completed")
    status, response = await cancelled(gateway, queued["id"])
    assert (status, checked(response)["status"]) == (200, "cancelled")
    await gateway.idle()
    assert gateway.engine.stats().kv_cache_usage == 0
    assert await cancelled(gateway, queued["id"]) == (200, response)
    assert await get(gateway, queued["id"]) == (200, response)
    gateway.serving.stop()
    await gateway.task
    await gateway.http.close()
    await gateway.openai.close()
    await settled(before)


async def test_a_response_that_is_complete_can_not_be_cancelled(gateway: LiveGateway) -> None:
    queued = await made(gateway, background=True)
    await ended(gateway, queued["id"])
    status, answer = await cancelled(gateway, queued["id"])
    assert (status, answer["error"]["message"]) == (400, "Cannot cancel a completed response.")


async def test_a_stream_in_the_background_begins_by_being_queued(gateway: LiveGateway) -> None:
    stream = await events(gateway, background=True)
    assert types(stream)[:3] == ["created", "queued", "in_progress"]
    statuses = [event["response"]["status"] for event in stream if "response" in event]
    assert statuses == ["queued", "queued", "in_progress", "completed"]
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    final = stream[-1]["response"]
    assert await get(gateway, final["id"]) == (200, final)


async def test_events_can_be_streamed_again_from_any_place(gateway: LiveGateway) -> None:
    stream = await events(gateway, background=True)
    response_id = stream[0]["response"]["id"]
    assert await followed(gateway, response_id) == stream
    last = stream[-1]["sequence_number"]
    for place in (0, 1, last - 1):
        rest = await followed(gateway, response_id, f"&starting_after={place}")
        assert rest == stream[place + 1 :]
    resumed = [
        event.sequence_number
        async for event in await gateway.openai.responses.retrieve(
            response_id, stream=True, starting_after=3
        )
    ]
    assert resumed == list(range(4, last + 1))


async def test_of_a_response_that_has_ended_only_its_events_stay_in_memory(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 5})
    response_id = await begun(gateway)
    run = gateway.services.background.running("anonymous", response_id)
    assert run is not None
    kept = weakref.ref(run)
    del run
    stream = await followed(gateway, response_id)
    await gateway.idle()
    gc.collect()
    assert kept() is None
    assert await followed(gateway, response_id) == stream


async def test_a_client_that_hangs_up_is_nothing_to_its_background_response(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.step_ms": 5})
    response_id = await begun(gateway)
    stream = await followed(gateway, response_id)
    assert stream[-1]["type"] == "response.completed"
    assert types(stream)[:2] == ["created", "queued"]
    deltas = "".join(event.get("delta", "") for event in stream)
    assert deltas == text_of(stream[-1]["response"]) == text_of(await ended(gateway, response_id))


async def test_who_follows_a_response_that_is_cancelled_sees_its_stream_end(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**STALLED)
    response_id = await begun(gateway)
    following = asyncio.create_task(followed(gateway, response_id))
    status, response = await cancelled(gateway, response_id)
    assert (status, response["status"]) == (200, "cancelled")
    stream = await following
    assert stream[-1]["type"] == "response.output_text.delta"
    assert text_of(response) == "".join(event.get("delta", "") for event in stream)
    await gateway.idle()


async def test_events_of_what_was_not_to_be_streamed_are_refused(gateway: LiveGateway) -> None:
    for fields in ({}, {"background": True}):
        response = await made(gateway, **fields)
        status, answer = await get(gateway, f"{response['id']}?stream=true")
        assert (status, answer["error"]["param"]) == (400, "stream")
    status, answer = await get(gateway, f"{response['id']}?starting_after=x")
    assert (status, answer["error"]["param"]) == (400, "starting_after")


async def test_a_background_response_that_fails_says_why(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**{"engine.simulated.fail_every": 1})
    queued = await made(gateway, background=True)
    response = await ended(gateway, queued["id"])
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    stream = await events(gateway, background=True)
    assert types(stream)[-2:] == ["error", "failed"]


async def test_what_can_not_be_served_is_refused_before_it_is_queued(gateway: LiveGateway) -> None:
    status, answer = await respond(gateway, background=True, input="x" * 600)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert answer["error"]["param"] == "input"


async def test_a_response_that_is_deleted_is_not_made_any_further(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**STALLED)
    queued = await made(gateway, background=True)
    assert (await get(gateway, queued["id"], "DELETE"))[0] == 200
    await gateway.idle()
    assert (await get(gateway, queued["id"]))[0] == 404


async def test_only_so_many_are_made_at_once(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**STALLED, **{"responses.max_background": 1})
    queued = await made(gateway, background=True)
    body = {"model": MODEL, "input": "Hi", "background": True}
    async with gateway.http.post(f"{gateway.url}/v1/responses", json=body) as answer:
        assert answer.status == 429
        assert int(answer.headers["retry-after-ms"]) > 0
    await cancelled(gateway, queued["id"])
    assert (await made(gateway, background=True))["status"] == "queued"


async def test_a_shutdown_lets_a_background_response_finish(
    start_gateway: StartGateway, tmp_path: Any
) -> None:
    state = {"state.url": f"sqlite:///{tmp_path}/state.db"}
    gateway = await start_gateway(**state, **{"engine.simulated.step_ms": 2})
    queued = await made(gateway, background=True)
    gateway.serving.stop()
    assert await gateway.task == 0
    again = await start_gateway(**state)
    assert (await get(again, queued["id"]))[1]["status"] == "completed"


async def test_a_shutdown_fails_what_can_not_finish(
    start_gateway: StartGateway, tmp_path: Any
) -> None:
    state = {"state.url": f"sqlite:///{tmp_path}/state.db"}
    gateway = await start_gateway(**state, **STALLED, **{"server.drain_grace_s": 0})
    streamed = await begun(gateway)
    queued = (await made(gateway, background=True))["id"]
    url = f"{gateway.url}/v1/responses/{streamed}?stream=true"
    async with gateway.http.get(url) as following:
        first = await following.content.readuntil(b"\n\n")
        gateway.serving.stop()
        stream = told(first + await following.read())
    assert types(stream)[-2:] == ["error", "failed"]
    assert await gateway.task == 0
    again = await start_gateway(**state)
    for response_id in (streamed, queued):
        response = (await get(again, response_id))[1]
        assert (response["status"], response["error"]["code"]) == ("failed", "server_error")


async def test_a_background_response_adds_to_its_conversation(gateway: LiveGateway) -> None:
    conversation = await gateway.openai.conversations.create()
    queued = await made(gateway, background=True, conversation=conversation.id)
    await ended(gateway, queued["id"])
    items = await gateway.openai.conversations.items.list(conversation.id, order="asc")
    assert [item.role for item in items.data] == ["user", "assistant"]  # type: ignore[union-attr]


async def test_gateways_with_one_database_can_cancel_each_others(
    start_gateway: StartGateway, tmp_path: Any
) -> None:
    state = {"state.url": f"sqlite:///{tmp_path}/state.db", "server.drain_grace_s": 0}
    one = await start_gateway(**state, **STALLED)
    other = await start_gateway(**state)
    response_id = await begun(one)
    status, answer = await get(other, f"{response_id}?stream=true")
    assert (status, answer["error"]["param"]) == (400, "stream")
    status, response = await cancelled(other, response_id)
    assert (status, response["status"]) == (200, "cancelled")
    one.serving.stop()
    await one.task
    assert await get(other, response_id) == (200, response)


class Outage:
    """No end, and no beginning, of a response can be stored until it is over."""

    def __init__(self, gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.over = False
        # The statuses that could not be stored.
        self.failures: asyncio.Queue[str] = asyncio.Queue()
        self.update = gateway.services.store.responses.update
        monkeypatch.setattr(gateway.services.store.responses, "update", self._update)
        monkeypatch.setattr("gateway.responses.background.RETRY_S", 0.001)

    async def _update(self, owner: str, response: dict[str, Any]) -> bool:
        if self.over:
            return await self.update(owner, response)
        self.failures.put_nowait(response["status"])
        raise UnavailableError("down", code="storage_unavailable", retry_after_s=1)

    async def failed(self, *statuses: str) -> None:
        async with asyncio.timeout(5):
            assert [await self.failures.get() for _ in statuses] == [*statuses]


async def retired(gateway: LiveGateway, response_id: str) -> None:
    """Return once it isn't this gateway's any more."""
    async with asyncio.timeout(5):
        while gateway.services.background.running("anonymous", response_id) is not None:
            await asyncio.sleep(0)


async def test_an_end_is_stored_once_the_database_works_again(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(gateway, monkeypatch)
    whole = await made(gateway)
    queued = await made(gateway, background=True)
    await outage.failed("in_progress", "completed", "completed", "completed")
    assert (await get(gateway, queued["id"]))[1]["status"] == "queued"
    outage.over = True
    assert same(await ended(gateway, queued["id"])) == same({**whole, "background": True})
    await retired(gateway, queued["id"])


async def test_who_follows_sees_the_end_once_it_is_stored(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(gateway, monkeypatch)
    following = asyncio.create_task(events(gateway, background=True))
    await outage.failed("in_progress", "completed", "completed")
    assert not following.done()
    outage.over = True
    stream = await following
    final = stream[-1]["response"]
    assert stream[-1]["type"] == "response.completed"
    assert await get(gateway, final["id"]) == (200, final)


async def test_to_cancel_what_has_ended_and_is_not_stored_is_a_503(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(gateway, monkeypatch)
    queued = await made(gateway, background=True)
    await outage.failed("in_progress", "completed")
    status, answer = await cancelled(gateway, queued["id"])
    assert (status, answer["error"]["code"]) == (503, "storage_unavailable")
    outage.over = True
    assert (await ended(gateway, queued["id"]))["status"] == "completed"
    assert (await cancelled(gateway, queued["id"]))[0] == 400


async def test_one_that_is_cancelled_while_nothing_can_be_stored_is_in_the_end(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway(**STALLED)
    outage = Outage(gateway, monkeypatch)
    queued = await made(gateway, background=True)
    await outage.failed("in_progress")
    assert (await cancelled(gateway, queued["id"]))[0] == 503
    outage.over = True
    assert (await ended(gateway, queued["id"]))["status"] == "cancelled"
    assert (await cancelled(gateway, queued["id"]))[0] == 200


async def test_an_end_is_not_stored_any_more_once_it_was_cancelled_elsewhere(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(gateway, monkeypatch)
    queued = await made(gateway, background=True)
    await outage.failed("in_progress", "completed")
    assert await outage.update("anonymous", {**queued, "status": "cancelled"})
    outage.over = True
    await retired(gateway, queued["id"])
    assert (await get(gateway, queued["id"]))[1]["status"] == "cancelled"


async def test_an_end_is_not_stored_any_more_once_it_was_deleted(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(gateway, monkeypatch)
    queued = await made(gateway, background=True)
    await outage.failed("in_progress", "completed")
    assert (await get(gateway, queued["id"], "DELETE"))[0] == 200
    outage.over = True
    await retired(gateway, queued["id"])
    assert (await get(gateway, queued["id"]))[0] == 404


async def test_one_that_was_cancelled_elsewhere_before_it_began_is_not_made(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway(**STALLED)
    stored = gateway.services.store.responses
    update = stored.update

    async def cancelled_first(owner: str, response: dict[str, Any]) -> bool:
        await update(owner, {**response, "status": "cancelled"})
        return await update(owner, response)

    monkeypatch.setattr(stored, "update", cancelled_first)
    queued = await made(gateway, background=True)
    await retired(gateway, queued["id"])
    await gateway.idle()
    assert (await get(gateway, queued["id"]))[1]["status"] == "cancelled"


async def test_an_end_that_can_not_be_stored_at_all_is_a_failure(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = gateway.services.store.responses
    update = stored.update

    async def refuse(owner: str, response: dict[str, Any]) -> bool:
        if response["status"] == "completed":
            raise ValueError("can't be encoded")
        return await update(owner, response)

    monkeypatch.setattr(stored, "update", refuse)
    queued = await made(gateway, background=True)
    response = await ended(gateway, queued["id"])
    assert (response["status"], response["output"]) == ("failed", [])
    assert response["error"]["code"] == "server_error"
    await retired(gateway, queued["id"])
    stream = await events(gateway, background=True)
    assert [event["type"] for event in stream[-2:]] == ["error", "response.failed"]
    failed = checked(stream[-1]["response"])
    assert (failed["status"], failed["output"]) == ("failed", [])
    assert await get(gateway, failed["id"]) == (200, failed)


async def test_a_shutdown_does_not_wait_for_a_database_that_fails(
    start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Any,
) -> None:
    state = {"state.url": f"sqlite:///{tmp_path}/state.db"}
    gateway = await start_gateway(**state)
    outage = Outage(gateway, monkeypatch)
    monkeypatch.setattr("gateway.responses.background.END_S", 0.05)
    following = asyncio.create_task(events(gateway, background=True))
    await outage.failed("in_progress", "completed", "completed")
    gateway.serving.stop()
    assert await gateway.task == 0
    stream = await following
    assert types(stream)[-1] == "output_item.done"
    response_id = stream[0]["response"]["id"]
    assert f"the end of the background response {response_id} is lost" in caplog.text
    again = await start_gateway(**state)
    assert (await get(again, response_id))[1]["status"] == "failed"


async def test_its_conversation_gets_it_once_the_database_works_again(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.responses.background.RETRY_S", 0.001)
    kept, tries = gateway.services.store.conversations, 0
    add = kept.add_items

    async def down_at_first(*args: Any, **kwargs: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise UnavailableError("down", code="storage_unavailable", retry_after_s=1)
        return await add(*args, **kwargs)

    conversation = await gateway.openai.conversations.create()
    monkeypatch.setattr(kept, "add_items", down_at_first)
    queued = await made(gateway, background=True, conversation=conversation.id)
    await retired(gateway, queued["id"])
    assert (await get(gateway, queued["id"]))[1]["status"] == "completed"
    items = await gateway.openai.conversations.items.list(conversation.id, order="asc")
    assert [item.role for item in items.data] == ["user", "assistant"]  # type: ignore[union-attr]
