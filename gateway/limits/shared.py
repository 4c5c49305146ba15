"""How gateways share limits.

Each takes a small slice of a limit ahead, so that most requests need nobody else's leave, and what
is more than that when a request asks for it. What they hold counts as used by all. Slices are
leased: those of a gateway that has died come back. All that are held of one limit together are at
most `LimitsConfig.slice` of it; that is also the most that can be used beyond the limit, by
gateways that used what they held and died before they could tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

# How long it is known which call of a gateway was the last.
REMEMBERED_S = 3600.0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway wants of one limit, and all that is to be known of it."""

    account: str
    kind: str
    limit: int
    rate: float = 0.0
    """Refill a second; 0 for budgets and concurrent requests."""
    since: float = 0.0
    until: float = 0.0
    """The budget's window, which everything below is of; 0 for the others, and for one without
    an end."""
    slice: int
    """The most that all gateways may hold ahead."""
    back: int = 0
    """Comes back unused."""
    kept: int = 0
    """Of what is held ahead, what stays."""
    recorded: int = 0
    """What the last grant recorded."""
    busy: int = 0
    """Requests that run; only for `concurrent`."""
    needs: tuple[int, ...] = ()
    """What each waiting request lacks, all of it or nothing."""
    more: bool = True
    """Whether more ahead is welcome."""
    floor: int = 0
    """What is used in this window at least, as far as the gateway knows."""
    seen: int = 0
    """What was used in this window by all when the gateway was told last. Only for a store that has
    no counter of it: it has lost its data."""
    lowered: bool = False
    """Whether the limit was a higher one at the last ask: a bucket is at most empty then."""


class Grant(msgspec.Struct, frozen=True):
    """The answer. `granted` says which needs were met. `ahead` is what may be spent now beside what
    was kept; `recorded` is what comes back to the others if this gateway dies. `left` is what
    others could still have."""

    granted: tuple[bool, ...]
    ahead: int
    recorded: int
    left: float
    since: float
    now: float


class Lease(msgspec.Struct, frozen=True):
    """What a gateway holds of a limit until a time of the store's clock."""

    amount: int
    until: float


class Counter(msgspec.Struct, frozen=True):
    """What is used of a limit, all that is held included: in the window that began at `since`, or
    of a bucket as it was at `since`."""

    since: float
    used: float


class SharedLimits(Protocol):
    """Where the limits are kept."""

    async def open(self) -> float:
        """The time it is there, in seconds since the epoch. Raises ConfigError where it can't be
        used."""

    async def lease(self, call: int, asks: Sequence[Ask]) -> list[Grant]:
        """Answer all `asks`. One that was carried out already in a call of this number isn't again,
        and nothing more is granted for it. Raises UnavailableError: it may have been carried
        out."""

    async def close(self) -> None:
        """Close connections."""


class Decision(msgspec.Struct, frozen=True):
    """What becomes of a limit: its counter, this gateway's lease (an amount of 0: none) and the
    other gateways whose leases are over."""

    counter: Counter
    amount: int
    over: tuple[str, ...]
    grant: Grant


def decide(
    counter: Counter | None,
    leases: Mapping[str, Lease],
    instance: str,
    ask: Ask,
    now: float,
    repeated: bool = False,
) -> Decision:
    """Answer the `ask` of `instance` at `now`, a time of the store's clock, given what is written
    of the limit. `repeated`: it was answered before."""
    if ask.kind == "concurrent":
        return _decide_slots(leases, instance, ask, now, repeated)
    lost = counter is None
    counter, leases, over = _current(counter, leases, ask, now)
    dead, others = _parties(leases, instance, now)
    used = counter.used - sum(leases[name].amount for name in dead)
    kept = floor = 0
    if ask.rate or ask.since == counter.since:
        kept = ask.kept
        floor = max(ask.floor, ask.seen) if lost else ask.floor
        used += _told(ask, leases.get(instance), repeated)
    used = max(used, 0.0, float(floor))
    if ask.lowered and ask.rate:
        used = min(used, float(ask.limit))
    granted, spent = _meet(ask, ask.limit - used, repeated)
    share = max(0, ask.slice - others)
    ahead = 0
    if ask.more and not repeated:
        # Half of what the others leave, so that all come to hold the same; and half of what there
        # is, so that nobody holds the last that another needs.
        ahead = max(0, min(share // 2 - kept, int((ask.limit - used - spent) // 2)))
    used += spent + ahead
    amount = min(kept + ahead, share)
    return Decision(
        counter=Counter(counter.since, used),
        amount=amount,
        over=(*over, *dead),
        grant=Grant(granted, ahead, amount, ask.limit - used, counter.since, now),
    )


def _decide_slots(
    leases: Mapping[str, Lease], instance: str, ask: Ask, now: float, repeated: bool
) -> Decision:
    """Requests that run end with their gateway: its lease is of all of them."""
    dead, others = _parties(leases, instance, now)
    room = ask.limit - others - ask.busy - ask.kept
    granted, spent = _meet(ask, room, repeated)
    ahead = 0
    if ask.more and not repeated:
        ahead = max(0, min(ask.slice // 2 - ask.kept, (room - spent) // 2))
    amount = ask.busy + ask.kept + spent + ahead
    left = ask.limit - others - amount
    return Decision(
        counter=Counter(0.0, 0.0),
        amount=amount,
        over=tuple(dead),
        grant=Grant(granted, ahead, ask.kept + ahead, left, 0.0, now),
    )


def _parties(leases: Mapping[str, Lease], instance: str, now: float) -> tuple[list[str], int]:
    """Who of the others has died, and what those that live hold."""
    dead = [name for name, lease in leases.items() if lease.until <= now and name != instance]
    gone = {instance, *dead}
    return dead, sum(lease.amount for name, lease in leases.items() if name not in gone)


def _current(
    counter: Counter | None, leases: Mapping[str, Lease], ask: Ask, now: float
) -> tuple[Counter, Mapping[str, Lease], tuple[str, ...]]:
    """The counter as it is now, the leases of the same window, and whose are of another."""
    if ask.rate:
        if counter is None:
            return Counter(now, 0.0), leases, ()
        leaked = max(0.0, now - counter.since) * ask.rate
        return Counter(now, max(0.0, counter.used - leaked)), leases, ()
    if not ask.until and not ask.since:  # a budget in total
        return counter or Counter(0.0, 0.0), leases, ()
    # A gateway whose clock is ahead must not end the window for all.
    if counter is None or counter.since < ask.since <= now:
        return Counter(ask.since, 0.0), {}, tuple(leases)
    return counter, leases, ()


def _told(ask: Ask, mine: Lease | None, repeated: bool) -> int:
    """What the asking gateway has used more, by what it says."""
    if repeated:
        # What was granted ahead has not arrived.
        return ask.kept if mine is None else -max(0, mine.amount - ask.kept)
    # Where its lease is gone others were given what was recorded, and it may be spent.
    return (ask.recorded if mine is None else 0) - ask.back


def _meet(ask: Ask, room: float, repeated: bool) -> tuple[tuple[bool, ...], int]:
    """Which of the needs can be met, those before the others, and how much they are."""
    met, spent = [], 0
    for need in ask.needs:
        fits = not repeated and need <= room - spent
        spent += need if fits else 0
        met.append(fits)
    return tuple(met), spent
