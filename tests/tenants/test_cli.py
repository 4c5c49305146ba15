"""`gateway keys` and `gateway teams`, on a state database of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bench.servers.server import free_port
from gateway.__main__ import app
from gateway.commands.tables import print_table
from tests.store.conftest import Clock
from tests.tenants.conftest import site_of

FAR_OFF = datetime(9000, 1, 31, tzinfo=UTC).timestamp()

Run = Callable[..., Result]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def run(url: str) -> Run:
    """Run a command; what it ends with is the test's to judge."""

    def run_it(*words: str, **settings: Any) -> Result:
        return CliRunner().invoke(app, [*words, "--set", f"state.url={url}"], **settings)

    return run_it


@pytest.fixture
def told(run: Run) -> Callable[..., Any]:
    """Run a command that has to succeed, and read its JSON."""

    def told_it(*words: str) -> Any:
        answer = run(*words, "--json")
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout)

    return told_it


def admitted(url: str, secret: str) -> bool:
    """Whether a gateway that starts now accepts the secret."""

    async def look() -> bool:
        clock = Clock()
        clock.now = 1.0  # before anything expires
        site = site_of(url, clock)
        await site.ring.start()
        found = site.who(secret)
        await site.ring.close()
        await site.database.close()
        return found is not None

    return asyncio.run(look())


def test_create_prints_the_key_alone_and_says_the_rest_aside(run: Run, url: str) -> None:
    answer = run("keys", "create", "my-app", "--tpm", "100k")
    assert answer.exit_code == 0, answer.output
    secret = answer.stdout.strip()
    assert answer.stdout.count("\n") == 1
    assert "100,000 tokens/min" in answer.stderr
    assert secret not in answer.stderr
    assert admitted(url, secret)


def test_a_key_gets_what_was_typed(told: Callable[..., Any]) -> None:
    team = told("teams", "create", "research", "--weight", "2", "--budget", "cost=500")
    key = told(
        *("keys", "create", "bot", "--team", "research", "--model", "a", "--model", "b"),
        *("--endpoint", "/v1/embeddings", "--rpm", "60", "--tpm", "1.5m", "--max-concurrent", "8"),
        *("--budget", "tokens=1m/day", "--budget", "cost=0.5/hour", "--priority", "batch"),
        *("--expires", "9000-01-31"),
    )
    assert key["value"].endswith(key["redacted_value"][-4:])
    shown = told("keys", "show", "bot")
    assert shown == {name: value for name, value in key.items() if name != "value"}
    assert {name: shown[name] for name in ("name", "team", "models", "endpoints")} == {
        "name": "bot",
        "team": team["id"],
        "models": ["a", "b"],
        "endpoints": ["/v1/embeddings"],
    }
    assert (shown["rpm"], shown["tpm"], shown["max_concurrent"]) == (60, 1_500_000, 8)
    assert shown["budgets"] == [
        {"unit": "tokens", "amount": 1_000_000, "window": "day"},
        {"unit": "cost", "amount": 0.5, "window": "hour"},
    ]
    assert (shown["priority"], shown["expires_at"]) == ("batch", FAR_OFF)
    assert team["budgets"] == [{"unit": "cost", "amount": 500, "window": "month"}]
    assert told("teams", "show", "research") == team


def test_update_changes_what_is_named_and_its_words_take_away(told: Callable[..., Any]) -> None:
    told("teams", "create", "research")
    told("keys", "create", "a", "--rpm", "1", "--tpm", "2", "--budget", "tokens=5", "--model", "m")
    changed = told("keys", "update", "a", "--name", "b", "--rpm", "none", "--team", "research")
    assert (changed["rpm"], changed["tpm"], changed["models"]) == (None, 2, ["m"])
    assert changed["team"] is not None
    words = ("--budget", "none", "--model", "all", "--expires", "never", "--team", "none")
    changed = told("keys", "update", "b", *words)
    assert (changed["budgets"], changed["models"], changed["team"]) == ([], None, None)
    assert told("teams", "update", "research", "--tpm", "5", "--name", "science")["tpm"] == 5
    assert [team["name"] for team in told("teams", "list")] == ["science"]


