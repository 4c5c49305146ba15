"""Keys and teams are changed as asked, and the audit log has who did what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from gateway.errors import APIError, InvalidRequestError, NotFoundError
from gateway.keys.objects import encode, event_object, key_object, team_object
from gateway.protocol.tenancy import CreateKey, CreateTeam, UpdateKey, UpdateTeam
from gateway.store.paging import Slice
from gateway.store.tenancy import EventsWanted, KeysWanted
from gateway.tenants import Scopes
from tests.tenants.conftest import ROOT, SHARED, Clock, OpenSite, Site, made

shared = pytest.mark.parametrize("url", SHARED, indirect=True)

NEWEST = Slice(limit=100, order="desc")


async def create_key(site: Site, **fields: Any) -> str:
    return (await site.tenancy.create_key(ROOT, made(CreateKey, **fields)))[0].id


async def create_team(site: Site, **fields: Any) -> str:
    return (await site.tenancy.create_team(ROOT, made(CreateTeam, **fields))).id


async def log(site: Site, part: Slice = NEWEST, **wanted: Any) -> list[dict[str, Any]]:
    """Events as they are told."""
    events, _ = await site.tenancy.events(EventsWanted(**wanted), part, None)
    return [msgspec.json.decode(encode(event_object(event))) for event in events]


async def test_an_update_changes_what_is_given_and_null_takes_it_away(site: Site) -> None:
    key_id = await create_key(site, name="app", rpm=1, tpm=2, models=["a"], weight=3)
    wanted = made(UpdateKey, rpm=None, max_concurrent=4, models=None, name="other")
    found = await site.tenancy.update_key("admin:ann", key_id, wanted)
    limits = found.settings.limits
    assert (limits.rpm, limits.tpm, limits.max_concurrent) == (None, 2, 4)
    assert (found.name, found.settings.scopes.models, found.settings.weight) == ("other", None, 3)
    assert await site.tenancy.key(key_id) == found
    (event, _) = await log(site)
    assert (event["actor"], event["action"], event["target"]) == ("admin:ann", "key.update", key_id)
    assert event["detail"] == {
        "rpm": {"from": 1, "to": None},
        "max_concurrent": {"from": None, "to": 4},
        "models": {"from": ["a"], "to": None},
        "name": {"from": "app", "to": "other"},
    }


async def test_every_change_is_in_the_log_and_what_changes_nothing_isnt(
    site: Site, clock: Clock
) -> None:
    team = await create_team(site, name="research")
    key_id = await create_key(site, team=team)
    for _ in range(2):
        clock.now += 1
        await site.tenancy.update_team(ROOT, team, made(UpdateTeam, rpm=5))
        await site.tenancy.update_key(ROOT, key_id, made(UpdateKey, rpm=5))
    await site.tenancy.rotate_key(ROOT, key_id, grace_s=60)
    for _ in range(2):
        await site.tenancy.revoke_key(ROOT, key_id)
        await site.tenancy.delete_team(ROOT, team)
    await site.tenancy.note(ROOT, "adapter.load", "tuned", {"base": "small"})
    oldest = Slice(limit=100, order="asc")
    told = [(event["action"], event["target"]) for event in await log(site, oldest)]
    assert told == [
        ("team.create", team),
        ("key.create", key_id),
        ("team.update", team),
        ("key.update", key_id),
        ("key.rotate", key_id),
        ("key.revoke", key_id),
        ("team.delete", team),
        ("adapter.load", "tuned"),
    ]
    assert [event["action"] for event in await log(site, object=team, since=clock.now + 1)] == []
    assert len(await log(site, action="key.update", actor=ROOT, until=clock.now)) == 1


async def test_what_is_told_and_logged_holds_no_secret(site: Site, clock: Clock) -> None:
    key, first = await site.tenancy.create_key(ROOT, made(CreateKey))
    key, second = await site.tenancy.rotate_key(ROOT, key.id, 60)
    told = encode([key_object(key, clock.now), await log(site)]).decode()
    assert first not in told
    assert second not in told
    assert key_object(key, clock.now)["redacted_value"] == f"sk-gw-…{second[-4:]}"
    assert key_object(key, clock.now, second)["value"] == second


async def test_a_change_that_fails_is_neither_made_nor_logged(site: Site) -> None:
    team = await create_team(site, name="research")
    before = await log(site)
    failing: list[Awaitable[object]] = [
        site.tenancy.create_team(ROOT, made(CreateTeam, name="research")),
        site.tenancy.create_key(ROOT, made(CreateKey, team="team_none")),
        site.tenancy.create_key(ROOT, made(CreateKey, team=team, weight=2)),
        site.tenancy.create_key(ROOT, made(CreateKey, expires_at=1)),
        site.tenancy.update_team(ROOT, "team_none", made(UpdateTeam, rpm=1)),
        site.tenancy.revoke_key(ROOT, "key_none"),
    ]
    params: list[tuple[int, str | None]] = []
    for change in failing:
        with pytest.raises(APIError) as failure:
            await change
        params.append((failure.value.status, failure.value.param))
    assert params == [
        (409, "name"),
        (404, "team"),
        (400, "weight"),
        (400, "expires_at"),
        (404, None),
        (404, None),
    ]
    assert await log(site) == before
    assert (await site.tenancy.keys(KeysWanted(), Slice()))[0] == []


async def test_a_deleted_teams_name_is_free_again(site: Site) -> None:
    first = await create_team(site, name="research")
    await site.tenancy.delete_team(ROOT, first)
    second = await create_team(site, name="research")
    assert (await site.tenancy.team_named("research")) == await site.tenancy.team(second)
    with pytest.raises(NotFoundError):
        await site.tenancy.team(first)
    with pytest.raises(NotFoundError):
        await site.tenancy.update_team(ROOT, first, made(UpdateTeam, name="old"))


async def test_a_team_may_be_called_what_a_deleted_one_would_be(site: Site) -> None:
    first = await create_team(site, name="research")
    second = await create_team(site, name=f"research ({first})")
    await site.tenancy.delete_team(ROOT, first)
    await site.tenancy.delete_team(ROOT, second)
    assert (await site.tenancy.teams(Slice()))[0] == []
    assert await create_team(site, name="research")


async def test_what_a_deleted_team_is_called_is_taken(site: Site) -> None:
    gone = await create_team(site, name="research")
    await site.tenancy.delete_team(ROOT, gone)
    name = f"research ({gone})"
    other = await create_team(site, name="sales")
    for change in (
        site.tenancy.create_team(ROOT, made(CreateTeam, name=name)),
        site.tenancy.update_team(ROOT, other, made(UpdateTeam, name=name)),
    ):
        with pytest.raises(InvalidRequestError, match="that was deleted") as failure:
            await change
        assert (failure.value.status, failure.value.param) == (409, "name")
    assert await site.tenancy.team_named(name) is None


async def test_a_revoked_key_stays_as_it_is(site: Site) -> None:
    key_id = await create_key(site)
    revoked = await site.tenancy.revoke_key(ROOT, key_id)
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: site.tenancy.rotate_key(ROOT, key_id),
        lambda: site.tenancy.update_key(ROOT, key_id, made(UpdateKey, rpm=1)),
    ]
    for change in changes:
        with pytest.raises(APIError) as failure:
            await change()
        assert (failure.value.status, failure.value.code) == (409, "key_revoked")
    assert await site.tenancy.key(key_id) == revoked


async def test_keys_are_listed_by_their_creation_a_page_at_a_time(site: Site, clock: Clock) -> None:
    made_ids = []
    for _ in range(5):
        clock.now += 1
        made_ids.append(await create_key(site))
    seen: list[str] = []
    more = True
    while more:
        part = Slice(limit=2, after=seen[-1] if seen else None)
        keys, more = await site.tenancy.keys(KeysWanted(), part)
        seen += [key.id for key in keys]
    assert seen == made_ids
    newest, more = await site.tenancy.keys(KeysWanted(), Slice(limit=4, order="desc"))
    assert ([key.id for key in newest], more) == (made_ids[:0:-1], True)


async def test_keys_are_found_by_team_and_status(site: Site, clock: Clock) -> None:
    team, gone = await create_team(site, name="a"), await create_team(site, name="b")
    active = await create_key(site, team=team)
    expired = await create_key(site, team=team, expires_at=int(clock.now) + 1)
    revoked = await create_key(site, team=team)
    orphan = await create_key(site, team=gone)
    await site.tenancy.revoke_key(ROOT, revoked)
    await site.tenancy.delete_team(ROOT, gone)
    clock.now += 1

    async def found(**wanted: Any) -> set[str]:
        return {key.id for key in (await site.tenancy.keys(KeysWanted(**wanted), Slice()))[0]}

    assert await found() == {active, expired, revoked, orphan}
    assert await found(team=team) == {active, expired, revoked}
    assert await found(status="active") == {active}
    assert await found(status="expired") == {expired}
    assert await found(status="revoked") == {revoked}
    assert await site.tenancy.active_keys(team) == 1
    statuses = {key_id: (await site.tenancy.key(key_id)).status(clock.now) for key_id in (
        active, expired, revoked, orphan)}  # fmt: skip
    assert list(statuses.values()) == ["active", "expired", "revoked", "team_deleted"]


@shared
async def test_gateways_that_change_things_at_once_lose_nothing(
    site: Site, open_site: OpenSite
) -> None:
    others = [open_site() for _ in range(3)]
    sites = [site, *others]
    for other in others:
        await other.ring.start()
    made_keys = await asyncio.gather(
        *(one.tenancy.create_key(ROOT, made(CreateKey)) for one in sites for _ in range(8))
    )
    await asyncio.gather(
        *(
            one.tenancy.update_key(ROOT, key.id, made(UpdateKey, rpm=number + 1))
            for key, _ in made_keys[:4]
            for number, one in enumerate(sites)
        )
    )
    await asyncio.gather(*(site.tenancy.revoke_key(ROOT, key.id) for key, _ in made_keys[:8]))
    assert len(await log(site)) == 32 + 4 * 4 + 8
    for one in sites:
        await one.ring.refresh()
        known = [one.who(secret) is not None for _, secret in made_keys]
        assert known == [False] * 8 + [True] * 24


async def test_objects_tell_amounts_as_exact_numbers(site: Site) -> None:
    budgets = [
        {"unit": "cost", "amount": "0.000000001", "window": "day"},
        {"unit": "cost", "amount": 25, "window": "month"},
        {"unit": "tokens", "amount": 10**15, "window": "total"},
    ]
    team = await site.tenancy.create_team(ROOT, made(CreateTeam, name="a", budgets=budgets))
    text = encode(team_object(team)["budgets"]).decode()
    assert '"amount":25,' in text
    assert [item["amount"] for item in msgspec.json.decode(text)] == [1e-9, 25, 10**15]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"rmp": 5}, "unknown_parameter", "rmp"),
        ({"rpm": 0}, "integer_below_min_value", "rpm"),
        ({"rpm": "5"}, "invalid_type", "rpm"),
        ({"weight": 0}, "integer_below_min_value", "weight"),
        ({"priority": "urgent"}, "invalid_value", "priority"),
        ({"models": []}, "empty_array", "models"),
        ({"models": [""]}, "string_below_min_length", "models[0]"),
        ({"endpoints": ["v1/x"]}, "invalid_value", "endpoints[0]"),
        ({"endpoints": ["/v1/x?a=b"]}, "invalid_value", "endpoints[0]"),
        *(
            ({"endpoints": [path]}, "invalid_value", "endpoints[0]")
            for path in ("/v1/../x", "/v1/./x", "/v1/%63hat", "/v1//chat", "//", "/v1/*")
        ),
        ({"weight": 1e-320}, "decimal_below_min_value", "weight"),
        ({"name": "key_a"}, "invalid_value", "name"),
        ({"name": "team_a"}, "invalid_value", "name"),
        ({"name": ""}, "string_below_min_length", "name"),
        ({"name": "a\nb"}, "invalid_value", "name"),
        ({"name": " a"}, "invalid_value", "name"),
        ({"budgets": [{"unit": "time", "amount": 1}]}, "invalid_value", "budgets[0].unit"),
        ({"budgets": [{"unit": "cost"}]}, "missing_required_parameter", "budgets[0].amount"),
        ({"budgets": [{"unit": "cost", "amount": 0}]}, None, "budgets[0].amount"),
        ({"budgets": [{"unit": "cost", "amount": -1}]}, None, "budgets[0].amount"),
        ({"budgets": [{"unit": "cost", "amount": True}]}, "invalid_value", "budgets[0].amount"),
        ({"budgets": [{"unit": "tokens", "amount": 1.5}]}, "invalid_value", "budgets[0]"),
        ({"budgets": [{"unit": "cost", "amount": 1e10}]}, "invalid_value", "budgets[0]"),
        ({"budgets": [{"unit": "cost", "amount": 1}] * 2}, "invalid_value", None),
        ({"expires_at": 1.5}, "invalid_type", "expires_at"),
    ],
)
def test_a_field_that_cant_be_is_refused_by_its_name(
    fields: dict[str, Any], code: str | None, param: str | None
) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        made(CreateKey, **fields)
    assert failure.value.status == 400
    assert failure.value.param == param
    assert code is None or failure.value.code == code


@pytest.mark.parametrize("amount", ["x", True, None, "0.0000000001", "NaN"])
def test_an_amount_that_isnt_one_is_told_in_plain_words_and_by_its_place(amount: Any) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        made(CreateTeam, name="a", budgets=[{"unit": "cost", "amount": amount}])
    assert failure.value.message == (
        "Invalid 'budgets[0].amount': expected a number with at most 9 decimals, such as 25 or 0.5."
    )


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ({"unit": "tokens", "amount": 1.5}, "a whole number"),
        ({"unit": "cost", "amount": 1e10}, "at most 1000000000"),
    ],
)
def test_which_budget_cant_be_is_told(budget: Any, why: str) -> None:
    fine = {"unit": "cost", "amount": 1, "window": "day"}
    with pytest.raises(InvalidRequestError, match=why) as failure:
        made(CreateTeam, name="a", budgets=[fine, budget])
    assert failure.value.message.startswith("Invalid 'budgets[1]': ")


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [("/", True), ("/v1", True), ("/v1/", True), ("/v1/chat/completions", True), ("/v", False)],
)
def test_an_endpoint_stands_for_all_below_it(endpoint: str, allowed: bool) -> None:
    scopes = made(CreateKey, endpoints=[endpoint]).scopes(Scopes())
    assert scopes.allow_path("/v1/chat/completions") == allowed
