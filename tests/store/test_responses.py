"""Responses: their states, their input items, and the chains they make."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import InvalidRequestError
from gateway.store import responses as stored
from gateway.store.instances import LEASE_S
from gateway.store.paging import Slice
from gateway.store.state import Store
from tests.store.conftest import Clock, OpenStore, item, response


async def status_of(store: Store, number: int) -> Any:
    found = await store.responses.retrieve("ann", f"resp_{number}")
    assert found is not None
    return json.loads(found)["status"]


async def test_what_was_created_comes_back(store: Store) -> None:
    await store.responses.create("ann", response(1), [item("a")])
    assert json.loads(await store.responses.retrieve("ann", "resp_1") or b"") == response(1)


async def test_another_owners_response_does_not_exist(store: Store) -> None:
    await store.responses.create("ann", response(1, status="queued"), [item("a")])
    assert await store.responses.retrieve("bob", "resp_1") is None
    assert await store.responses.input_items("bob", "resp_1", Slice()) is None
    assert await store.responses.chain("bob", "resp_1") is None
    assert not await store.responses.update("bob", response(1))
    assert not await store.responses.delete("bob", "resp_1")
    await store.responses.create("bob", response(2, previous_response_id="resp_1"), [])
    assert await store.responses.chain("bob", "resp_2") is None


async def test_a_response_goes_from_queued_to_its_end(store: Store) -> None:
    await store.responses.create("ann", response(1, status="queued"), [])
    assert await store.responses.update("ann", response(1, status="in_progress"))
    assert await store.responses.update("ann", response(1, status="in_progress", output=[]))
    assert await store.responses.update("ann", response(1))
    assert await status_of(store, 1) == "completed"


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed", "cancelled"])
async def test_what_has_ended_stays_as_it_is(store: Store, end: str) -> None:
    await store.responses.create("ann", response(1, status="queued"), [])
    assert await store.responses.update("ann", response(1, status=end))
    for late in ("in_progress", "completed", "cancelled"):
        assert not await store.responses.update("ann", response(1, status=late))
    assert await status_of(store, 1) == end


async def test_a_deleted_response_is_not_updated(store: Store) -> None:
    await store.responses.create("ann", response(1, status="queued"), [item("a")])
    assert await store.responses.delete("ann", "resp_1")
    assert not await store.responses.update("ann", response(1))
    assert await store.responses.retrieve("ann", "resp_1") is None
    assert await store.responses.input_items("ann", "resp_1", Slice()) is None


async def test_input_items_keep_their_order_and_have_pages(store: Store) -> None:
    items = [item(name) for name in "cab"]
    await store.responses.create("ann", response(1), items)
    page = await store.responses.input_items("ann", "resp_1", Slice(limit=2))
    assert page is not None
    assert [json.loads(body) for body in page.bodies] == items[:2]
    assert page.has_more
    part = Slice(order="desc", after="msg_b")
    page = await store.responses.input_items("ann", "resp_1", part)
    assert page is not None
    assert page.ids == ["msg_a", "msg_c"]
    with pytest.raises(InvalidRequestError):
        await store.responses.input_items("ann", "resp_1", Slice(after="msg_x"))


async def test_two_input_items_may_not_have_one_id(store: Store) -> None:
    with pytest.raises(InvalidRequestError, match="Duplicate item found with id msg_a"):
        await store.responses.create("ann", response(1), [item("a"), item("a")])


async def test_a_chain_is_everything_said_oldest_first(store: Store) -> None:
    for number in (1, 2, 3):
        previous = f"resp_{number - 1}" if number > 1 else None
        given = response(number, previous_response_id=previous)
        await store.responses.create("ann", given, [item(f"{number}a"), item(f"{number}b")])
    chain = await store.responses.chain("ann", "resp_2")
    assert chain is not None
    assert [found["id"] for found in chain] == [
        *("msg_1a", "msg_1b", "msg_answer1"),
        *("msg_2a", "msg_2b", "msg_answer2"),
    ]


async def test_a_chain_with_a_deleted_response_is_none(store: Store) -> None:
    await store.responses.create("ann", response(1), [])
    await store.responses.create("ann", response(2, previous_response_id="resp_1"), [])
    assert await store.responses.chain("ann", "resp_2") is not None
    await store.responses.delete("ann", "resp_1")
    assert await store.responses.chain("ann", "resp_2") is None


async def test_chains_are_bounded_in_length_and_size(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 5):
        previous = f"resp_{number - 1}" if number > 1 else None
        await store.responses.create("ann", response(number, previous_response_id=previous), [])
    monkeypatch.setattr(stored, "MAX_CHAIN", 3)
    assert len(await store.responses.chain("ann", "resp_3") or []) == 3
    with pytest.raises(InvalidRequestError) as refused:
        await store.responses.chain("ann", "resp_4")
    assert refused.value.param == "previous_response_id"
    monkeypatch.setattr(stored, "MAX_CHAIN_BYTES", 200)
    with pytest.raises(InvalidRequestError):
        await store.responses.chain("ann", "resp_3")


async def test_too_large_an_input_is_refused_and_too_large_an_output_fails(
    open_store: OpenStore,
) -> None:
    store = open_store(max_object_bytes=1024)
    with pytest.raises(InvalidRequestError) as refused:
        await store.responses.create("ann", response(1), [item("x" * 1024)])
    assert refused.value.param == "input"
    await store.responses.create("ann", response(1, status="in_progress"), [])
    assert await store.responses.update("ann", response(1, output=["x" * 1024]))
    found = json.loads(await store.responses.retrieve("ann", "resp_1") or b"")
    assert (found["status"], found["output"]) == ("failed", [])
    assert "1024 bytes" in found["error"]["message"]


async def test_what_a_gateway_leaves_behind_when_it_ends_has_failed(
    store: Store, clock: Clock
) -> None:
    await store.start()
    await store.responses.create("ann", response(1, status="in_progress", output=["some"]), [])
    left: list[int] = []
    await store.database.write(lambda c: left.append(stored.fail_abandoned(c, clock())))
    assert left == [0]
    clock.now += LEASE_S + 1
    await store.database.write(lambda c: left.append(stored.fail_abandoned(c, clock())))
    found = json.loads(await store.responses.retrieve("ann", "resp_1") or b"")
    assert found["status"] == "failed"
    assert found["output"] == ["some"]
    assert found["error"]["code"] == "server_error"
    assert not await store.responses.update("ann", response(1))