def test_rotate_prints_the_new_key_and_revoke_ends_it(run: Run, url: str) -> None:
    first = run("keys", "create", "a").stdout.strip()
    second = run("keys", "rotate", "a", "--grace", "1h").stdout.strip()
    assert admitted(url, first)
    third = run("keys", "rotate", "a").stdout.strip()
    assert [admitted(url, secret) for secret in (first, second, third)] == [False, False, True]
    for _ in range(2):
        assert run("keys", "revoke", "a").exit_code == 0
    assert not admitted(url, third)


def test_lists_are_tables_for_people_and_leave_revoked_keys_out(
    run: Run, told: Callable[..., Any]
) -> None:
    told("teams", "create", "research")
    told("keys", "create", "one", "--team", "research", "--tpm", "1m", "--budget", "cost=2.5/day")
    told("keys", "create", "[bold]two")
    told("keys", "revoke", "[bold]two")
    lines = run("keys", "list").stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "KEY", "TEAM", "STATUS", "LIMITS", "EXPIRES"]
    assert len(lines) == 2
    assert "1,000,000 tokens/min, cost 2.5/day" in lines[1]
    assert "[bold]two" in run("keys", "list", "--all").stdout
    assert [key["name"] for key in told("keys", "list", "--team", "research")] == ["one"]


def test_in_a_narrow_terminal_nothing_is_cut_off_and_limits_take_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    rows = [("key_" + "0" * 24, "my app", "sk-gw-…ppLc", "60 requests/min, 1,000 tokens/min")]
    print_table(("ID", "NAME", "KEY", "LIMITS"), rows, wrapped=("LIMITS",))
    shown = capsys.readouterr().out
    for whole in (*rows[0][:3], "requests/min,", "tokens/min"):
        assert whole in shown
    assert rows[0][3] not in shown


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["keys", "show", "none"], 1, "No key found with the name or id 'none'"),
        (["keys", "create", "--team", "nobody"], 1, "No team found with the name or id 'nobody'"),
        (["teams", "show", "none"], 1, "No team found with the name or id 'none'"),
        (["teams", "create", "taken"], 1, "There is a team `taken` already"),
        (["keys", "create", "--rpm", "many"], 2, "--rpm: expected a number"),
        (["keys", "create", "--max-concurrent", "1.5"], 2, "--max-concurrent: expected a whole"),
        (["keys", "create", "--budget", "5usd"], 2, "--budget: expected tokens=AMOUNT/WINDOW"),
        (["keys", "create", "--expires", "soon"], 2, "--expires: expected a duration"),
        (["keys", "create", "--expires", "9" * 400 + "d"], 2, "--expires: expected a duration"),
        (["keys", "create", "--expires", "9" * 300 + "d"], 2, "Invalid 'expires_at'"),
        (["keys", "create", "--expires", "2001-01-01"], 2, "it is in the past"),
        (["keys", "create", "--rpm", "0"], 2, "Invalid 'rpm'"),
        (["keys", "create", "--rpm", "9" * 5000], 2, "--rpm: expected a number below"),
        (["keys", "create", "--budget", f"cost={'9' * 5000}"], 2, "--budget: expected a number"),
        (["keys", "create", "--endpoint", "chat"], 2, "an endpoint is a path"),
        (["keys", "create", "--weight", "nan"], 2, "expected a number such as 2"),
        (["keys", "update", "twin", "--weight", "inf"], 2, "expected a number such as 2"),
        (["teams", "create", "fresh", "--weight", "nan"], 2, "expected a number such as 2"),
        (["teams", "create", "fresh", "--weight", "1e-320"], 2, "Expected a value >= 0.001"),
        (["teams", "create", "team_a"], 2, "a name doesn't begin with 'key_' or 'team_'"),
        (["teams", "create", "None"], 2, "a team isn't called 'none' or 'all'"),
        (["teams", "update", "taken", "--name", "all"], 2, "a team isn't called 'none' or 'all'"),
        (["keys", "create", "--team", "none"], 2, "--team: a new key is in no team"),
        (["keys", "create", "--model", "all", "--model", "x"], 2, "--model: 'all' is every one"),
        (["keys", "update", "x", "--endpoint", "/v1", "--endpoint", "all"], 2, "--endpoint: 'all'"),
        (["keys", "create", "--team", "taken", "--weight", "2"], 2, "Invalid 'weight'"),
        (["keys", "rotate", "none", "--grace", "1y"], 2, "--grace: expected a duration"),
        (["keys", "rotate", "none", "--grace", "9" * 400 + "d"], 2, "--grace: expected a duration"),
        (["keys", "rotate", "twin"], 2, "2 keys are called 'twin'"),
        (["keys", "show", "sk-gw-" + "x" * 43], 2, "that is a key itself"),
    ],
)
def test_what_cant_be_done_says_why_with_an_exit_code(
    run: Run, words: list[str], code: int, why: str
) -> None:
    for setup in (["teams", "create", "taken"], ["keys", "create", "twin"]):
        run(*setup)
    run("keys", "create", "twin")
    answer = run(*words)
    assert (answer.exit_code, answer.stdout) == (code, "")
    assert why in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_key_without_its_pepper_isnt_made_with_another(run: Run, url: str) -> None:
    secret = run("keys", "create", "one").stdout.strip()
    pepper = Path(f"{url.removeprefix('sqlite:///')}.pepper")
    kept = pepper.rename(pepper.with_name("kept"))
    for words in (["keys", "create", "two"], ["keys", "rotate", "one"]):
        answer = run(*words)
        assert (answer.exit_code, answer.stdout) == (2, "")
        assert "the pepper they were hashed with is gone" in answer.stderr
        assert not pepper.exists()
    kept.rename(pepper)
    assert admitted(url, secret)


