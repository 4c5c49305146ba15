"""Whatever is done to keys and teams, and whenever a gateway looks: it knows what is true then."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from gateway.errors import NotFoundError
from gateway.protocol.tenancy import CreateKey, CreateTeam, UpdateKey, UpdateTeam
from tests.store.conftest import Clock
from tests.tenants.conftest import ROOT, Site, made, site_of

NEVER = float("inf")


@dataclass
class Expected:
    """What is true of a key: its secrets with the time each is good until, its team, its limit."""

    secrets: dict[str, float]
    team: str | None
    rpm: int | None
    expires: float = NEVER
    revoked: bool = False


class Histories(RuleBasedStateMachine):
    """One gateway changes things, a second one looks now and then."""

    keys: Bundle[str] = Bundle("keys")
    teams: Bundle[str] = Bundle("teams")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.expected: dict[str, Expected] = {}
        self.limits: dict[str, int | None] = {}  # of teams that are there
        self.one, self.other = self.start(), self.start()

    def start(self) -> Site:
        site = site_of(f"sqlite:///{self.folder}/state.db", self.clock)
        self.runner.run(site.ring.start())
        return site

    def stop(self, site: Site) -> None:
        self.runner.run(site.ring.close())
        self.runner.run(site.database.close())

    def teardown(self) -> None:
        self.stop(self.one)
        self.stop(self.other)
        self.runner.close()
        shutil.rmtree(self.folder)

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    @rule(target=teams, rpm=st.none() | st.integers(1, 9))
    def create_team(self, rpm: int | None) -> str:
        wanted = made(CreateTeam, name=f"team {len(self.limits)} {self.clock.now}", rpm=rpm)
        team = self.do(self.one.tenancy.create_team(ROOT, wanted))
        self.clock.now += 1
        self.limits[team.id] = rpm
        return str(team.id)

    @rule(team=teams, rpm=st.none() | st.integers(1, 9))
    def update_team(self, team: str, rpm: int | None) -> None:
        self.do(self.one.tenancy.update_team(ROOT, team, made(UpdateTeam, rpm=rpm)))
        self.limits[team] = rpm

    @rule(team=consumes(teams))
    def delete_team(self, team: str) -> None:
        self.do(self.one.tenancy.delete_team(ROOT, team))
        del self.limits[team]

    @rule(target=keys, rpm=st.none() | st.integers(1, 9), life=st.none() | st.integers(1, 50))
    def create_key(self, rpm: int | None, life: int | None) -> str:
        expires = None if life is None else int(self.clock.now) + life
        wanted = made(CreateKey, rpm=rpm, expires_at=expires)
        key, secret = self.do(self.one.tenancy.create_key(ROOT, wanted))
        until = NEVER if expires is None else float(expires)
        self.expected[key.id] = Expected({secret: NEVER}, None, rpm, until)
        return str(key.id)

    @rule(key=keys, team=teams, rpm=st.none() | st.integers(1, 9))
    def update_key(self, key: str, team: str, rpm: int | None) -> None:
        self.do(self.one.tenancy.update_key(ROOT, key, made(UpdateKey, team=team, rpm=rpm)))
        self.expected[key].team, self.expected[key].rpm = team, rpm

    @rule(key=keys, grace_s=st.sampled_from([0, 5, 50]))
    def rotate_key(self, key: str, grace_s: int) -> None:
        _, secret = self.do(self.one.tenancy.rotate_key(ROOT, key, grace_s))
        last = list(self.expected[key].secrets)[-1]
        for old in self.expected[key].secrets:
            self.expected[key].secrets[old] = 0
        self.expected[key].secrets[last] = self.clock.now + grace_s if grace_s else 0
        self.expected[key].secrets[secret] = NEVER

    @rule(key=consumes(keys))
    def revoke_key(self, key: str) -> None:
        self.do(self.one.tenancy.revoke_key(ROOT, key))
        self.expected[key].revoked = True

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def change_what_isnt_there(self) -> None:
        try:
            self.do(self.one.tenancy.revoke_key(ROOT, "key_none"))
        except NotFoundError:
            return
        raise AssertionError

    @rule()
    def look(self) -> None:
        self.do(self.other.ring.refresh())
        self.agree(self.other)

    @rule()
    def restart(self) -> None:
        self.stop(self.other)
        self.other = self.start()
        self.agree(self.other)

    @invariant()
    def the_gateway_that_changes_things_knows_at_once(self) -> None:
        self.agree(self.one)

    def agree(self, site: Site) -> None:
        assert site.authenticator.required == bool(self.expected)
        for key_id, expected in self.expected.items():
            gone = expected.team is not None and expected.team not in self.limits
            refused = expected.revoked or gone or expected.expires <= self.clock.now
            for secret, until in expected.secrets.items():
                found = site.who(secret)
                if refused or until <= self.clock.now:
                    assert found is None
                    continue
                assert found is not None
                limits = {account.id: account.limits.rpm for account in found.accounts}
                wanted = {f"key:{key_id}": expected.rpm}
                if expected.team is not None:
                    wanted[f"team:{expected.team}"] = self.limits[expected.team]
                assert limits == {name: rpm for name, rpm in wanted.items() if rpm is not None}
                assert (found.key_id, found.team) == (key_id, expected.team)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
