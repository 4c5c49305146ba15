"""What was used before a budget was given counts, as soon as it can be summed up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from gateway.config import LedgerConfig, LimitsConfig
from gateway.errors import UnavailableError
from gateway.ledger import Entry, Ledger
from gateway.limits import Limiter
from gateway.protocol.tenancy import CreateKey, UpdateKey
from gateway.recall import Recall
from gateway.store.usage import Spent
from gateway.tenants import Window
from tests.tenants.conftest import ROOT, Site, made

pytestmark = pytest.mark.parametrize("url", ["memory"], indirect=True)

BUDGET = [{"unit": "tokens", "amount": 1000, "window": "total"}]


class Sums(Ledger):
    """A ledger that sums up when it may, and fails `failures` times before it does."""

    def __init__(self, site: Site) -> None:
        super().__init__(LedgerConfig(), site.database)
        self.may = asyncio.Event()
        self.may.set()
        self.failures: list[Exception] = []
        self.running = self.most = self.sums = 0

    async def spent(self, windows: Iterable[Window]) -> list[Spent]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.may.wait()
            if self.failures:
                raise self.failures.pop()
            return await super().spent(windows)
        finally:
            self.running -= 1
            self.sums += 1


@asynccontextmanager
async def recalling(site: Site, ledger: Ledger, limiter: Limiter) -> AsyncIterator[Recall]:
    recall = Recall(site.ring, ledger, limiter, retry_s=0.001)
    await ledger.start()
    await recall.start()
    try:
        yield recall
    finally:
        await recall.close()
        await ledger.close()


async def done(recall: Recall) -> None:
    async with asyncio.timeout(5):
        while recall.pending:
            await asyncio.sleep(0.001)


async def test_it_is_tried_until_it_succeeds(site: Site) -> None:
    ledger, limiter = Sums(site), Limiter(LimitsConfig())
    key, secret = await site.tenancy.create_key(ROOT, made(CreateKey, name="app"))
    async with recalling(site, ledger, limiter) as recall:
        used = Entry(request_id="r", at=time.time(), caller="app", endpoint="/", key_id=key.id)
        used.prompt_tokens, used.outcome, used.status, used.total_s = 900, "completed", 200, 1.0
        ledger.record(used)
        gone = UnavailableError("gone", retry_after_s=1)
        ledger.failures = [gone, RuntimeError("odd"), gone]
        await site.tenancy.update_key(ROOT, key.id, made(UpdateKey, budgets=BUDGET))
        await done(recall)
        assert ledger.failures == []
        assert (who := site.who(secret)) is not None
        assert limiter.capacity(who.accounts) == 100


async def test_many_budgets_at_once_are_one_sum_and_one_more(site: Site) -> None:
    ledger, limiter = Sums(site), Limiter(LimitsConfig())
    async with recalling(site, ledger, limiter) as recall:
        before = ledger.sums
        ledger.may.clear()
        for _ in range(10):
            await site.tenancy.create_key(ROOT, made(CreateKey, budgets=BUDGET))
            await asyncio.sleep(0)
        ledger.may.set()
        await done(recall)
        assert (ledger.most, ledger.sums - before) == (1, 2)


async def test_a_gateway_that_ends_waits_for_none(site: Site) -> None:
    ledger, limiter = Sums(site), Limiter(LimitsConfig())
    async with recalling(site, ledger, limiter) as recall, asyncio.timeout(5):
        ledger.may.clear()
        await site.tenancy.create_key(ROOT, made(CreateKey, budgets=BUDGET))
        while not ledger.running:
            await asyncio.sleep(0)
        await recall.close()
        assert (recall.pending, ledger.running) == (False, 0)
        await site.tenancy.create_key(ROOT, made(CreateKey, budgets=BUDGET))
        assert not recall.pending
        ledger.may.set()
