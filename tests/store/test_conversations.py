"""Conversations and their items."""

from __future__ import annotations

import json

import pytest

from gateway.errors import InvalidRequestError
from gateway.store import conversations as stored
from gateway.store.paging import Slice
from gateway.store.state import Store
from tests.store.conftest import OpenStore, item

CONVERSATION = {"id": "conv_1", "object": "conversation", "created_at": 1, "metadata": {"a": "b"}}


@pytest.fixture
async def talk(store: Store) -> Store:
    """A store with a conversation of two items."""
    await store.conversations.create("ann", CONVERSATION, [item("a"), item("b")])
    return store


async def test_what_was_created_comes_back(talk: Store) -> None:
    assert json.loads(await talk.conversations.retrieve("ann", "conv_1") or b"") == CONVERSATION
    assert await talk.conversations.all_items("ann", "conv_1") == [item("a"), item("b")]
    found = await talk.conversations.retrieve_item("ann", "conv_1", "msg_b")
    assert json.loads(found or b"") == item("b")


async def test_another_owners_conversation_does_not_exist(talk: Store) -> None:
    there = talk.conversations
    assert await there.retrieve("bob", "conv_1") is None
    assert await there.update("bob", "conv_1", {}) is None
    assert not await there.delete("bob", "conv_1")
    assert not await there.add_items("bob", "conv_1", [item("c")])
    assert await there.list_items("bob", "conv_1", Slice()) is None
    assert await there.all_items("bob", "conv_1") is None
    assert await there.retrieve_item("bob", "conv_1", "msg_a") is None
    assert not await there.delete_item("bob", "conv_1", "msg_a")
    assert await there.all_items("ann", "conv_1") == [item("a"), item("b")]


async def test_items_of_one_conversation_are_not_in_another(talk: Store) -> None:
    await talk.conversations.create("ann", {**CONVERSATION, "id": "conv_2"}, [item("a")])
    assert not await talk.conversations.delete_item("ann", "conv_2", "msg_b")
    assert await talk.conversations.delete_item("ann", "conv_2", "msg_a")
    assert await talk.conversations.all_items("ann", "conv_1") == [item("a"), item("b")]
    with pytest.raises(InvalidRequestError):
        await talk.conversations.list_items("ann", "conv_2", Slice(after="msg_b"))


async def test_metadata_is_replaced(talk: Store) -> None:
    updated = await talk.conversations.update("ann", "conv_1", {"c": "d"})
    assert json.loads(updated or b"") == {**CONVERSATION, "metadata": {"c": "d"}}
    assert await talk.conversations.retrieve("ann", "conv_1") == updated


async def test_a_deleted_conversation_takes_its_items_along(talk: Store) -> None:
    assert await talk.conversations.delete("ann", "conv_1")
    assert not await talk.conversations.delete("ann", "conv_1")
    assert await talk.conversations.retrieve("ann", "conv_1") is None
    await talk.conversations.create("ann", CONVERSATION, [])
    assert await talk.conversations.all_items("ann", "conv_1") == []


async def test_items_that_are_there_are_not_added_again(talk: Store) -> None:
    with pytest.raises(InvalidRequestError, match="Duplicate item found with id msg_b"):
        await talk.conversations.add_items("ann", "conv_1", [item("c"), item("b")])
    assert await talk.conversations.all_items("ann", "conv_1") == [item("a"), item("b")]


async def test_conversations_and_items_are_bounded(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = open_store(max_object_bytes=1024).conversations
    await conversations.create("ann", CONVERSATION, [])
    with pytest.raises(InvalidRequestError) as refused:
        await conversations.add_items("ann", "conv_1", [item("a"), item("x" * 1024)])
    assert refused.value.param == "items[1]"
    monkeypatch.setattr(stored, "MAX_ITEMS", 2)
    assert await conversations.add_items("ann", "conv_1", [item("a"), item("b")])
    with pytest.raises(InvalidRequestError, match="may have 2 items"):
        await conversations.add_items("ann", "conv_1", [item("c")])
    monkeypatch.setattr(stored, "MAX_CONVERSATION_BYTES", 100)
    with pytest.raises(InvalidRequestError, match="too long"):
        await conversations.all_items("ann", "conv_1")
