"""What counts a limit that several gateways share, in one of them. Pure: the time is told."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf

from gateway.limits.meters import (
    COST,
    MINUTE_S,
    REQUEST,
    SLOT,
    TOKENS,
    Turns,
    milliseconds_up,
    until_one_ends,
)
from gateway.limits.refusals import BudgetRefusal, Kind, RateRefusal, Refusal
from gateway.limits.shared import Ask, Grant
from gateway.limits.use import Use
from gateway.limits.windows import window_end, window_start
from gateway.store.usage import Spent
from gateway.tenants import Budget

# Who was told that there is no more doesn't ask again for so long: others may have given back.
RECHECK_S = 0.1
_GUESS_S = 1.0


class Leased:
    """Takes from what this gateway holds ahead of the limit; a request that needs more waits for a
    grant. `wake` is called when another gateway's part, or what this one holds, should be told of;
    with True where another's caller may be waiting for it. `use` is what this gateway knows to be
    used of a budget, which it tells whenever it asks: a store that has lost its data, or a limit
    that is new, begins with that.
    """

    __slots__ = (
        "__weakref__",
        "_back",
        "_busy",
        "_dry_need",
        "_dry_until",
        "_held",
        "_known_at",
        "_lasted_s",
        "_lease_s",
        "_left",
        "_lowered",
        "_rate",
        "_recorded",
        "_seen",
        "_share",
        "_touched",
        "_turns",
        "_until",
        "_valid_until",
        "_wake",
        "account",
        "budget",
        "kind",
        "limit",
        "renew_at",
        "since",
        "unit",
        "use",
    )

    def __init__(
        self,
        account: str,
        kind: str,
        limit: int,
        budget: Budget | None,
        share: float,
        lease_s: float,
        wake: Callable[[Leased, bool], None],
        now: float,
        use: Use | None = None,
    ) -> None:
        self.account = account
        self.kind = kind
        self.budget = budget
        self.limit = limit
        self.use = use
        if budget is not None:
            self.unit = TOKENS if budget.unit == "tokens" else COST
        else:
            self.unit = {"rpm": REQUEST, "tpm": TOKENS, "concurrent": SLOT}[kind]
        self.renew_at = inf
        self._share = share
        self._lease_s = lease_s
        self._wake = wake
        self._rate = limit / MINUTE_S if kind in ("rpm", "tpm") else 0.0
        self._held = 0  # may be spent here
        self._recorded = 0  # of the lease: what others get if this gateway dies; at least `_held`
        self._back = 0  # may not be spent here any more, and hasn't been told of
        self._busy = 0  # held by requests that run, or wait for a grant
        self._left, self._known_at = 0.0, now
        self._lowered = False
        self._lasted_s = _GUESS_S
        self._turns = Turns()
        self._dry_until, self._dry_need = -inf, 0
        self._touched = self._valid_until = -inf
        self._begin_window(0.0 if budget is None else window_start(budget.window, now))

    @property
    def mark(self) -> float:
        return self.since

    def take(self, amount: int, now: float) -> bool:
        if now >= self._valid_until or now >= self._until:
            self._refresh(now)
        if amount > self._held:
            return False
        self._held -= amount
        self._busy += amount
        self._touched = now
        if self._held * 2 < self._recorded:
            self._wake(self, False)
        return True

    def settle(self, reserved: int, used: int, at: float, mark: float, now: float) -> None:
        self._refresh(now)
        if self.unit == SLOT and now > at:
            self._lasted_s += 0.1 * (now - at - self._lasted_s)
        if mark != self.since:
            return  # the window that it was taken from is over
        self._busy = max(0, self._busy - reserved)
        back = reserved - used
        if self._rate:  # all that was in a bucket has been refilled within the minute
            back = max(0, min(back, ceil(self.limit - (now - at) * self._rate)))
        self._put(back)

    def borrow(self, amount: int, now: float) -> int:
        """Take as much of `amount` as there is; returns what has to be granted beside."""
        self._refresh(now)
        part: int = min(amount, self._held)
        self._held -= part
        self._busy += amount
        self._touched = now
        return amount - part

    def lack(self, amount: int, now: float) -> Refusal | None:
        self._refresh(now)
        if amount <= self._held or not amount:
            return None
        known = now < self._dry_until and amount - self._held >= self._dry_need
        return self.refusal(amount, now) if known or amount > self.limit else None

    def refusal(self, amount: int, now: float) -> Refusal:
        """Why `amount` can't be taken, by what was told last."""
        left = min(float(self.limit), self._left + max(0.0, now - self._known_at) * self._rate)
        left += self._held
        used = max(0, ceil(self.limit - left))
        if self.budget is not None:
            hopeless = used - self._busy + amount > self.limit
            return BudgetRefusal(
                account=self.account,
                unit=self.budget.unit,
                window=self.budget.window,
                limit=self.limit,
                used=used,
                requested=amount,
                ends=self._until,
                wait_s=None if hopeless else _GUESS_S,
            )
        if amount > self.limit:
            wait = inf
        elif self._rate:
            wait = milliseconds_up(max(0.0, (amount - left) / self._rate))
        else:
            wait = self._turns.next(until_one_ends(self._lasted_s, self.limit), now)
        kinds: dict[int, Kind] = {TOKENS: "tokens", REQUEST: "requests", SLOT: "concurrent"}
        return RateRefusal(self.account, kinds[self.unit], self.limit, used, amount, wait)

    def left(self, now: float) -> int:
        self._refresh(now)
        refilled = max(0.0, now - self._known_at) * self._rate
        return max(0, int(min(float(self.limit), self._left + self._held + refilled)))

    def full_in(self, now: float) -> float:
        used = self.limit - self.left(now)
        if not used:
            return 0.0
        return used / self._rate if self._rate else self._until - now

    def most(self, now: float) -> int:
        if self._rate:
            return self.limit
        return min(self.limit, self.left(now) + self._busy)

    def idle(self, now: float) -> bool:
        return not (self._held or self._recorded or self._back or self._busy)

    def edit(self, limit: int | None, now: float) -> bool:
        if limit is None:
            return False
        self._refresh(now)
        self._lowered = self._lowered or limit < self.limit
        self._left += limit - self.limit
        self.limit = limit
        if self._rate:
            self._rate = limit / MINUTE_S
        self._dry_until = -inf
        excess = self._held - self._slice
        if excess > 0:
            self._held -= excess
            self._put_back(excess)
        return True

    def learn(self, spent: Spent, now: float) -> None:
        """What has ended used no less than this, as the `use` says by now or in a moment: all that
        share the limit are told."""
        self._refresh(now)
        budget = self.budget
        if budget is not None and (budget.unit, budget.window) == (spent.unit, spent.window):
            self._wake(self, False)

    def ask(self, needs: tuple[int, ...], now: float, *, closing: bool = False) -> Ask:
        """What to ask for now; what comes back is on its way then."""
        self._refresh(now)
        active = bool(needs) or now - self._touched < self._lease_s
        if closing or not active:
            self._back += self._held
            self._held = 0
        back, self._back = self._back, 0
        floor = 0
        if self.budget is not None and self.use is not None:
            floor = self.use.settled(self.budget.window, self.since, now)
        if floor:  # what hasn't ended comes to it
            floor += self._held + self._busy - sum(needs)
        lowered, self._lowered = self._lowered, False
        self.renew_at = now + self._lease_s / 3
        return Ask(
            account=self.account,
            kind=self.kind,
            limit=self.limit,
            rate=self._rate,
            since=self.since,
            until=0.0 if self._until == inf else self._until,
            slice=self._slice,
            back=back if self.unit != SLOT else 0,
            kept=self._held,
            recorded=self._recorded,
            busy=self._busy - sum(needs) if self.unit == SLOT else 0,
            needs=needs,
            more=active and not closing,
            floor=floor,
            seen=self._seen,
            lowered=lowered,
        )

    def answered(self, ask: Ask, grant: Grant, sent: float, now: float) -> tuple[bool, ...]:
        """Take over what was granted to an ask that left at `sent`. Returns which of its needs are
        met: none where the windows differ, of which the later one counts."""
        self._refresh(now)
        if self.budget is not None:
            wrong = now < self.since != grant.since  # begun by a clock that has been put right
            if wrong or grant.since > self.since:
                self._begin_window(grant.since)
        granted = grant.granted
        if grant.since == self.since or self.budget is None:
            self._held += grant.ahead
            self._recorded = grant.recorded
            self._left, self._known_at = grant.left, now
            if self.budget is not None:
                self._seen = max(0, ceil(ask.limit - grant.left))
        else:
            granted = (False,) * len(granted)
        self._valid_until = sent + self._lease_s
        if not self._recorded and not (self._busy and self.unit == SLOT):
            self.renew_at = inf
        denied = [need for need, met in zip(ask.needs, granted, strict=True) if not met]
        if denied:
            self._dry_until, self._dry_need = now + RECHECK_S, min(denied)
        elif ask.needs:
            self._dry_until = -inf
        return granted

    def forgo(self, amount: int, had: int, since: float, now: float) -> None:
        """A request that had borrowed `amount` isn't made; it `had` some of it, of the window that
        began at `since`."""
        self._refresh(now)
        self._busy = max(0, self._busy - amount)
        self._give(had, since)

    def give(self, amount: int, since: float, now: float) -> None:
        """Nobody has a use for what was granted in the window that began at `since`."""
        self._refresh(now)
        self._give(amount, since)

    @property
    def holds(self) -> bool:
        """Whether others could have something that is here."""
        return bool(self._held or self._recorded or self._back)

    @property
    def _slice(self) -> int:
        return int(self.limit * self._share)

    def _give(self, amount: int, since: float) -> None:
        if since == self.since:
            self._put(amount)

    def _put(self, amount: int) -> None:
        stays = min(amount, max(0, self._recorded - self._held))
        self._held += stays
        self._put_back(amount - stays)

    def _put_back(self, amount: int) -> None:
        if amount:
            self._back += amount
            self._wake(self, self.unit == SLOT)

    def _refresh(self, now: float) -> None:
        """What the time alone has changed."""
        if self.budget is not None and now >= self._until:
            self._begin_window(window_start(self.budget.window, now))
        elif now >= self._valid_until and self._held:
            self._back += self._held
            self._held = 0

    def _begin_window(self, since: float) -> None:
        """Nothing of what was held is of this window."""
        self.since, self._until = since, inf
        if self.budget is not None:
            self._until = window_end(self.budget.window, since)
        self._held = self._recorded = self._back = self._busy = self._seen = 0
        self._left, self._known_at = float(self.limit), since
        self._dry_until = -inf
