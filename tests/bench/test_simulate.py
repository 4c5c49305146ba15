from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli.command import Exit
from bench.simulate import __main__ as command
from bench.simulate import figures, world
from bench.simulate.allowance import Allowance, window_start
from bench.simulate.books import Books
from bench.simulate.engine import ModelledEngine, Speed, Work
from bench.simulate.fairness import FairnessWatch, Flow
from bench.simulate.loop import NothingHappensError, VirtualLoop
from bench.simulate.scenario import Ask, Death, Scenario, random_scenario
from bench.simulate.starts import Starts
from bench.simulate.tally import simulate
from bench.simulate.world import World
from gateway import holds
from gateway.admission import Admission, Demand, flows
from gateway.admission.fair_queue import FairQueue
from gateway.admission.gate import Gate
from gateway.config import AdmissionConfig
from gateway.limits import Limiter, Reservation, limiter
from gateway.limits.meters import COST, TOKENS, Spending
from gateway.tenants import Account, Budget, Limits, Price, Principal

# About three CPU seconds. `python -m bench.simulate --seeds 10000` takes about two minutes.
SEEDS = range(250)
ALICE, BOB = Principal("alice", "alice"), Principal("bob", "bob")
SMALL = Speed(max_num_seqs=2, step_s=0.01, sequence_s=0.0, prefill_s=0.001, kv_tokens=200)


def violations(scenarios: list[Scenario]) -> list[str]:
    """The first of each that has any, without its time."""
    found = (World(scenario).play().violations for scenario in scenarios)
    return [each[0].partition(" s: ")[2] for each in found if each]


def ask(at: float = 0.0, principal: Principal = ALICE, **changes: Any) -> Ask:
    usual = Ask(at, principal, 8, 0, (4,), 4, render_s=0.0)
    return replace(usual, **changes)


def scenario(*asks: Ask, **changes: Any) -> Scenario:
    callers = tuple({one.principal.name: one.principal for one in asks}.values())
    return replace(Scenario(0, SMALL, AdmissionConfig(), callers, asks), **changes)


def test_everything_holds_in_hundreds_of_random_worlds() -> None:
    tally = simulate(SEEDS)

    assert tally.broken == {}
    assert tally.seeds == len(SEEDS)
    # Nothing is checked of what doesn't happen.
    assert {"completed", "cancelled", "failed"} <= set(tally.outcomes)
    refusals = {name.removeprefix("rejected: ") for name in tally.outcomes if "rejected" in name}
    assert {"OverloadedError", "DeadlineError", "UnavailableError"} <= refusals
    assert {"RateLimitError", "QuotaExceededError"} <= refusals


def test_a_seed_is_the_same_world_again() -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        World(random_scenario(7), trace=trace.append).play()

    assert traces[0] == traces[1] != []
    assert random_scenario(7) == random_scenario(7) != random_scenario(8)


def test_a_queue_that_is_first_come_first_served_is_found_unfair() -> None:
    found = violations([replace(random_scenario(seed), first_come=True) for seed in range(60)])

    assert any(text.startswith("unfair: ") for text in found)


def test_limits_that_allow_everything_are_found_over_admitting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Generous(Limiter):
        def check(self, accounts: tuple[Account, ...]) -> None: ...

        def reserve(self, accounts: tuple[Account, ...], tokens: int, cost: int) -> Reservation:
            return Reservation([], (1, tokens, cost, 1), 0.0, lambda: 0.0)

    monkeypatch.setattr(world, "Limiter", Generous)

    found = violations([random_scenario(seed) for seed in range(40)])

    assert any(text.startswith("over-admitted: ") for text in found)


def test_reservations_that_do_not_come_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reservation, "cancel", lambda _self: None)

    found = violations([random_scenario(seed) for seed in range(60)])

    assert any(text.startswith("not re") for text in found)


def _without_budgets(unit: int) -> Any:
    take = Spending.take

    def took(self: Spending, amount: int, now: float) -> bool:
        return self.unit == unit or take(self, amount, now)

    return took


def _settled(cost: Callable[[Reservation, int], int]) -> Any:
    def settle(self: Reservation, tokens: int, used: int) -> None:
        self._end((1, tokens, cost(self, used), 0))

    return settle


def _uncounted() -> Any:
    """A refund that the ticket knows of, and its tenant's counter doesn't."""
    refund = FairQueue.refund

    def refunded(self: FairQueue[Any], ticket: Any, prompt_tokens: int) -> None:
        flow = self.flow(ticket.demand.tenant, ticket.demand.priority)
        before = flow.counter if flow is not None else 0.0
        refund(self, ticket, prompt_tokens)
        if flow is not None:
            flow.counter = before

    return refunded


