"""Virtual keys are recognised as they are now, in every gateway on the database."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from gateway.config import ConfigError
from gateway.errors import UnavailableError
from gateway.protocol.tenancy import CreateKey, CreateTeam, UpdateKey, UpdateTeam
from gateway.store.database import Lane
from gateway.store.tenant_tables import virtual_keys
from gateway.tenants import ANONYMOUS, Account, Budget, Limits, Principal, Scopes
from tests.tenants.conftest import ROOT, SHARED, Clock, OpenSite, Site, made

shared = pytest.mark.parametrize("url", SHARED, indirect=True)
sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


async def new_key(site: Site, **fields: object) -> tuple[str, str]:
    """The id and the secret of a new key."""
    key, secret = await site.tenancy.create_key(ROOT, made(CreateKey, **fields))
    return key.id, secret


async def new_team(site: Site, **fields: object) -> str:
    return (await site.tenancy.create_team(ROOT, made(CreateTeam, **fields))).id


async def test_a_key_of_its_own_comes_with_all_it_was_given(site: Site) -> None:
    key_id, secret = await new_key(
        site,
        name="my-app",
        rpm=60,
        budgets=[{"unit": "cost", "amount": 25, "window": "month"}],
        models=["small"],
        endpoints=["/v1/chat/completions/"],
        weight=3,
        priority="batch",
    )
    limits = Limits(rpm=60, budgets=(Budget("currency", 25_000_000_000, "month"),))
    assert site.who(secret) == Principal(
        name="my-app",
        owner=key_id,
        key_id=key_id,
        weight=3.0,
        priority="batch",
        scopes=Scopes(frozenset({"small"}), ("/v1/chat/completions",)),
        accounts=(Account(f"key:{key_id}", limits),),
    )


async def test_a_key_of_a_team_is_in_the_teams_flow_and_obeys_both_limits(site: Site) -> None:
    team = await new_team(site, name="research", tpm=1000, weight=2)
    key_id, secret = await new_key(site, team=team, rpm=5)
    found = site.who(secret)
    assert found is not None
    assert (found.name, found.owner, found.tenant, found.team) == (key_id, team, team, team)
    assert found.weight == 2
    assert found.accounts == (
        Account(f"key:{key_id}", Limits(rpm=5)),
        Account(f"team:{team}", Limits(tpm=1000)),
    )
    _, unlimited = await new_key(site, team=await new_team(site, name="free"))
    assert (found := site.who(unlimited)) is not None
    assert found.accounts == ()


async def test_only_the_whole_key_is_recognised(site: Site) -> None:
    _, secret = await new_key(site)
    assert secret.startswith("sk-gw-")
    assert len(secret) == len("sk-gw-") + 43
    wrong = [secret[:-1], secret + "x", secret[6:], secret.swapcase(), secret[:-1] + "é", "sk-gw-"]
    assert [site.who(text) for text in wrong] == [None] * len(wrong)
    assert site.who(f"  {secret}  ") is not None


async def test_a_gateway_is_open_until_the_first_key_and_never_again(
    site: Site, open_site: OpenSite
) -> None:
    before = site.authenticator.required
    assert not before
    assert site.who("anything") is ANONYMOUS
    key_id, secret = await new_key(site)
    assert site.authenticator.required
    assert site.who("anything") is None
    await site.tenancy.revoke_key(ROOT, key_id)
    assert site.authenticator.required
    assert site.who(secret) is None
    if not site.database.in_memory:
        other = open_site()
        await other.ring.start()
        assert other.authenticator.required


async def test_until_it_knows_the_keys_a_gateway_lets_nobody_in(open_site: OpenSite) -> None:
    site = open_site()
    assert site.authenticator.required
    assert site.who("anything") is None


async def test_in_its_own_gateway_a_change_acts_at_once(site: Site) -> None:
    key_id, secret = await new_key(site, rpm=1)
    await site.tenancy.update_key(ROOT, key_id, made(UpdateKey, rpm=2))
    assert (found := site.who(secret)) is not None
    assert found.accounts[0].limits.rpm == 2
    await site.tenancy.revoke_key(ROOT, key_id)
    assert site.who(secret) is None


@shared
async def test_in_other_gateways_a_change_acts_within_refresh_s(
    site: Site, open_site: OpenSite
) -> None:
    other = open_site(refresh_s=0.01)
    await other.ring.start()
    key_id, secret = await new_key(site)
    async with asyncio.timeout(10):
        while other.who(secret) in (None, ANONYMOUS):
            await asyncio.sleep(0)
        await site.tenancy.revoke_key(ROOT, key_id)
        while other.who(secret) is not None:
            await asyncio.sleep(0)


@shared
async def test_whatever_else_is_read_a_revoked_key_is_refused_within_refresh_s(
    site: Site, open_site: OpenSite
) -> None:
    other = open_site(refresh_s=0.01)
    key_id, secret = await new_key(site)
    await other.ring.start()
    held = threading.Event()

    def hold(_: Connection) -> None:
        held.wait(10)

    lanes: list[Lane] = ["requests", "reports"]
    reading = [
        asyncio.create_task(other.database.read(hold, lane=lane)) for lane in lanes for _ in "12345"
    ]
    await site.tenancy.revoke_key(ROOT, key_id)
    async with asyncio.timeout(5):
        while other.who(secret) is not None:
            await asyncio.sleep(0.001)
    held.set()
    await asyncio.gather(*reading)


@shared
async def test_a_key_that_a_clock_thought_expired_is_good_once_the_clock_is_right(
    site: Site, open_site: OpenSite, clock: Clock
) -> None:
    _, secret = await new_key(site, expires_at=int(clock.now) + 100)
    clock.now += 1000
    other = open_site(refresh_s=0.01)
    await other.ring.start()
    assert other.who(secret) is None
    clock.now -= 1000
    async with asyncio.timeout(5):
        while other.who(secret) is None:
            await asyncio.sleep(0.001)


async def test_an_expired_key_is_refused_at_its_time(site: Site, clock: Clock) -> None:
    key_id, secret = await new_key(site, expires_at=int(clock.now) + 100)
    clock.now += 99
    assert site.who(secret) is not None
    clock.now += 1
    assert site.who(secret) is None
    later = int(clock.now) + 100
    await site.tenancy.update_key(ROOT, key_id, made(UpdateKey, expires_at=later))
    assert site.who(secret) is not None


async def test_a_teams_edit_acts_on_its_keys_and_its_end_refuses_them(site: Site) -> None:
    team = await new_team(site, name="research", rpm=1)
    key_id, secret = await new_key(site, team=team)
    assert site.who(secret) is not None
    await site.tenancy.update_team(ROOT, team, made(UpdateTeam, rpm=2, weight=4))
    assert (found := site.who(secret)) is not None
    assert (found.accounts[0].limits.rpm, found.weight) == (2, 4.0)
    await site.tenancy.delete_team(ROOT, team)
    assert site.who(secret) is None
    await site.tenancy.update_key(ROOT, key_id, made(UpdateKey, team=None))
    assert (found := site.who(secret)) is not None
    assert found.owner == key_id


async def test_a_rotated_key_is_the_same_key_with_another_secret(site: Site) -> None:
    key_id, old = await new_key(site, name="app", rpm=7)
    before = site.who(old)
    _, new = await site.tenancy.rotate_key(ROOT, key_id)
    assert (site.who(old), site.who(new)) == (None, before)


async def test_in_its_grace_the_old_secret_is_good_and_an_older_one_isnt(
    site: Site, clock: Clock
) -> None:
    key_id, first = await new_key(site)
    _, second = await site.tenancy.rotate_key(ROOT, key_id, grace_s=60)
    assert site.who(first) == site.who(second) is not None
    _, third = await site.tenancy.rotate_key(ROOT, key_id, grace_s=60)
    assert site.who(first) is None
    clock.now += 60
    assert site.who(second) is None
    assert site.who(third) is not None


async def test_revoking_and_expiry_end_the_old_secret_too(site: Site, clock: Clock) -> None:
    key_id, old = await new_key(site, expires_at=int(clock.now) + 10)
    _, new = await site.tenancy.rotate_key(ROOT, key_id, grace_s=1000)
    other_id, other_old = await new_key(site)
    await site.tenancy.rotate_key(ROOT, other_id, grace_s=1000)
    await site.tenancy.revoke_key(ROOT, other_id)
    assert site.who(other_old) is None
    clock.now += 10
    assert (site.who(old), site.who(new)) == (None, None)


@sqlite
async def test_an_outage_keeps_what_was_known_and_is_logged_once(
    site: Site, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> None:
    key_id, secret = await new_key(site)
    other = open_site()
    await other.ring.start()
    await rename(other, "tenancy_revision", "hidden")
    caplog.set_level(logging.INFO, "gateway")
    caplog.clear()
    await other.ring.refresh()
    told = len(caplog.messages)
    assert any("what was known of them stays in force" in line for line in caplog.messages)
    for _ in range(3):
        await other.ring.refresh()
    assert len(caplog.messages) == told
    assert other.who(secret) is not None
    await rename(other, "hidden", "tenancy_revision")
    await site.tenancy.revoke_key(ROOT, key_id)
    await other.ring.refresh()
    assert "keys and teams can be read again" in caplog.messages
    assert other.who(secret) is None


@sqlite
async def test_a_gateway_that_cant_read_its_keys_doesnt_start(open_site: OpenSite) -> None:
    site = open_site()
    await rename(site, "tenancy_revision", "hidden")
    with pytest.raises(UnavailableError):
        await site.ring.start()


async def rename(site: Site, table: str, name: str) -> None:
    """What fails without the table fails as on a broken disk."""
    statement = f"ALTER TABLE {table} RENAME TO {name}"
    await site.database.write(lambda connection: connection.exec_driver_sql(statement))


@sqlite
async def test_keys_without_their_pepper_stop_the_start(
    site: Site, open_site: OpenSite, tmp_path: Path
) -> None:
    await new_key(site)
    (tmp_path / "state" / "state.db.pepper").unlink()
    with pytest.raises(ConfigError, match="the pepper they were hashed with is gone"):
        await open_site().ring.start()


@sqlite
async def test_keys_of_another_pepper_are_refused_and_the_log_has_it(
    site: Site, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = await new_key(site)
    other = open_site(pepper_env="PEPPER")
    caplog.set_level(logging.WARNING, "gateway")
    await other.ring.start()
    assert other.who(secret) is None
    assert "1 key is refused" in caplog.text
    assert secret not in caplog.text


@sqlite
async def test_a_gateway_whose_pepper_is_gone_makes_no_key_that_it_would_refuse(
    site: Site, tmp_path: Path
) -> None:
    key_id, secret = await new_key(site)
    pepper = tmp_path / "state" / "state.db.pepper"
    kept = pepper.read_text()
    pepper.unlink()
    for text, why in ((None, "is gone"), ("x" * 64, "isn't the one this gateway started with")):
        if text is not None:
            pepper.write_text(text)
        with pytest.raises(ConfigError, match=why):
            await new_key(site)
        with pytest.raises(ConfigError, match=why):
            await site.tenancy.rotate_key(ROOT, key_id)
        assert pepper.exists() == (text is not None)
    assert site.who(secret) is not None
    pepper.write_text(kept)
    _, another = await new_key(site)
    assert site.who(another) is not None


@sqlite
async def test_a_key_gets_over_another_pepper_by_rotating_and_until_then_none_is_made(
    site: Site, open_site: OpenSite
) -> None:
    first, second = sorted([(await new_key(site))[0] for _ in range(2)])
    other = open_site(pepper_env="PEPPER")
    await other.ring.start()
    with pytest.raises(ConfigError, match=f"{first} was made with, nor 1 more"):
        await new_key(other)
    _, secret = await other.tenancy.rotate_key(ROOT, first)
    assert other.who(secret) is not None
    with pytest.raises(ConfigError, match=f"{second} was made with:"):
        await new_key(other)
    await other.tenancy.revoke_key(ROOT, second)
    _, secret = await new_key(other)
    assert other.who(secret) is not None


async def test_a_key_that_cant_be_obeyed_is_refused_and_the_others_arent(
    site: Site, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gateway")
    strange, strange_secret = await new_key(site)
    _, secret = await new_key(site)

    def break_it(connection: Connection) -> None:
        change = update(virtual_keys).where(virtual_keys.c.id == strange)
        connection.execute(change.values(settings=b'{"limits":{"budgets":[{"unit":"time"}]}}'))

    await site.database.write(break_it)
    if not site.database.in_memory:
        site = open_site()
        await site.ring.start()
        assert site.who(strange_secret) is None
        assert f"the settings of {strange} can't be read" in caplog.text
    assert site.who(secret) is not None


async def test_secrets_are_nowhere_kept(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key_id, first = await new_key(site)
    _, second = await site.tenancy.rotate_key(ROOT, key_id, grace_s=60)
    assert site.who(first) == site.who(second) is not None
    assert site.who(first[:-1]) is None
    await site.database.close()
    kept = [*contents(tmp_path), caplog.text.encode(), repr(vars(site.ring)).encode()]
    for secret in (first, second):
        assert not any(secret.encode() in text for text in kept)


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
