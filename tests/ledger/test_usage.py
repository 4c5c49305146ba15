"""Sums of the ledger: exact, by anything, in whichever form; and what limits start from."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection
from typer.testing import CliRunner

from gateway.__main__ import app
from gateway.config import AuthConfig, LedgerConfig
from gateway.errors import NotFoundError
from gateway.keys import Pepper, Tenancy
from gateway.ledger import Ledger, Outcome
from gateway.protocol.usage import (
    DIMENSIONS,
    OUTCOMES,
    as_csv,
    dimensions,
    moment,
    money,
    timestamp,
)
from gateway.store import usage
from gateway.store.database import Database
from gateway.store.tenant_tables import teams, virtual_keys
from gateway.store.usage import WINDOWS, Filter, Spent, window_start
from gateway.tenants import NANOS
from tests.ledger.conftest import OpenLedger, entry
from tests.store.conftest import Clock

ALWAYS = Filter(since=0, until=1e11)
NOON = datetime(2027, 1, 15, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400


async def fill(ledger: Ledger, database: Database) -> None:
    """Two days of two teams."""

    def name_them(connection: Connection) -> None:
        for team_id, name in (("team_a", "research"), ("team_b", "sales")):
            team = {"id": team_id, "name": name, "created": 1.0, "settings": b"{}"}
            connection.execute(teams.insert().values(team))
        for key_id, name in (("key_1", "my-app"), ("key_2", "key_2"), ("key_3", "bot")):
            told = {"id": key_id, "name": name, "prefix": "sk-gw-", "last4": "abcd"}
            kept = {"hash": key_id.encode(), "created": 1.0, "settings": b"{}"}
            connection.execute(virtual_keys.insert().values(told | kept))

    await database.write(name_them)
    for at, team_id, key, model, cost in [
        (NOON, "team_a", "key_1", "tiny", 10**17 + 1),
        (NOON + 60, "team_a", "key_2", "tiny", 10**17 + 1),
        (NOON + DAY_S, "team_a", "key_1", "large", 5),
        (NOON + DAY_S, "team_b", "key_3", "tiny", 7),
        (NOON + DAY_S, None, None, None, 0),
    ]:
        ledger.record(entry(at=at, team=team_id, key_id=key, model=model, cost=cost))
    await ledger.flush()


async def sums(database: Database, *by: Any, only: Filter = ALWAYS, **page: Any) -> Any:
    return await database.read(partial(usage.sums, by=by, only=only, **{"limit": 100, **page}))


async def test_sums_are_exact_and_in_order(open_ledger: OpenLedger, database: Database) -> None:
    await fill(open_ledger(), database)
    found = await sums(database, "day", "team")
    shown = [(group["day"], group["team"], group["requests"], group["cost"]) for group in found]
    assert shown == [
        ("2027-01-15", "team_a", 2, 2 * 10**17 + 2),
        ("2027-01-16", "team_a", 1, 5),
        ("2027-01-16", "team_b", 1, 7),
        ("2027-01-16", None, 1, 0),
    ]
    (whole,) = await sums(database)
    assert (whole["requests"], whole["prompt_tokens"], whole["completion_tokens"]) == (5, 35, 25)
    assert whole["cost"] == 2 * 10**17 + 14


@pytest.mark.parametrize(
    ("only", "requests"),
    [
        ({"key": "key_1"}, 2),
        ({"key": "my-app"}, 2),
        ({"team": "research"}, 3),
        ({"team": "team_b"}, 1),
        ({"model": "tiny"}, 3),
        ({"model": "tiny", "key": "key_1"}, 1),
        ({"caller": "bob"}, 0),
        ({"outcome": "completed", "endpoint": "/v1/chat/completions"}, 5),
        ({"since": NOON + 60}, 4),
        ({"until": NOON + 60}, 1),
    ],
)
async def test_only_what_is_asked_for_is_summed(
    open_ledger: OpenLedger, database: Database, only: Any, requests: int
) -> None:
    await fill(open_ledger(), database)
    (whole,) = await sums(database, only=Filter(**{"since": 0.0, "until": 1e11, **only}))
    assert whole["requests"] == requests


@pytest.mark.parametrize("only", [{"key": "nope"}, {"team": "nope"}])
async def test_a_key_or_team_that_isnt_there_is_told_rather_than_summed_to_nothing(
    open_ledger: OpenLedger, database: Database, only: Any
) -> None:
    await fill(open_ledger(), database)
    unknown = Filter(since=0, until=1e11, **only)
    for find in (partial(usage.sums, by=(), limit=10), usage.rows):
        with pytest.raises(NotFoundError, match="found with the id or name 'nope'"):
            await database.read(partial(find, only=unknown))


def test_a_filter_takes_the_outcomes_that_rows_have() -> None:
    assert get_args(Outcome) == OUTCOMES


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\r\n=1"])
def test_csv_holds_no_formulas(text: str) -> None:
    counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens"), -1)
    group = {"model": text, "caller": "a=b", **counts, "cost": "1.5"}
    (line,) = csv.DictReader(io.StringIO(as_csv([group], ("model", "caller"))))
    assert (line["model"], line["caller"]) == (f"'{text}".replace("\r", "\n"), "a=b")
    assert (line["prompt_tokens"], line["cost"]) == ("-1", "1.5")


async def test_every_way_to_group_gives_the_same_total(
    open_ledger: OpenLedger, database: Database
) -> None:
    await fill(open_ledger(), database)
    for name in DIMENSIONS:
        found = await sums(database, name)
        assert sum(group["requests"] for group in found) == 5
        pages = [await sums(database, name, limit=1, offset=place) for place in range(10)]
        assert [group for page in pages for group in page] == found


async def test_all_rows_come_in_pages_by_time(open_ledger: OpenLedger, database: Database) -> None:
    ledger = open_ledger()
    given = [entry(at=NOON + number // 3) for number in reversed(range(50))]
    for one in given:
        ledger.record(one)
    await ledger.flush()
    seen: list[Any] = []
    page = await database.read(partial(usage.rows, only=ALWAYS, limit=7))
    while page:
        seen += page
        page = await database.read(partial(usage.rows, only=ALWAYS, after=page[-1], limit=7))
    assert [row["at"] for row in seen] == sorted(one.at for one in given)
    assert {row["request_id"] for row in seen} == {one.request_id for one in given}


async def test_limits_start_from_what_was_used_in_the_windows_that_go_on(
    open_ledger: OpenLedger, database: Database, clock: Clock
) -> None:
    clock.now = NOON + DAY_S + 600
    ledger = open_ledger()
    await fill(ledger, database)
    ledger.record(entry(at=clock.now, key_id="key_1", team="team_a", outcome="lost", cost=1))
    found = set(await ledger.spent(["day", "month"]))
    day, month = window_start("day", clock.now), window_start("month", clock.now)
    assert found >= {
        Spent("key:key_1", "tokens", "day", day, 24),
        Spent("key:key_1", "currency", "day", day, 6),
        Spent("key:key_1", "tokens", "month", month, 36),
        Spent("key:key_2", "currency", "month", month, 10**17 + 1),
        Spent("team:team_a", "tokens", "day", day, 24),
        Spent("team:team_a", "currency", "month", month, 2 * 10**17 + 8),
        Spent("team:team_b", "tokens", "day", day, 12),
    }
    assert not [one for one in found if one.account == "key:key_2" and one.window == "day"]


@given(now=st.floats(0, 4e9), window=st.sampled_from(WINDOWS))
def test_windows_are_those_of_the_calendar(now: float, window: Any) -> None:
    start = window_start(window, now)
    then, when = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(now, UTC)
    assert start <= now
    parts = {
        "hour": (when.year, when.month, when.day, when.hour),
        "day": (when.year, when.month, when.day),
        "week": when.isocalendar()[:2],
        "month": (when.year, when.month),
        "total": (),
    }[window]
    first = {
        "hour": (then.year, then.month, then.day, then.hour),
        "day": (then.year, then.month, then.day),
        "week": then.isocalendar()[:2],
        "month": (then.year, then.month),
        "total": (),
    }[window]
    assert first == parts
    if start:
        assert window_start(window, start - 0.001) < start


@given(st.integers(-(10**18), 10**18))
def test_money_is_shown_exactly(nanos: int) -> None:
    whole, _, rest = money(nanos).lstrip("-").partition(".")
    assert len(rest) <= 9
    assert int(whole) * NANOS + int(rest.ljust(9, "0")) == abs(nanos)


def test_times_and_groups_are_read_as_people_write_them() -> None:
    assert moment("2027-01-15") == NOON - DAY_S / 2
    assert moment("2027-01-15T14:00+02:00") == NOON
    assert moment(str(int(NOON))) == NOON
    assert moment("1970-01-01") == 0
    assert timestamp(moment("9999-12-31T23:59:59")) == "9999-12-31T23:59:59Z"
    assert dimensions("key, day") == ("key", "day")
    assert dimensions("") == dimensions("all") == ()
    for wrong in ("days", "day,day", "all,day"):
        with pytest.raises(ValueError, match="one or more of day, key"):
            dimensions(wrong)


@pytest.mark.parametrize(
    "text",
    ["1969-12-31", "0001-01-02", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"],
)
def test_a_time_that_no_calendar_has_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time from 1970-01-01 to the end of 9999"):
        moment(text)


@pytest.fixture
async def url_with_usage(tmp_path: Path, clock: Clock) -> str:
    database = Database(f"sqlite:///{tmp_path}/state.db")
    ledger = Ledger(LedgerConfig(), database, clock)
    await fill(ledger, database)
    await ledger.close()
    await database.close()
    return f"sqlite:///{tmp_path}/state.db"


def gateway_usage(url: str, *options: str) -> Any:
    since = () if "--since" in options else ("--since", "2027-01-01", "--until", "2027-02-01")
    return CliRunner().invoke(app, ["usage", "--set", f"state.url={url}", *since, *options])


def test_the_command_prints_a_table(url_with_usage: str) -> None:
    result = gateway_usage(url_with_usage, "--by", "team,model", "--team", "research")
    assert result.exit_code == 0
    heading, *lines = [line.split() for line in result.stdout.splitlines()]
    assert heading[:3] == ["team", "model", "requests"]
    team = ["research", "(team_a)"]
    assert [line[:4] for line in lines] == [[*team, "large", "1"], [*team, "tiny", "2"]]
    assert lines[1][-1] == "200000000.000000002"


def test_a_table_names_keys_beside_their_ids(url_with_usage: str) -> None:
    result = gateway_usage(url_with_usage, "--by", "key")
    lines = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [line[:-7] for line in lines] == [
        ["my-app", "(key_1)"],
        ["key_2"],
        ["bot", "(key_3)"],
        ["-"],
    ]
    found = json.loads(gateway_usage(url_with_usage, "--by", "key", "--json").stdout)
    assert [group["key"] for group in found["data"]] == ["key_1", "key_2", "key_3", None]


def test_a_table_names_a_deleted_team_once(url_with_usage: str) -> None:
    async def delete() -> None:
        database = Database(url_with_usage)
        await Tenancy(database, Pepper(AuthConfig(), database)).delete_team("me", "team_a")
        await database.close()

    asyncio.run(delete())
    lines = gateway_usage(url_with_usage, "--by", "team").stdout.splitlines()[1:]
    assert [line.split()[:-7] for line in lines] == [
        ["research", "(team_a)"],
        ["sales", "(team_b)"],
        ["-"],
    ]


async def fill_many(url: str, callers: int) -> None:
    database = Database(url)
    ledger = Ledger(LedgerConfig(), database)
    for number in range(callers):
        ledger.record(entry(at=NOON, caller=f"caller-{number:05}", model="tiny"))
    await ledger.close()
    await database.close()


def test_while_rows_arrive_the_command_tells_each_of_many_groups_once(
    url_with_usage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(fill_many(url_with_usage, 2500))
    sums = usage.sums

    def then_one_arrives(connection: Connection, **asked: Any) -> Any:
        found = sums(connection, **asked)
        with sqlite3.connect(url_with_usage.removeprefix("sqlite:///")) as other:
            other.execute(
                "CREATE TABLE arrived AS SELECT * FROM ledger WHERE caller = 'caller-00000'"
            )
            other.execute(
                "UPDATE arrived SET seq = (SELECT max(seq) + 1 FROM ledger),"
                " request_id = hex(randomblob(8)), caller = hex(randomblob(8))"
            )
            other.execute("INSERT INTO ledger SELECT * FROM arrived")
            other.execute("DROP TABLE arrived")
        other.close()
        return found

    monkeypatch.setattr(usage, "sums", then_one_arrives)
    found = json.loads(gateway_usage(url_with_usage, "--by", "caller", "--json").stdout)
    callers = [group["caller"] for group in found["data"]]
    assert len(callers) == len(set(callers)) == 2501
    assert not found["has_more"]


def test_the_command_looks_back_no_further_than_the_calendar(url_with_usage: str) -> None:
    words = ("usage", "--set", f"state.url={url_with_usage}", "--until", "1970-01-02", "--json")
    found = json.loads(CliRunner().invoke(app, words).stdout)
    assert (found["since"], found["until"]) == ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z")


def test_the_command_prints_csv_and_json_that_agree(url_with_usage: str) -> None:
    lines = list(csv.DictReader(io.StringIO(gateway_usage(url_with_usage, "--csv").stdout)))
    found = json.loads(gateway_usage(url_with_usage, "--json").stdout)
    assert found["object"] == "usage"
    assert found["since"] == "2027-01-01T00:00:00Z"
    assert [{name: str(value) for name, value in group.items()} for group in found["data"]] == lines
    assert [group["requests"] for group in found["data"]] == [2, 3]


def test_the_command_prints_rows_to_replay(url_with_usage: str) -> None:
    result = gateway_usage(url_with_usage, "--rows", "--key", "key_1")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["cost"] for row in rows] == ["100000000.000000001", "0.000000005"]
    assert rows[0]["at"] == NOON
    assert rows[0].keys() >= {"request_id", "prompt_tokens", "ttft_s", "streamed"}


def test_the_command_says_where_nothing_is(url_with_usage: str) -> None:
    result = gateway_usage(url_with_usage, "--since", "1h")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no requests" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--by", "nobody"], "--by: expected one or more of day"),
        (["--since", "soon"], "--since: expected a date"),
        (["--since", "99999999d", "--json"], "--since: expected a time from 1970-01-01"),
        (["--since", "9" * 400 + "d"], "--since: expected a date"),
        (["--since", "1h", "--until", "0001-01-02"], "--until: expected a time from 1970-01-01"),
        (["--outcome", "x"], "--outcome: expected one of completed, cancelled"),
        (["--csv", "--json"], "exclude one another"),
    ],
)
def test_the_command_says_what_is_wrong(url_with_usage: str, options: list[str], said: str) -> None:
    result = gateway_usage(url_with_usage, *options)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("rows", [(), ("--rows",)])
def test_the_command_tells_a_key_that_isnt_there(
    url_with_usage: str, rows: tuple[str, ...]
) -> None:
    result = gateway_usage(url_with_usage, "--key", "nope", *rows)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No key found with the id or name 'nope'" in result.stderr


def test_the_command_cannot_see_into_anothers_memory() -> None:
    result = gateway_usage("sqlite://")
    assert result.exit_code == 2
    assert "/admin/v1/usage" in result.stderr