def _cached_is_dear(price: Price, used: Any) -> int:
    return price.cost(used.prompt_tokens, 0, used.completion_tokens)


@pytest.mark.parametrize(
    ("room", "name", "broken", "told"),
    [
        (Spending, "take", _without_budgets(COST), "over-admitted: "),
        (Spending, "take", _without_budgets(TOKENS), "over-admitted: "),
        (limiter, "amounts_of", lambda tokens, _cost: (1, tokens, 0, 1), "over-admitted: "),
        (Reservation, "settle", _settled(lambda one, _: one._amounts[COST]), "not refunded: "),
        (Reservation, "settle", _settled(lambda _one, _: 0), "not refunded: "),
        (holds, "_by_client", lambda _failure: False, "not refunded: "),
        (FairQueue, "_capped", lambda *_: False, "over-filled: "),
        (flows, "_order", lambda ticket: -ticket.order, "overtaken: "),
        (FairQueue, "refund", lambda *_: None, "mischarged: "),
        (FairQueue, "refund", _uncounted(), "mischarged: "),
        (FairQueue, "charge", lambda *_: None, "mischarged: "),
        (holds, "_cost", _cached_is_dear, "misrecorded: "),
        (Books, "record", lambda *_: None, "misrecorded: "),
    ],
    ids=[
        "no budget of money",
        "no budget of tokens",
        "everything is free",
        "money is never refunded",
        "all money is refunded",
        "hanging up is free",
        "no cap",
        "newest first",
        "no refund for the cache",
        "a refund that no counter has",
        "completions are free",
        "cached tokens cost as others",
        "no rows",
    ],
)
def test_what_is_broken_is_found_within_dozens_of_seeds(
    monkeypatch: pytest.MonkeyPatch, room: Any, name: str, broken: Any, told: str
) -> None:
    monkeypatch.setattr(room, name, broken)

    plays = (World(random_scenario(seed)).play() for seed in range(60))

    # As a run is made: no more than until one tells of it.
    assert any(f" s: {told}" in each for run in plays for each in run.violations)


def test_an_engine_that_is_given_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "verdict", lambda *_args, **_more: "open")

    found = violations([random_scenario(seed) for seed in range(20)])

    assert any(text.startswith("over-filled: ") for text in found)


def test_requests_that_nobody_will_ever_wake_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "pump", lambda _self, _line: None)

    found = violations([scenario(*[ask() for _ in range(6)])])

    assert found[0].startswith(("lost: ", "idle: "))


def test_requests_that_have_not_started_survive_the_engine() -> None:
    asks = [ask(completions=(40,), max_tokens=40) for _ in range(6)]

    run = World(scenario(*asks, deaths=(Death(0.1, 1.0),))).play()

    assert run.violations == []
    assert run.outcomes == {"failed": 2, "completed": 4}
    assert sum(row.starts for row in run.rows) >= 6


def test_an_engine_that_never_comes_back_refuses_who_waits() -> None:
    asks = [ask(completions=(40,), max_tokens=40) for _ in range(6)]

    run = World(scenario(*asks, deaths=(Death(0.1, None),))).play()

    assert run.violations == []
    assert run.outcomes["failed"] == 2
    assert run.outcomes["rejected: UnavailableError"] == 4


def test_clients_that_hang_up_are_charged_for_what_they_got() -> None:
    tokens = Account("key:a", Limits(budgets=(Budget("tokens", 1000, "total"),)))
    caller = Principal("a", "a", accounts=(tokens,))
    one = ask(principal=caller, completions=(500,), max_tokens=500, patience_s=1.0)

    run = World(scenario(one)).play()

    assert run.violations == []
    assert run.outcomes == {"cancelled": 1}
    assert 0 < run.rows[0].completion_tokens == run.generation_tokens < 500


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


def test_the_virtual_loop_skips_waiting_and_tells_when_nothing_can_happen() -> None:
    loop = VirtualLoop()
    order: list[str] = []

    async def program() -> None:
        loop.call_later(3600, order.append, "later")
        loop.call_later(60, order.append, "sooner")
        await asyncio.sleep(86_400)

    loop.play(program())

    assert loop.time() == pytest.approx(86_400)
    assert order == ["sooner", "later"]
    with pytest.raises(NothingHappensError):
        loop.play(_never())
    loop.close()


