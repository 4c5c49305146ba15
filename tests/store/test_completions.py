"""Stored chat completions."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Any

import pytest

from gateway.errors import InvalidRequestError
from gateway.store.paging import Slice
from gateway.store.state import Store
from tests.store.conftest import USER, OpenStore, completion


async def saved(store: Store, numbers: Iterable[int], owner: str = "ann", **fields: Any) -> None:
    for number in numbers:
        assert await store.completions.save(owner, completion(number, **fields), USER)


def names(*numbers: int) -> list[str]:
    return [f"chatcmpl-{number}" for number in numbers]


async def test_what_was_saved_comes_back_with_its_metadata(store: Store) -> None:
    given = completion(1)
    await store.completions.save("ann", given, USER, {"topic": "snow"})
    found = await store.completions.retrieve("ann", "chatcmpl-1")
    assert found is not None
    assert json.loads(found) == {**given, "metadata": {"topic": "snow"}}


async def test_without_metadata_it_is_empty(store: Store) -> None:
    await saved(store, [1])
    assert (
        json.loads(await store.completions.retrieve("ann", "chatcmpl-1") or b"")["metadata"] == {}
    )


async def test_another_owners_completion_does_not_exist(store: Store) -> None:
    await saved(store, [1])
    completions = store.completions
    assert await completions.retrieve("bob", "chatcmpl-1") is None
    assert await completions.messages("bob", "chatcmpl-1", Slice()) is None
    assert await completions.update("bob", "chatcmpl-1", {"a": "b"}) is None
    assert not await completions.delete("bob", "chatcmpl-1")
    assert (await completions.list("bob", Slice())).ids == []
    with pytest.raises(InvalidRequestError):
        await completions.list("bob", Slice(after="chatcmpl-1"))
    assert await completions.retrieve("ann", "chatcmpl-1") is not None


async def test_lists_go_by_time_of_creation_and_then_of_saving(store: Store) -> None:
    await saved(store, [5, 3], created=1_700_000_003)
    await saved(store, [1, 4])
    assert (await store.completions.list("ann", Slice())).ids == names(1, 5, 3, 4)
    assert (await store.completions.list("ann", Slice(order="desc"))).ids == names(4, 3, 5, 1)


async def test_pages_continue_where_the_last_ended(store: Store) -> None:
    await saved(store, range(5))
    first = await store.completions.list("ann", Slice(limit=2))
    assert (first.ids, first.has_more) == (names(0, 1), True)
    second = await store.completions.list("ann", Slice(limit=3, after=first.ids[-1]))
    assert (second.ids, second.has_more) == (names(2, 3, 4), False)


async def test_a_list_goes_on_behind_what_was_deleted_meanwhile(store: Store) -> None:
    await saved(store, range(4))
    first = await store.completions.list("ann", Slice(limit=2))
    for found in first.ids:
        await store.completions.delete("ann", found)
    rest = await store.completions.list("ann", Slice(after=first.ids[-1]))
    assert rest.ids == names(2, 3)


async def test_a_page_ends_early_rather_than_be_large(open_store: OpenStore) -> None:
    store = open_store(max_object_bytes=32 * 1024 * 1024)
    await saved(store, range(3), choices=["x" * 9_000_000])
    page = await store.completions.list("ann", Slice())
    assert (page.ids, page.has_more) == (names(0), True)


async def test_lists_can_be_narrowed_by_model_and_metadata(store: Store) -> None:
    for number, (model, metadata) in enumerate(
        [("m", {"a": "1", "b": "2"}), ("m", {"a": "1"}), ("n", {"a": "1", "b": "2"})]
    ):
        await store.completions.save("ann", completion(number, model=model), USER, metadata)

    async def found(**filters: Any) -> list[str]:
        return list((await store.completions.list("ann", Slice(), **filters)).ids)

    assert await found(model="m") == names(0, 1)
    assert await found(metadata={"a": "1"}) == names(0, 1, 2)
    assert await found(model="m", metadata={"a": "1", "b": "2"}) == names(0)
    assert await found(metadata={"a": "2"}) == []
    assert await found(metadata={'"; --': "\0"}) == []


async def test_updated_metadata_is_shown_and_found(store: Store) -> None:
    await store.completions.save("ann", completion(1), USER, {"old": "x"})
    updated = await store.completions.update("ann", "chatcmpl-1", {"new": "y"})
    assert updated == await store.completions.retrieve("ann", "chatcmpl-1")
    assert json.loads(updated or b"") == {**completion(1), "metadata": {"new": "y"}}
    assert (await store.completions.list("ann", Slice(), metadata={"old": "x"})).ids == []
    assert (await store.completions.list("ann", Slice(), metadata={"new": "y"})).ids == names(1)


async def test_what_was_deleted_is_gone(store: Store) -> None:
    await saved(store, [1, 2])
    assert await store.completions.delete("ann", "chatcmpl-1")
    assert not await store.completions.delete("ann", "chatcmpl-1")
    assert await store.completions.retrieve("ann", "chatcmpl-1") is None
    assert await store.completions.update("ann", "chatcmpl-1", {}) is None
    assert await store.completions.messages("ann", "chatcmpl-1", Slice()) is None
    assert (await store.completions.list("ann", Slice())).ids == names(2)


async def test_messages_have_ids_and_pages(store: Store) -> None:
    asked = [{"role": "user", "content": str(number)} for number in range(3)]
    await store.completions.save("ann", completion(1), asked)
    page = await store.completions.messages("ann", "chatcmpl-1", Slice(limit=2))
    assert page is not None
    assert (page.ids, page.has_more) == (["chatcmpl-1-0", "chatcmpl-1-1"], True)
    assert [json.loads(body) for body in page.bodies] == asked[:2]
    back = Slice(order="desc", after="chatcmpl-1-1")
    rest = await store.completions.messages("ann", "chatcmpl-1", back)
    assert rest is not None
    assert (rest.ids, rest.has_more) == (["chatcmpl-1-0"], False)
    with pytest.raises(InvalidRequestError, match="after"):
        await store.completions.messages("ann", "chatcmpl-1", Slice(after="chatcmpl-1-3"))


async def test_what_is_too_large_is_not_kept_and_nothing_fails(
    open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    # Whatever other tests have told the loggers above it.
    caplog.set_level(logging.WARNING, "gateway.store.completions")
    store = open_store(max_object_bytes=1024)
    assert not await store.completions.save("ann", completion(1, choices="x" * 1024), USER)
    assert await store.completions.retrieve("ann", "chatcmpl-1") is None
    assert "state.max_object_bytes" in caplog.text


async def test_many_at_once_are_all_kept(store: Store) -> None:
    done = await asyncio.gather(
        *(store.completions.save("ann", completion(number), USER) for number in range(300)),
        *(store.completions.list("ann", Slice(limit=100)) for _ in range(20)),
    )
    assert done[:300] == [True] * 300
    page, seen = await store.completions.list("ann", Slice(limit=100)), 0
    while page.ids:
        seen += len(page.ids)
        page = await store.completions.list("ann", Slice(limit=100, after=page.ids[-1]))
    assert seen == 300


@pytest.mark.parametrize("strange", ["\0", "x\ud800", "é" * 5000, "' OR 1=1 --", ""])
async def test_strange_names_are_just_not_found(store: Store, strange: str) -> None:
    assert await store.completions.retrieve("ann", strange) is None
    with pytest.raises(InvalidRequestError):
        await store.completions.list("ann", Slice(after=strange))
    assert (await store.completions.list("ann", Slice(), model=strange)).ids == []
