"""What a client is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import LimitsConfig
from gateway.errors import QuotaExceededError, RateLimitError
from gateway.limits import Limiter
from gateway.limits.durations import duration
from gateway.tenants import Account, Budget
from tests.limits.conftest import Clock, Reserve, key, now, team


def test_who_is_over_a_rate_is_told_when_to_come_back(reserve: Reserve) -> None:
    account = key(tpm=6000)
    reserve(account, tokens=5900)
    with pytest.raises(RateLimitError) as caught:
        reserve(account, tokens=400)
    error = caught.value
    assert error.status == 429
    assert json.loads(error.body())["error"] == {
        "message": "Rate limit reached for key:k on tokens per min (TPM): Limit 6000, Used 5900, "
        "Requested 400. Please try again in 3.001s.",
        "type": "tokens",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert 3001 <= int(error.headers["retry-after-ms"]) <= 3752
    assert error.headers["retry-after"] in ("3", "4")
    assert "x-should-retry" not in error.headers


def test_the_kind_of_limit_is_the_type_of_the_error(reserve: Reserve) -> None:
    reserve(key(rpm=1, concurrent=5))
    with pytest.raises(RateLimitError, match="requests per min") as caught:
        reserve(key(rpm=1, concurrent=5))
    assert caught.value.type == "requests"


@pytest.mark.parametrize("account", [key(tpm=100), key(rpm=0), key(concurrent=0)])
def test_what_no_waiting_helps_is_not_to_be_tried_again(reserve: Reserve, account: object) -> None:
    with pytest.raises(RateLimitError, match="Request too large") as caught:
        reserve(account, tokens=101)
    assert caught.value.headers == {"x-should-retry": "false"}


def test_a_spent_budget_is_not_to_be_tried_again(reserve: Reserve) -> None:
    account = key(budgets=(Budget("tokens", 100, "day"),))
    reserve(account, tokens=100).settle(100, 0)
    with pytest.raises(QuotaExceededError) as caught:
        reserve(account, tokens=5)
    assert caught.value.headers == {"x-should-retry": "false"}
    assert json.loads(caught.value.body())["error"] == {
        "message": "Budget of key:k exceeded: Limit 100 tokens per day, Used 100 tokens, "
        "Requested 5 tokens. It is renewed at 2027-01-19T00:00:00Z.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }


def test_nothing_is_said_of_tokens_that_nobody_has_counted_yet(limiter: Limiter) -> None:
    for account in (key(tpm=5), key(budgets=(Budget("tokens", 5),), name="key:b")):
        now(limiter, (account,), 5)
        with pytest.raises(RateLimitError, match="Used 5") as caught:
            limiter.check((account,))
        assert "Requested" not in caught.value.message
    with pytest.raises(QuotaExceededError, match=r"Limit 0 tokens per month, Used 0 tokens\.$"):
        limiter.check((key(budgets=(Budget("tokens", 0),), name="key:c"),))


def test_what_is_larger_than_the_whole_budget_is_not_told_to_wait(reserve: Reserve) -> None:
    with pytest.raises(QuotaExceededError, match="Request too large for the budget") as caught:
        reserve(key(budgets=(Budget("tokens", 100, "day"),)), tokens=101)
    assert "renewed" not in caught.value.message
    assert "Requested 101 tokens. The input or output tokens must be" in caught.value.message


def test_who_is_refused_a_slot_is_told_to_return_after_those_before(limiter: Limiter) -> None:
    account = key(concurrent=1)
    now(limiter, (account,))
    assert [refused_for(limiter, account) for _ in range(4)] == [1, 2, 3, 4]
    assert max(refused_for(limiter, account) for _ in range(100)) == 60


def refused_for(limiter: Limiter, account: Account) -> float:
    with pytest.raises(RateLimitError, match="concurrent") as caught:
        limiter.check((account,))
    return _told(caught.value.message)


def test_of_several_reasons_the_one_that_lasts_longest_is_told(reserve: Reserve) -> None:
    budget = (Budget("tokens", 10),)
    reserve(key(rpm=1), team(tpm=10), tokens=10)
    with pytest.raises(RateLimitError, match="key:k on requests"):
        reserve(key(rpm=1), team(tpm=10), tokens=5)
    with pytest.raises(RateLimitError, match="Request too large for team:t"):
        reserve(key(rpm=1), team(tpm=10), tokens=11)
    with pytest.raises(QuotaExceededError):
        reserve(key(rpm=1), team(tpm=10, budgets=budget), tokens=11)


@given(
    limit=st.integers(1, 10**9),
    first=st.integers(1, 10**9),
    second=st.integers(1, 10**9),
    start=st.floats(0, 2e9),
)
def test_who_waits_as_long_as_told_is_let_in(
    limit: int, first: int, second: int, start: float
) -> None:
    first, second = min(first, limit), min(second, limit)
    clock = Clock(start)
    limiter = Limiter(LimitsConfig(), clock)
    account = key(tpm=limit)
    now(limiter, (account,), first)
    try:
        now(limiter, (account,), second)
    except RateLimitError as error:
        clock.now += _told(error.message)
        now(limiter, (account,), second)


def _told(message: str) -> float:
    """The seconds of `…try again in 1m2s.`"""
    text = message.rsplit(" ", 1)[1].rstrip(".")
    if text.endswith("ms"):
        return int(text[:-2]) / 1000
    minutes, _, seconds = text.rpartition("m")
    return 60 * int(minutes or 0) + float(seconds.rstrip("s"))


def test_the_tightest_account_of_each_kind_is_in_the_headers(
    limiter: Limiter, clock: Clock
) -> None:
    both = key(rpm=60, tpm=6000), team(rpm=600, tpm=5000)
    assert limiter.headers(()) == []
    now(limiter, both, 1000)
    assert dict(limiter.headers(both)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"1s",
        b"x-ratelimit-limit-tokens": b"5000",
        b"x-ratelimit-remaining-tokens": b"4000",
        b"x-ratelimit-reset-tokens": b"12s",
    }
    clock.now += 60
    assert dict(limiter.headers(both))[b"x-ratelimit-reset-tokens"] == b"0s"


def test_a_kind_without_a_limit_is_not_in_the_headers(limiter: Limiter) -> None:
    account = key(tpm=10, concurrent=5, budgets=(Budget("tokens", 5),))
    assert {name.rsplit(b"-", 1)[1] for name, _ in limiter.headers((account,))} == {b"tokens"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (1, "1s"),
        (7.66, "7.66s"),
        (8.6401, "8.641s"),
        (59.9995, "1m0s"),
        (360, "6m0s"),
        (3661.2, "1h1m2s"),
        (86_400, "24h0m0s"),
    ],
)
def test_time_spans_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
