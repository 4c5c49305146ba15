"""The keys that are let in, in memory, and never far behind the database."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from gateway.config import ConfigError
from gateway.errors import UnavailableError
from gateway.keys.pepper import Pepper
from gateway.keys.secret import PREFIX, Seal
from gateway.store.database import Database
from gateway.store.tenancy import Team
from gateway.store.tenancy_view import LiveKey, Mark, News, news
from gateway.tenants import Account, Budget, Principal

logger = logging.getLogger(__name__)


class _Entry(msgspec.Struct, gc=False):
    """A secret that is good `until` then, and who comes with it: made at its first use, anew where
    its `team` has changed."""

    hash: bytes
    until: float | None
    key: LiveKey
    team: Team | None = None
    principal: Principal | None = None


class KeyRing:
    """Recognises virtual keys. What is changed through this gateway acts once `refresh` has
    returned; what others change, `refresh_s` later.

    While the database can't be read, what was known last stays. `clock` tells seconds since the
    epoch. Raises ConfigError where the configured pepper can't be used.
    """

    def __init__(
        self,
        database: Database,
        pepper: Pepper,
        refresh_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._pepper = pepper
        self._refresh_s = refresh_s
        self._clock = clock
        # Called where a key or team with budgets is new or has changed.
        self.on_budgets: Callable[[], None] | None = None
        self._seal: Seal | None = pepper.find()
        self._mark: Mark | None = None
        self._read_at = 0.0
        self._any_keys = False
        self._teams: dict[str, Team] = {}
        self._entries: dict[bytes, _Entry] = {}
        self._hashes: dict[str, tuple[bytes, ...]] = {}
        self._refreshing = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None
        self._trouble: str | None = None

    def __len__(self) -> int:
        """How many keys there are that aren't revoked."""
        return len(self._hashes)

    @property
    def pepper(self) -> str | None:
        """The fingerprint of the pepper that keys are recognised with; None: not known yet."""
        return None if self._seal is None else self._seal.fingerprint

    @property
    def required(self) -> bool:
        """Whether a key was ever made, or that isn't known yet. It never becomes false again:
        whoever revokes the last key doesn't want to let everyone in."""
        return self._any_keys or self._mark is None

    def find(self, secret: str) -> Principal | None:
        """Who comes with this key; None: it isn't one, was revoked, has expired, or its team was
        deleted."""
        if self._seal is None or not secret.startswith(PREFIX):
            return None
        sealed = self._seal(secret.encode())
        # The table is searched for what nobody can choose without the pepper, so the time that
        # takes tells nothing.
        entry = self._entries.get(sealed)
        if entry is None or not hmac.compare_digest(entry.hash, sealed):
            return None
        if entry.until is not None and entry.until <= self._clock():
            return None
        team_id = entry.key.team_id
        if team_id is None:
            return entry.principal or _admit(entry, None)
        team = self._teams.get(team_id)
        if team is None:
            return None
        if entry.principal is None or entry.team is not team:
            return _admit(entry, team)
        return entry.principal

    def budgets(self) -> Iterator[Budget]:
        """Those of every key and team."""
        for team in self._teams.values():
            yield from team.settings.limits.budgets
        for entry in self._entries.values():
            yield from entry.key.settings.limits.budgets

    async def start(self) -> None:
        """Learn all keys, then follow changes until `close`.

        Raises UnavailableError where the database can't be read, ConfigError where there are keys
        but not their pepper.
        """
        await self._read()
        if self._any_keys:
            self._pepper.require()
        if not self._database.in_memory:  # else nobody but this gateway can change it
            self._polling = asyncio.create_task(self._poll(), name="key-ring")

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling

    async def refresh(self) -> None:
        """Return when what is in the database now acts here; where it can't be read, the log has
        it, once, and what was known stays."""
        try:
            await self._read()
        except UnavailableError as error:
            self._report(error.message)
        except Exception as error:
            if self._trouble != repr(error):
                logger.exception("keys and teams can't be read")
            self._trouble = repr(error)
        else:
            if self._trouble is not None:
                logger.info("keys and teams can be read again")
            self._trouble = None

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            await self.refresh()

    async def _read(self) -> None:
        async with self._refreshing:
            now = self._clock()
            # What has expired isn't read. Where the clock was set back, some of that is good again.
            seen = self._mark if now >= self._read_at else None
            found = await self._database.read(
                partial(news, seen=seen, now=now),
                lane="keys",
                # After the first failure the log needn't have each.
                quiet=self._trouble is not None,
            )
            self._read_at = now
            if found is not None:
                self._learn(found)

    def _report(self, trouble: str) -> None:
        if self._trouble is None:
            logger.error("keys and teams can't be read; what was known of them stays in force")
        self._trouble = trouble

    def _learn(self, found: News) -> None:
        if found.changed is None:
            self._entries.clear()
            self._hashes.clear()
            self._teams.clear()
        for name in found.changed or ():
            self._teams.pop(name, None)
            for sealed in self._hashes.pop(name, ()):
                del self._entries[sealed]
        for team in found.teams:
            self._teams[team.id] = team
        for key in found.keys:
            entries = {entry.hash: entry for entry in _entries(key)}
            self._entries.update(entries)
            self._hashes[key.id] = tuple(entries)
        budgets = [team.settings.limits.budgets for team in found.teams]
        budgets += [key.settings.limits.budgets for key in found.keys]
        if any(budgets) and self.on_budgets is not None:
            self.on_budgets()
        self._mark, self._any_keys = found.mark, found.any_keys
        if found.any_keys:
            self._find_pepper(found)

    def _find_pepper(self, found: News) -> None:
        """It is made with the first key, maybe by another program."""
        if self._seal is None:
            try:
                self._seal = self._pepper.require()
            except ConfigError as error:
                logger.error("no virtual key can be recognised: %s", error)
                return
        ours = self._seal.fingerprint
        strange = sum(key.settings.pepper != ours for key in found.keys)
        if strange:
            logger.warning(
                "%s refused: made with another pepper than this gateway has",
                "1 key is" if strange == 1 else f"{strange} keys are",
            )


def _entries(key: LiveKey) -> Iterator[_Entry]:
    yield _Entry(key.hash, key.expires, key)
    previous = key.settings.previous
    if previous is not None:
        ends = (previous.until, key.expires)
        yield _Entry(previous.hash, min(end for end in ends if end is not None), key)


def _admit(entry: _Entry, team: Team | None) -> Principal:
    key, settings = entry.key, entry.key.settings
    limited = [(f"key:{key.id}", settings.limits)]
    if team is not None:
        limited.append((f"team:{team.id}", team.settings.limits))
    principal = Principal(
        name=key.name,
        owner=team.id if team is not None else key.id,
        key_id=key.id,
        team=team.id if team is not None else None,
        weight=team.settings.weight if team is not None else settings.weight,
        priority=settings.priority,
        scopes=settings.scopes,
        accounts=tuple(Account(name, limits) for name, limits in limited if limits.any),
    )
    entry.team, entry.principal = team, principal
    return principal
