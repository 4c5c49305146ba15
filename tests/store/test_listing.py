"""Whatever is saved and deleted in whatever order: lists are whole, in order, and one's own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from gateway.config import StateConfig
from gateway.store.paging import Order, Slice
from gateway.store.state import Store
from tests.store.conftest import USER, completion, item

OWNERS = st.sampled_from(["ann", "bob"])
LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2)


class StoreMachine(RuleBasedStateMachine):
    """A store in memory, and an event loop for it."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = Store(StateConfig(url="sqlite://"))
        self.next = 0

    def run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self.runner.run(wait())

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()


class CompletionLists(StoreMachine):
    saved = Bundle("saved")

    def __init__(self) -> None:
        super().__init__()
        # By owner and id: when it was created and saved, and its metadata.
        self.there: dict[tuple[str, str], tuple[tuple[int, int], dict[str, str]]] = {}

    @rule(target=saved, owner=OWNERS, second=st.integers(0, 3), metadata=LABELS)
    def save(self, owner: str, second: int, metadata: dict[str, str]) -> tuple[str, str]:
        self.next += 1
        given = completion(self.next, created=second)
        assert self.run(self.store.completions.save(owner, given, USER, metadata))
        self.there[owner, given["id"]] = (second, self.next), metadata
        return owner, given["id"]

    @rule(which=saved, metadata=LABELS)
    def label(self, which: tuple[str, str], metadata: dict[str, str]) -> None:
        updated = self.run(self.store.completions.update(*which, metadata))
        assert (updated is not None) == (which in self.there)
        if which in self.there:
            self.there[which] = self.there[which][0], metadata

    @rule(which=saved)
    def delete(self, which: tuple[str, str]) -> None:
        assert self.run(self.store.completions.delete(*which)) == (which in self.there)
        self.there.pop(which, None)

    @rule(owner=OWNERS, limit=st.integers(1, 3), order=st.sampled_from(["asc", "desc"]),
          metadata=LABELS, delete=st.booleans())  # fmt: skip
    def walk(
        self, owner: str, limit: int, order: Order, metadata: dict[str, str], delete: bool
    ) -> None:
        wanted = self._expected(owner, order, metadata)
        seen: list[str] = []
        more, after = True, None
        while more:
            part = Slice(limit, order, after)
            page = self.run(self.store.completions.list(owner, part, metadata=metadata))
            assert [json.loads(body)["id"] for body in page.bodies] == page.ids
            assert len(page.ids) == limit or not page.has_more
            seen += page.ids
            more, after = page.has_more, (page.ids or [None])[-1]
            for found in page.ids if delete else ():
                self.delete((owner, found))
        assert seen == wanted

    @invariant()
    def what_is_there_is_found(self) -> None:
        for owner in ("ann", "bob"):
            page = self.run(self.store.completions.list(owner, Slice(100)))
            assert page.ids == self._expected(owner, "asc", {})

    def _expected(self, owner: str, order: Order, metadata: dict[str, str]) -> list[str]:
        mine = [
            (when, found)
            for (whose, found), (when, labels) in self.there.items()
            if whose == owner and metadata.items() <= labels.items()
        ]
        return [found for _, found in sorted(mine, reverse=order == "desc")]


class ConversationItems(StoreMachine):
    added = Bundle("added")

    def __init__(self) -> None:
        super().__init__()
        self.run(self.store.conversations.create("ann", {"id": "conv_1", "metadata": {}}, []))
        self.there: list[str] = []

    @rule(target=added, count=st.integers(1, 3))
    def add(self, count: int) -> Any:
        items = [item(str(self.next + place)) for place in range(count)]
        self.next += count
        assert self.run(self.store.conversations.add_items("ann", "conv_1", items))
        self.there += [given["id"] for given in items]
        return multiple(*(given["id"] for given in items))

    @rule(target=added, which=consumes(added))
    def delete_and_sometimes_add_again(self, which: str) -> str:
        conversations = self.store.conversations
        deleted = self.run(conversations.delete_item("ann", "conv_1", which))
        assert deleted == (which in self.there)
        if deleted:
            self.there.remove(which)
        else:
            again = [item(which.removeprefix("msg_"))]
            assert self.run(conversations.add_items("ann", "conv_1", again))
            self.there.append(which)
        return which

    @rule(which=added, order=st.sampled_from(["asc", "desc"]), limit=st.integers(1, 3))
    def continue_behind_any_item(self, which: str, order: Order, limit: int) -> None:
        if which not in self.there:
            return
        part = Slice(limit, order, which)
        page = self.run(self.store.conversations.list_items("ann", "conv_1", part))
        line = self.there if order == "asc" else self.there[::-1]
        behind = line[line.index(which) + 1 :]
        assert page.ids == behind[:limit]
        assert page.has_more == (len(behind) > limit)

    @invariant()
    def all_are_there_in_order(self) -> None:
        items = self.run(self.store.conversations.all_items("ann", "conv_1"))
        assert [found["id"] for found in items] == self.there
        for gone in ("bob", "conv_1"), ("ann", "conv_2"):
            assert self.run(self.store.conversations.all_items(*gone)) is None


for machine in (CompletionLists, ConversationItems):
    machine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)

TestCompletionLists = CompletionLists.TestCase
TestConversationItems = ConversationItems.TestCase