class _Customer:
    tenant = "a"

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.first: float | None = None
        self.tokens = 0
        self.end: float | None = None
        self.died = False

    def began(self, cached_tokens: int) -> None:
        self.first = self.loop.time()

    def produced(self) -> None:
        self.tokens += 1

    def ended(self, *, died: bool) -> None:
        self.end, self.died = self.loop.time(), died


def engine_run(
    speed: Speed, *lengths: tuple[int, ...], prompt: int = 10
) -> tuple[ModelledEngine, list[_Customer]]:
    loop = VirtualLoop()
    engine = ModelledEngine(speed, loop)
    customers = [_Customer(loop) for _ in lengths]

    async def program() -> None:
        for customer, length in zip(customers, lengths, strict=True):
            engine.submit(Work(customer, prompt, 0, length, 0))
        await asyncio.sleep(1000)

    loop.play(program())
    loop.close()
    return engine, customers


def test_the_modelled_engine_takes_as_long_as_its_steps() -> None:
    speed = Speed(max_num_seqs=1, step_s=1.0, sequence_s=0.1, prefill_s=0.01)

    engine, (first, second) = engine_run(speed, (3,), (1,))

    # A step that reads ten tokens and gives the first, two that give one each; then the other's.
    assert first.first == pytest.approx(1.1)
    assert first.end == pytest.approx(1.1 + 2 * 1.1)
    assert second.end == pytest.approx(3.3 + 1.1)
    assert (engine.prompt_tokens, engine.generation_tokens) == (20, 4)
    assert engine.stats().kv_cache_usage == 0


def test_a_long_prompt_is_read_in_chunks() -> None:
    speed = Speed(step_s=1.0, sequence_s=0.0, prefill_s=0.0, max_batched_tokens=4)

    _, (customer,) = engine_run(speed, (1,), prompt=10)

    assert customer.first == pytest.approx(3.0)


def test_a_long_prompt_leaves_half_of_a_step_to_others() -> None:
    speed = Speed(step_s=1.0, sequence_s=0.0, prefill_s=0.0, max_batched_tokens=4)

    _, (one, other) = engine_run(speed, (1,), (1,), prompt=12)

    # The first step is all its own, then both have half of each until one is read.
    assert [one.first, other.first] == pytest.approx([5.0, 6.0])


def test_sequences_that_outgrow_the_cache_start_over_and_finish() -> None:
    speed = Speed(max_num_seqs=2, kv_tokens=40)

    engine, customers = engine_run(speed, (25,), (25,))

    assert [customer.tokens for customer in customers] == [25, 25]
    assert (engine.prompt_tokens, engine.generation_tokens) == (20, 50)
    assert engine.inside == 0


def watched(found: list[str], *flows: Flow) -> FairnessWatch:
    return FairnessWatch(flows, room=1, violated=found.append)


def flow(name: str, weight: float = 1.0, *, batch: bool = False) -> Flow:
    return Flow(name, weight, batch, prompt=1.0, sequence=9.0)


def test_service_counts_by_weight_and_only_while_both_wait() -> None:
    found: list[str] = []
    watch = watched(found, flow("a", 1.0), flow("b", 4.0))
    watch.serve("a", 1000)
    watch.wait("a")
    watch.wait("b")
    watch.serve("b", 80)
    watch.serve("a", 20)
    watch.look()
    assert found == []

    watch.serve("a", 20)
    watch.look()
    assert found == []
    watch.serve("a", 1)
    watch.look()

    assert found
    assert found[0].startswith("unfair: ")


def test_who_waits_is_not_left_behind_those_who_do_not() -> None:
    found: list[str] = []
    watch = watched(found, flow("a"), flow("b"))
    watch.wait("a")
    watch.serve("b", 40)
    watch.look()
    assert found == []

    watch.serve("b", 1)
    watch.look()

    assert found
    assert found[0].startswith("starved: ")


def test_batch_work_may_be_left_behind() -> None:
    found: list[str] = []
    watch = watched(found, flow("a", batch=True), flow("b"))
    watch.wait("a")
    watch.wait("b")

    watch.serve("b", 1000)
    watch.look()

    assert found == []


def demand(tenant: str = "alice", sequences: int = 1) -> Demand:
    return Demand(tenant, 1.0, "online", 8, sequences, 4, None)


def test_more_sequences_of_a_tenant_than_its_cap_run_only_as_one_request() -> None:
    found: list[str] = []
    starts = Starts(2, found.append)
    starts.start(demand(sequences=5), starts.ask())
    starts.start(demand("bob", sequences=2), starts.ask())
    starts.end(demand(sequences=5))
    starts.start(demand(), starts.ask())
    starts.start(demand(), starts.ask())
    assert found == []

    starts.start(demand(), starts.ask())

    assert found == ["over-filled: alice runs 3 sequences, over the cap of 2"]