def test_a_team_with_keys_is_deleted_only_on_purpose(run: Run) -> None:
    run("teams", "create", "research")
    run("keys", "create", "bot", "--team", "research")
    answer = run("teams", "delete", "research")
    assert answer.exit_code == 2
    assert "1 key stops working with team research; add --yes" in answer.stderr
    assert run("teams", "delete", "research", "--yes").exit_code == 0
    assert json.loads(run("keys", "show", "bot", "--json").stdout)["status"] == "team_deleted"


def test_state_in_memory_has_no_keys_to_change() -> None:
    answer = CliRunner().invoke(app, ["keys", "list", "--set", "state.url=sqlite://"])
    assert answer.exit_code == 2
    assert "use its admin API" in answer.stderr


def test_a_database_that_is_down_is_exit_code_1() -> None:
    down = f"state.url=postgresql://gateway@127.0.0.1:{free_port()}/db"
    answer = CliRunner().invoke(app, ["keys", "list", "--set", down])
    assert answer.exit_code == 1
    assert "state.url: can't use" in answer.stderr


def test_a_file_that_is_no_database_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a database, but a text of some length\n" * 100)
    answer = CliRunner().invoke(
        app, ["keys", "list", "--set", f"state.url=sqlite:///{tmp_path}/notes"]
    )
    assert answer.exit_code == 2
    assert "file is not a database" in answer.stderr


def test_a_servers_database_without_a_pepper_says_what_to_set(postgres_url: str) -> None:
    answer = CliRunner().invoke(app, ["keys", "create", "--set", f"state.url={postgres_url}"])
    assert answer.exit_code == 2
    assert "set auth.pepper_env" in answer.stderr


def test_who_typed_is_in_the_audit_log(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    run("teams", "create", "research")

    async def actors() -> list[str]:
        from gateway.store.paging import Slice
        from gateway.store.tenancy import EventsWanted

        site = site_of(url, Clock())
        events, _ = await site.tenancy.events(EventsWanted(), Slice(order="desc"), None)
        await site.database.close()
        return [event.actor for event in events]

    assert asyncio.run(actors()) == ["cli:ann"]
