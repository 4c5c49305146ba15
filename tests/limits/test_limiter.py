"""What is admitted, and what comes back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import LimitsConfig
from gateway.errors import QuotaExceededError, RateLimitError
from gateway.limits import Limiter, Reservation
from gateway.tenants import NANOS, Budget, Window
from tests.limits.conftest import Clock, Reserve, key, now, spent, team


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_request_takes_its_place_until_the_minute_has_brought_another(
    reserve: Reserve, clock: Clock
) -> None:
    account = key(rpm=2)
    reserve(account)
    reserve(account)
    with pytest.raises(RateLimitError):
        reserve(account)
    clock.now += 29.9
    with pytest.raises(RateLimitError):
        reserve(account)
    clock.now += 0.2
    reserve(account)


def test_what_is_not_used_comes_back(reserve: Reserve) -> None:
    account = key(tpm=100)
    first = reserve(account, tokens=100)
    first.settle(40, 0)
    reserve(account, tokens=60)
    with pytest.raises(RateLimitError):
        reserve(account, tokens=1)


def test_what_has_been_refilled_meanwhile_does_not_come_back_as_well(
    reserve: Reserve, clock: Clock
) -> None:
    account = key(tpm=600)
    old = []
    for _ in range(10):
        old.append(reserve(account, tokens=600))
        clock.now += 60
    reserve(account, tokens=600).settle(600, 0)
    for one in old:
        one.settle(0, 0)
        with pytest.raises(RateLimitError):
            reserve(account, tokens=1)


def test_what_others_took_later_does_not_come_back_with_a_request(
    reserve: Reserve, clock: Clock
) -> None:
    account = key(tpm=600)
    old = reserve(account, tokens=600)
    clock.now += 60
    reserve(account, tokens=500).settle(500, 0)
    old.settle(0, 0)
    with pytest.raises(RateLimitError):
        reserve(account, tokens=101)
    reserve(account, tokens=100)


@given(order=st.permutations(range(8)))
def test_what_comes_back_is_the_same_in_whatever_order_requests_end(order: list[int]) -> None:
    limiter, account = Limiter(LimitsConfig(), lambda: 0.0), key(tpm=1000)
    running = [limiter.reserve((account,), 120, 0) for _ in range(8)]
    for number in order:
        one = running[number]
        assert isinstance(one, Reservation)
        one.settle(20, 0)
    told = dict(limiter.headers((account,)))
    assert told[b"x-ratelimit-remaining-tokens"] == b"840"


def test_a_refused_request_takes_nothing_from_what_comes_back(reserve: Reserve) -> None:
    account, full = key(tpm=100), team(rpm=0)
    running = reserve(account, tokens=60)
    for _ in range(5):
        with pytest.raises(RateLimitError, match="team:t"):
            reserve(account, full, tokens=40)
    running.settle(0, 0)
    reserve(account, tokens=100)


def test_a_settled_request_stays_counted_and_a_cancelled_one_does_not(reserve: Reserve) -> None:
    account = key(rpm=2, tpm=100)
    reserve(account, tokens=50).settle(0, 0)
    reserve(account, tokens=50).cancel()
    reserve(account, tokens=100).cancel()
    reserve(account)
    with pytest.raises(RateLimitError):
        reserve(account)


def test_only_the_first_end_of_a_reservation_counts(reserve: Reserve) -> None:
    account = key(tpm=100, concurrent=1)
    first = reserve(account, tokens=100)
    first.settle(100, 0)
    first.cancel()
    first.settle(0, 0)
    with pytest.raises(RateLimitError, match="on tokens"):
        reserve(account)
    reserve(account, tokens=0)
    with pytest.raises(RateLimitError, match="concurrent"):
        reserve(account, tokens=0)


def test_a_request_takes_from_all_its_accounts_or_from_none(reserve: Reserve) -> None:
    both = key(rpm=10, tpm=1000), team(rpm=1, tpm=100)
    with pytest.raises(RateLimitError, match="team:t on tokens"):
        reserve(*both, tokens=101)
    reserve(*both, tokens=100)
    for _ in range(3):
        with pytest.raises(RateLimitError, match="team:t"):
            reserve(*both, tokens=100)
    for _ in range(9):
        reserve(both[0], tokens=100)
    with pytest.raises(RateLimitError, match="key:k"):
        reserve(both[0], tokens=100)


def test_keys_of_a_team_share_what_it_has(reserve: Reserve) -> None:
    reserve(key(name="key:a"), team(tpm=100), tokens=60)
    with pytest.raises(RateLimitError, match="team:t"):
        reserve(key(name="key:b"), team(tpm=100), tokens=60)
    reserve(key(name="key:b"), team(tpm=100), tokens=40)


def test_no_more_run_at_once_than_may(reserve: Reserve) -> None:
    account = key(concurrent=2)
    first, _ = reserve(account), reserve(account)
    with pytest.raises(RateLimitError, match="concurrent requests: Limit 2, Used 2, Requested 1"):
        reserve(account)
    first.settle(1, 0)
    reserve(account)


def test_what_runs_counts_for_a_limit_that_comes_while_it_does(reserve: Reserve) -> None:
    reserve(key())
    with pytest.raises(RateLimitError, match="concurrent"):
        reserve(key(concurrent=1))


@pytest.mark.parametrize(
    ("window", "last", "first"),
    [
        ("hour", "2026-03-01T12:59:59.9", "2026-03-01T13:00:00"),
        ("day", "2026-02-28T23:59:59.9", "2026-03-01T00:00:00"),
        ("week", "2026-03-01T23:59:59.9", "2026-03-02T00:00:00"),
        ("month", "2026-02-28T23:59:59.9", "2026-03-01T00:00:00"),
        ("month", "2026-12-31T23:59:59.9", "2027-01-01T00:00:00"),
    ],
)
def test_a_budget_is_renewed_when_its_calendar_window_begins(
    reserve: Reserve, clock: Clock, window: Window, last: str, first: str
) -> None:
    account = key(budgets=(Budget("tokens", 100, window),))
    clock.now = at(last)
    reserve(account, tokens=100).settle(100, 0)
    with pytest.raises(QuotaExceededError, match=f"renewed at {first}Z"):
        reserve(account)
    clock.now = at(first)
    reserve(account, tokens=100)


def test_a_budget_in_total_is_never_renewed(reserve: Reserve, clock: Clock) -> None:
    account = key(budgets=(Budget("tokens", 10, "total"),))
    reserve(account, tokens=10).settle(10, 0)
    clock.now += 1e9
    with pytest.raises(QuotaExceededError, match="Limit 10 tokens in total"):
        reserve(account)


def test_what_comes_back_goes_to_the_window_it_was_taken_from(
    reserve: Reserve, clock: Clock
) -> None:
    account = key(budgets=(Budget("tokens", 100, "hour"),))
    old = reserve(account, tokens=100)
    clock.now += 3600
    reserve(account, tokens=80).settle(80, 0)
    old.settle(0, 0)
    with pytest.raises(QuotaExceededError):
        reserve(account, tokens=21)
    reserve(account, tokens=20)


def test_what_comes_back_after_the_clock_was_set_back_goes_to_where_it_was_taken_from(
    reserve: Reserve, clock: Clock
) -> None:
    account = key(budgets=(Budget("tokens", 100, "hour"),))
    clock.now += 300
    reserve(account, tokens=10).settle(10, 0)
    clock.now -= 1800
    for _ in range(8):
        reserve(account, tokens=20).settle(10, 0)
    with pytest.raises(QuotaExceededError):
        reserve(account, tokens=11)
    clock.now += 1800 + 3300
    reserve(account, tokens=100)


def test_a_clock_that_was_wrong_by_years_ends_no_window_for_years(
    reserve: Reserve, clock: Clock
) -> None:
    account = key(budgets=(Budget("tokens", 100, "month"),))
    clock.now += 1e9
    wrong = reserve(account, tokens=100)
    clock.now -= 1e9
    reserve(account, tokens=60).settle(60, 0)
    wrong.settle(0, 0)
    with pytest.raises(QuotaExceededError):
        reserve(account, tokens=41)
    clock.now += 31 * 86_400
    reserve(account, tokens=100)


def test_money_is_counted_in_its_own_unit(reserve: Reserve) -> None:
    account = key(budgets=(Budget("currency", 2 * NANOS),))
    reserve(account, tokens=10**9, cost=1_500_000_000).settle(5, 1_250_000_000)
    with pytest.raises(
        QuotaExceededError, match=r"Limit 2 per month, Used 1\.25, Requested 0\.750000001"
    ):
        reserve(account, cost=750_000_001)
    reserve(account, cost=750_000_000)
    reserve(account, cost=0)


def test_a_budget_that_running_requests_hold_is_worth_trying_again(reserve: Reserve) -> None:
    account = key(budgets=(Budget("tokens", 100),))
    first = reserve(account, tokens=90)
    with pytest.raises(RateLimitError, match="Running requests of key:k hold") as caught:
        reserve(account, tokens=20)
    assert "retry-after" in caught.value.headers
    first.settle(85, 0)
    with pytest.raises(QuotaExceededError):
        reserve(account, tokens=20)


def test_a_limit_edited_while_running_acts_at_once(reserve: Reserve, clock: Clock) -> None:
    reserve(key(tpm=100), tokens=100)
    reserve(key(tpm=150), tokens=50)
    with pytest.raises(RateLimitError):
        reserve(key(tpm=150), tokens=1)
    clock.now += 60
    with pytest.raises(RateLimitError):
        reserve(key(tpm=10), tokens=11)
    reserve(key(tpm=None), tokens=10**9)


def test_a_lowered_limit_is_refilled_within_its_minute(reserve: Reserve, clock: Clock) -> None:
    reserve(key(tpm=1_000_000), tokens=1_000_000)
    with pytest.raises(RateLimitError):
        reserve(key(tpm=100), tokens=1)
    clock.now += 60
    reserve(key(tpm=100), tokens=100)


def test_of_equal_budgets_the_smaller_counts(reserve: Reserve) -> None:
    account = key(budgets=(Budget("tokens", 10), Budget("tokens", 5), Budget("tokens", 7)))
    reserve(account, tokens=5)
    with pytest.raises(RateLimitError):
        reserve(account, tokens=1)


def test_a_clock_that_is_set_back_neither_fills_nor_stops_a_bucket(
    reserve: Reserve, clock: Clock
) -> None:
    account = key(rpm=1)
    reserve(account)
    clock.now -= 5000
    with pytest.raises(RateLimitError):
        reserve(account)
    clock.now += 60
    reserve(account)


def test_budgets_survive_a_restart(limiter: Limiter, clock: Clock) -> None:
    limiter.restore(
        [
            spent("key:k", "day", 70),
            spent("key:k", "month", 1000),
            spent("key:other", "day", 100),
        ]
    )
    account = key(budgets=(Budget("tokens", 100, "day"),))
    with pytest.raises(QuotaExceededError):
        now(limiter, (account,), 31)
    now(limiter, (account,), 30).cancel()
    clock.now += 86_400
    now(limiter, (account,), 100)


def test_a_budget_that_is_given_later_counts_from_where_use_was(reserve: Reserve) -> None:
    reserve(key(rpm=100), tokens=260).settle(260, 5)
    both = Budget("tokens", 300, "total"), Budget("currency", 6, "day")
    with pytest.raises(QuotaExceededError, match="Used 260 tokens"):
        reserve(key(budgets=both), tokens=41)
    with pytest.raises(QuotaExceededError, match=r"Used 0\.000000005"):
        reserve(key(budgets=both), tokens=40, cost=2)
    reserve(key(budgets=both), tokens=40, cost=1)


def test_a_budget_taken_away_and_given_back_is_as_spent_as_it_was(reserve: Reserve) -> None:
    spent = key(budgets=(Budget("tokens", 200, "day"),))
    reserve(spent, tokens=190).settle(190, 0)
    reserve(key(rpm=10), tokens=9).settle(9, 0)
    with pytest.raises(QuotaExceededError, match="Used 199 tokens"):
        reserve(spent, tokens=2)
    with pytest.raises(QuotaExceededError, match="Used 199 tokens"):
        reserve(key(budgets=(Budget("tokens", 200, "month"),)), tokens=2)


def test_what_ran_before_a_budget_was_given_comes_back_to_it(
    reserve: Reserve, clock: Clock
) -> None:
    running = reserve(key(rpm=10), tokens=100)
    budget = key(budgets=(Budget("tokens", 100, "hour"),))
    with pytest.raises(RateLimitError, match="Running requests"):
        reserve(budget, tokens=50)
    running.settle(50, 0)
    reserve(budget, tokens=50).settle(50, 0)
    with pytest.raises(QuotaExceededError):
        reserve(budget, tokens=1)
    clock.now += 3600
    reserve(budget, tokens=100)


def test_what_was_used_in_all_outlives_every_other_window(limiter: Limiter, clock: Clock) -> None:
    now(limiter, (key(rpm=10),), 10).settle(10, 0)
    for number in range(50):
        now(limiter, (key(rpm=1, name=f"key:{number}"),)).settle(1, 0)
        clock.now += 86_400
    with pytest.raises(QuotaExceededError, match="Used 10 tokens"):
        now(limiter, (key(budgets=(Budget("tokens", 10, "total"),)),))


@pytest.mark.parametrize("seen", [True, False])
def test_what_the_ledger_says_later_is_the_least_that_was_used(
    limiter: Limiter, seen: bool
) -> None:
    account = key(budgets=(Budget("tokens", 100, "total"),))
    if seen:
        now(limiter, (account,), 20).settle(20, 0)
        now(limiter, (account,), 10)  # runs: the ledger can't know
    for told in (70, 50):
        limiter.at_least([spent("key:k", "total", told)])
    left = 20 if seen else 30
    with pytest.raises((RateLimitError, QuotaExceededError)):
        now(limiter, (account,), left + 1)
    now(limiter, (account,), left)


@pytest.mark.parametrize("seen", [True, False])
def test_what_the_ledger_said_of_a_window_that_is_over_is_not_of_the_next(
    limiter: Limiter, clock: Clock, seen: bool
) -> None:
    account = key(budgets=(Budget("tokens", 100, "month"),))
    clock.now = at("2027-01-31T23:59:59.9")
    found = spent("key:k", "month", 90, clock.now)
    clock.now = at("2027-02-01T00:00:00")
    if seen:
        now(limiter, (account,), 20).settle(20, 0)
    limiter.restore([found])
    limiter.at_least([found])
    now(limiter, (account,), 80 if seen else 100).settle(0, 0)
    limiter.at_least([spent("key:k", "month", 70, clock.now), found])
    now(limiter, (account,), 30)
    with pytest.raises((RateLimitError, QuotaExceededError)):
        now(limiter, (account,), 1)


def test_what_is_certain_is_refused_before_any_work(limiter: Limiter) -> None:
    for account in (
        key(rpm=1, name="key:a"),
        key(tpm=5, name="key:b"),
        key(concurrent=1, name="key:c"),
        key(budgets=(Budget("tokens", 5),), name="key:d"),
    ):
        limiter.check((account,))
        now(limiter, (account,), 5)
        with pytest.raises(RateLimitError):
            limiter.check((account,))
    limiter.check((key(budgets=(Budget("currency", 0),)),))  # the model may be free


def test_what_could_be_had_once_all_has_ended_is_told(limiter: Limiter) -> None:
    assert limiter.capacity(()) is None
    assert limiter.capacity((key(rpm=1, budgets=(Budget("currency", 5),)),)) is None
    budget = key(budgets=(Budget("tokens", 500),), name="key:b")
    assert limiter.capacity((key(tpm=1000), budget)) == 500
    running = now(limiter, (budget,), 400)
    assert limiter.capacity((key(tpm=100), budget)) == 100
    assert limiter.capacity((budget,)) == 500
    running.settle(300, 0)
    assert limiter.capacity((budget,)) == 200


def test_accounts_that_are_idle_past_their_windows_are_forgotten(
    limiter: Limiter, clock: Clock
) -> None:
    def seen() -> int:
        return len(limiter._accounts)

    kept = now(limiter, (key(concurrent=1, name="key:kept"),))
    for number in range(5000):
        now(limiter, (key(rpm=60, tpm=60, name=f"key:{number}"),)).settle(1, 0)
        clock.now += 86_400
    assert seen() < 100
    with pytest.raises(RateLimitError):
        limiter.check((key(concurrent=1, name="key:kept"),))
    kept.cancel()


def test_an_account_that_used_a_budget_is_remembered(limiter: Limiter, clock: Clock) -> None:
    spender = key(budgets=(Budget("tokens", 10, "total"),), name="key:spender")
    now(limiter, (spender,), 10).settle(10, 0)
    for number in range(500):
        now(limiter, (key(name=f"key:{number}"),)).settle(1, 0)
        clock.now += 1000
    with pytest.raises(QuotaExceededError):
        now(limiter, (spender,))
