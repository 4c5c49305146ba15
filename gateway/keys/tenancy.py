"""Changing keys and teams, and looking at them. Each change and its row in the audit log are one
transaction."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection

from gateway.config import ConfigError
from gateway.keys import changes
from gateway.keys.changes import Done
from gateway.keys.objects import encode
from gateway.keys.pepper import Pepper
from gateway.keys.ring import KeyRing
from gateway.keys.secret import Seal, new_secret
from gateway.protocol.tenancy import CreateKey, CreateTeam, UpdateKey, UpdateTeam
from gateway.store import tenancy, tenancy_view
from gateway.store.database import Database
from gateway.store.paging import Slice, unknown_cursor
from gateway.store.tenancy import AuditEvent, EventsWanted, KeysWanted, Team, VirtualKey

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Tenancy:
    """Keys and teams, for administrators; `actor` is who that is, for the log.

    `ring` is this gateway's own, told of each change at once. `clock` tells seconds since the
    epoch. Methods raise UnavailableError (503) where the database fails, NotFoundError (404) where
    there is no such key or team, InvalidRequestError (400, 409) for what can't be.
    """

    def __init__(
        self,
        database: Database,
        pepper: Pepper,
        ring: KeyRing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._pepper = pepper
        self._ring = ring
        self._clock = clock

    async def create_key(self, actor: str, wanted: CreateKey) -> tuple[VirtualKey, str]:
        """The key, and its secret, which nobody can tell again. Raises ConfigError where the
        pepper is gone, can't be made, or isn't that of the other keys."""
        seal = await self._seal()
        secret = new_secret()
        key = await self._change(
            actor, lambda c, now: changes.create_key(c, now, wanted, secret, seal)
        )
        return key, secret

    async def update_key(self, actor: str, key_id: str, wanted: UpdateKey) -> VirtualKey:
        return await self._change(actor, lambda c, now: changes.update_key(c, now, key_id, wanted))

    async def rotate_key(
        self, actor: str, key_id: str, grace_s: float = 0
    ) -> tuple[VirtualKey, str]:
        """Give a key a new secret; the one before is good for `grace_s` more seconds, any earlier
        one no longer. Raises ConfigError where the pepper is gone. Another one is fine: rotating
        is how a key gets over the loss of its own."""
        seal = await self._seal()
        secret = new_secret()
        key = await self._change(
            actor, lambda c, now: changes.rotate_key(c, now, key_id, secret, seal, grace_s)
        )
        return key, secret

    async def revoke_key(self, actor: str, key_id: str) -> VirtualKey:
        """For good; once more changes nothing."""
        return await self._change(actor, lambda c, now: changes.revoke_key(c, now, key_id))

    async def create_team(self, actor: str, wanted: CreateTeam) -> Team:
        return await self._change(actor, lambda c, now: changes.create_team(c, now, wanted))

    async def update_team(self, actor: str, team_id: str, wanted: UpdateTeam) -> Team:
        return await self._change(actor, lambda c, _: changes.update_team(c, team_id, wanted))

    async def delete_team(self, actor: str, team_id: str) -> Team:
        """For good, and its keys are refused from then on; once more changes nothing."""
        return await self._change(actor, lambda c, now: changes.delete_team(c, now, team_id))

    async def note(self, actor: str, action: str, name: str, detail: Mapping[str, Any]) -> None:
        """Write down what an administrator did to something that isn't kept here."""
        await self._change(actor, lambda _c, _now: (None, Done(action, name, detail)))

    async def key(self, key_id: str) -> VirtualKey:
        now = self._clock()
        return await self._database.read(lambda c: changes.find_key(c, now, key_id))

    async def keys(self, wanted: KeysWanted, part: Slice) -> tuple[list[VirtualKey], bool]:
        """Some of the keys by their creation, and whether there are more."""
        now = self._clock()

        def page(connection: Connection) -> list[VirtualKey]:
            if part.after is not None and not tenancy.key_exists(connection, part.after):
                raise unknown_cursor(part.after)
            return tenancy.find_keys(
                connection, wanted, now, after=part.after, limit=part.limit + 1, order=part.order
            )

        found = await self._database.read(page)
        return found[: part.limit], len(found) > part.limit

    async def team(self, team_id: str) -> Team:
        return await self._database.read(lambda c: changes.find_team(c, team_id))

    async def team_named(self, name: str) -> Team | None:
        return await self._database.read(lambda c: tenancy.team_named(c, name))

    async def teams(self, part: Slice) -> tuple[list[Team], bool]:
        """Some of the teams by their creation, and whether there are more."""

        def page(connection: Connection) -> list[Team]:
            if part.after is not None and tenancy.find_team(connection, part.after) is None:
                raise unknown_cursor(part.after)
            return tenancy.find_teams(
                connection, after=part.after, limit=part.limit + 1, order=part.order
            )

        found = await self._database.read(page)
        return found[: part.limit], len(found) > part.limit

    async def active_keys(self, team_id: str) -> int:
        """How many keys of a team are accepted."""
        now = self._clock()
        return await self._database.read(lambda c: tenancy.count_active_keys(c, team_id, now))

    async def events(
        self, wanted: EventsWanted, part: Slice, after: int | None
    ) -> tuple[list[AuditEvent], bool]:
        """Some of the audit log behind the event `after`, and whether there are more."""

        def page(connection: Connection) -> list[AuditEvent]:
            if after is not None and not tenancy.event_exists(connection, after):
                raise unknown_cursor(part.after or str(after))
            return tenancy.find_events(
                connection, wanted, after=after, limit=part.limit + 1, order=part.order
            )

        found = await self._database.read(page)
        return found[: part.limit], len(found) > part.limit

    async def _seal(self) -> Seal:
        any_keys = await self._database.read(tenancy_view.any_keys)
        seal = await asyncio.to_thread(self._pepper.require if any_keys else self._pepper.make)
        # What is made with a pepper that came later would be refused by this very gateway.
        if self._ring is not None and self._ring.pepper not in (None, seal.fingerprint):
            raise ConfigError(
                "auth: the pepper of the keys isn't the one this gateway started with: put that "
                "one back, or start the gateway again"
            )
        return seal

    async def _change(
        self, actor: str, change: Callable[[Connection, float], tuple[T, Done | None]]
    ) -> T:
        now = self._clock()

        def alone(connection: Connection) -> tuple[T, Done | None]:
            tenancy.lock(connection)
            changed, done = change(connection, now)
            if done is not None:
                event = AuditEvent(now, actor, done.action, done.object, encode(done.detail))
                tenancy.record(connection, event)
            return changed, done

        changed, done = await self._database.write(alone)
        if done is not None:
            logger.info("%s %s", done.action, done.object, extra={"actor": actor})
        if self._ring is not None:
            await self._ring.refresh()
        return changed