async def test_a_request_that_comes_back_is_before_those_that_asked_later() -> None:
    found: list[str] = []
    starts = Starts(None, found.append)
    first, second, other = starts.ask(), starts.ask(), starts.ask()
    starts.start(demand(), first)
    for number in (second, first):  # the engine has died under the first
        starts.wait(demand(), number, asyncio.get_running_loop().create_future())
    starts.start(demand("bob"), other)
    assert found == []

    starts.start(demand(), second)

    assert found == ["overtaken: alice waits with its request 1, and 2 was started"]


@pytest.mark.parametrize(
    ("limits", "take"),
    [
        (Limits(rpm=2), lambda book: [book(1, 1, 0.0), book(1, 1, 0.0), book(1, 1, 29.0)]),
        (Limits(tpm=60), lambda book: [book(60, 1, 0.0), book(11, 1, 10.0)]),
        (Limits(max_concurrent=1), lambda book: [book(1, 1, 0.0), book(1, 1, 0.0)]),
        (
            Limits(budgets=(Budget("tokens", 10, "hour"),)),
            lambda book: [book(10, 1, 3599.0), book(10, 1, 3600.0), book(1, 1, 3601.0)],
        ),
    ],
)
def test_the_second_set_of_books_tells_of_the_first_that_is_too_many(
    limits: Limits, take: Callable[[Callable[[int, int, float], None]], object]
) -> None:
    found: list[str] = []
    account = Account("key:a", limits)
    allowance = Allowance([account], 0.0, found.append)
    seen: list[int] = []

    def book(tokens: int, cost: int, at: float) -> None:
        allowance.reserve([account], tokens, cost, at)
        seen.append(len(found))

    take(book)

    assert seen[-1] == 1
    assert seen[-2] == 0


def test_windows_begin_where_the_calendar_says() -> None:
    wednesday = 1_780_477_261.0  # 2026-06-03 09:01:01 UTC

    starts = [
        wednesday - window_start(window, wednesday) for window in ("hour", "day", "week", "month")
    ]

    assert starts == [61, 9 * 3600 + 61, 57 * 3600 + 61, 57 * 3600 + 61]
    assert window_start("total", wednesday) == 0


def test_simulated_tenants_get_what_their_weights_promise_and_floods_hurt_nobody() -> None:
    found = figures.measure(seed=0, seconds=40.0)

    for name, share in figures.shares(found.fair).items():
        assert share == pytest.approx(float(name.split()[1]) / 7, rel=0.05)
    assert found.ratio("under flood, fair", 95) < found.ratio("under flood, first come", 95) / 10
    assert figures.throughput(found.fair) > 0.97 * figures.throughput(found.first_come)
    assert "| fair | 0.1" in figures.to_markdown(found)
    ET.fromstring(figures.svg(found))
    json.dumps(figures.to_record(found))


def test_the_command_counts_what_it_saw_and_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"

    code = command.main(["--seeds", "30", "--first", "100", "--jobs", "1", "--json", str(file)])

    assert code == Exit.OK
    assert capsys.readouterr().out.startswith("30 seeds: ")
    record = json.loads(file.read_text())
    assert (record["seeds"], record["broken"]) == (30, {})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--json", "missing/found.json"], "error: --json missing/found.json: there is no"),
        (["--figures", "file"], "error: --figures file: File exists"),
        (["--seeds", "0"], "must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_simulated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()

    try:
        code = command.main(options)
    except SystemExit as error:  # argparse's own
        code = int(str(error.code))

    shown = capsys.readouterr()
    assert (code, shown.out) == (Exit.UNUSABLE, "")
    assert told in shown.err


def test_seeds_are_shared_by_processes() -> None:
    words = [sys.executable, "-m", "bench.simulate", "--seeds", "60", "--jobs", "2"]

    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stdout[:10]) == (Exit.OK, "60 seeds: "), done.stderr


def test_one_seed_can_be_told_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    code = command.main(["--seed", "3", "--trace"])

    assert code == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("seed 3: ")
    assert any("completed" in line for line in lines[:-1])


def test_a_seed_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Gate, "verdict", lambda *_args, **_more: "open")

    code = command.main(["--seed", "4"])

    assert code == Exit.FAILED_REQUESTS
    assert "over-filled" in capsys.readouterr().out
