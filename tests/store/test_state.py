"""Upkeep: several gateways on one database, what a dead one leaves behind, retention."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, select

from gateway.config import StateConfig
from gateway.store import upkeep
from gateway.store.instances import LEASE_S
from gateway.store.paging import Slice
from gateway.store.schema import conversation_items, response_items
from gateway.store.state import Store
from gateway.store.upkeep import DAY_S
from tests.store.conftest import SHARED, USER, Clock, OpenStore, completion, item, response

pytestmark = pytest.mark.parametrize("url", SHARED, indirect=True)


async def status_of(store: Store, number: int) -> Any:
    return json.loads(await store.responses.retrieve("ann", f"resp_{number}") or b"{}").get(
        "status"
    )


async def test_a_gateway_that_ends_lets_its_running_responses_fail(url: str) -> None:
    first = Store(StateConfig(url=url))
    await first.start()
    await first.responses.create("ann", response(1, status="queued"), [])
    await first.responses.create("ann", response(2), [])
    await first.close()
    second = Store(StateConfig(url=url))
    assert await status_of(second, 1) == "failed"
    assert await status_of(second, 2) == "completed"
    await second.close()


async def test_what_a_killed_gateway_ran_fails_once_it_is_missed(
    open_store: OpenStore, clock: Clock
) -> None:
    killed, other = open_store(), open_store()
    await killed.upkeep()
    await killed.responses.create("ann", response(1, status="in_progress"), [])
    clock.now += LEASE_S / 2
    await other.upkeep()
    await other.responses.create("ann", response(2, status="in_progress"), [])
    assert await status_of(other, 1) == "in_progress"
    clock.now += LEASE_S / 2 + 1
    await other.upkeep()
    assert await status_of(other, 1) == "failed"
    assert await status_of(other, 2) == "in_progress"


async def test_what_another_living_gateway_runs_is_left_alone(
    open_store: OpenStore, clock: Clock
) -> None:
    one, other = open_store(), open_store()
    await one.upkeep()
    await one.responses.create("ann", response(1, status="in_progress"), [])
    for _ in range(10):
        clock.now += LEASE_S / 2
        await one.upkeep()
        await other.upkeep()
    assert await one.responses.update("ann", response(1))


async def test_what_is_too_old_is_deleted_with_all_that_belongs_to_it(
    open_store: OpenStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "PURGED_AT_ONCE", 2)
    store = open_store(retention_days=2)
    old, young = clock.now - 3 * DAY_S, clock.now - DAY_S
    for number in range(5):
        at = young if number == 4 else old
        given = completion(number, created=int(at))
        await store.completions.save("ann", given, USER, {"a": "b"})
        await store.responses.create("ann", response(number, created_at=at), [item("a")])
    await store.conversations.create("ann", {"id": "conv_1", "created_at": int(old)}, [item("a")])
    await store.upkeep()
    assert (await store.completions.list("ann", Slice())).ids == ["chatcmpl-4"]
    assert (await store.completions.list("ann", Slice(), metadata={"a": "b"})).ids == ["chatcmpl-4"]
    assert [await status_of(store, number) for number in range(5)] == [*[None] * 4, "completed"]
    rows = select(func.count()).select_from(response_items)
    assert await store.database.read(lambda connection: connection.scalar(rows)) == 1
    assert await store.conversations.all_items("ann", "conv_1") == [item("a")]


async def test_whoever_deletes_what_they_list_goes_on_however_old_the_items_are(
    open_store: OpenStore, clock: Clock
) -> None:
    store = open_store(retention_days=1)
    items = [item(name) for name in "abcd"]
    await store.conversations.create("ann", {"id": "conv_1"}, items)
    clock.now += 2 * DAY_S
    page = await store.conversations.list_items("ann", "conv_1", Slice(limit=2))
    assert page is not None
    for name in page.ids:
        await store.conversations.delete_item("ann", "conv_1", name)
    await store.upkeep()
    rest = await store.conversations.list_items("ann", "conv_1", Slice(after=page.ids[-1]))
    assert rest is not None
    assert list(rest.ids) == ["msg_c", "msg_d"]


async def test_the_traces_of_deleted_items_go_with_time(
    open_store: OpenStore, clock: Clock
) -> None:
    store = open_store(retention_days=1)
    await store.conversations.create("ann", {"id": "conv_1"}, [item("a"), item("b")])
    await store.conversations.delete_item("ann", "conv_1", "msg_a")
    clock.now += 2 * DAY_S
    await store.upkeep()
    rows = select(func.count()).select_from(conversation_items)
    assert await store.database.read(lambda connection: connection.scalar(rows)) == 1
