"""Who was told when to come back."""

from __future__ import annotations

import pytest

from gateway.admission.promises import LONGEST_S, SWEEP_AT, Promises


def test_each_is_told_a_time_of_its_own() -> None:
    promises = Promises()
    assert [promises.give("a", 2.0, 0.5, 100.0) for _ in range(4)] == [2.0, 2.5, 3.0, 3.5]
    assert promises.give("b", 2.0, 0.5, 100.0) == 2.0
    assert promises.give("a", 2.0, 0.5, 101.0) == 3.0


def test_nobody_is_sent_away_for_longer_than_clients_obey() -> None:
    promises = Promises()
    told = [promises.give("a", 1.0, 10.0, 0.0) for _ in range(20)]
    assert max(told) == LONGEST_S


def test_a_place_is_held_from_its_time_on_until_it_is_claimed() -> None:
    promises = Promises()
    promises.give("a", 10.0, 1.0, 0.0)
    assert promises.held("a", 9.0) == 0
    assert not promises.claim("a", 9.0)
    assert promises.held("a", 10.5) == 1
    assert promises.held("b", 10.5) == 0
    assert not promises.claim("b", 10.5)
    assert promises.claim("a", 10.5)
    assert promises.held("a", 10.5) == 0
    assert not promises.claim("a", 10.5)


def test_a_place_is_held_for_as_long_as_the_jitter_may_be() -> None:
    promises = Promises()
    promises.give("a", 10.0, 1.0, 0.0)
    assert promises.claim("a", 12.5)
    promises.give("a", 10.0, 1.0, 100.0)
    assert not promises.claim("a", 120.0)


def test_fewer_places_are_held_for_clients_who_do_not_come() -> None:
    promises = Promises()
    now = 0.0
    for _ in range(200):
        promises.give("a", 1.0, 0.0, now)
        now += 10.0
        assert promises.held("a", now) < 1
    promises.give("a", 1.0, 0.0, now)
    assert promises.held("a", now + 1) < 0.01
    now += 10.0
    for _ in range(100):
        promises.give("a", 1.0, 0.0, now)
        now += 1.0
        promises.claim("a", now)
    promises.give("a", 1.0, 0.0, now)
    assert promises.held("a", now + 1) == pytest.approx(1, abs=0.2)


def test_promises_to_tenants_who_are_gone_are_forgotten() -> None:
    promises = Promises()
    for number in range(20 * SWEEP_AT):
        promises.give(f"tenant {number}", 1.0, 0.0, float(number))
    assert len(promises._books) <= SWEEP_AT
