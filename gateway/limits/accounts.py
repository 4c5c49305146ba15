"""The meters of each account: made when it is first seen, changed with its limits, forgotten when
they say nothing any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from gateway.limits.meters import COST, REQUEST, TOKENS, Bucket, Meter, Slots, Spending
from gateway.limits.use import Use
from gateway.store.usage import Spent
from gateway.tenants import Account, Budget, Limits, Unit, Window

# Accounts looked at for each new one: more than one, so that those that are idle get fewer.
_LOOKED_AT = 4


class MakeMeter(Protocol):
    """Makes meters, where they are shared between gateways; None where there is no limit. `use` is
    what a budget counts."""

    def __call__(
        self,
        account: str,
        kind: str,
        limit: int | None,
        budget: Budget | None,
        now: float,
        use: Use | None,
    ) -> Meter | None: ...


class Metered:
    """One account: the meters of its limits, and of what it uses whether limited or not."""

    __slots__ = ("limits", "meters", "uses")

    def __init__(self, uses: dict[Unit, Use]) -> None:
        self.limits: Limits | None = None
        self.meters: tuple[Meter, ...] = ()
        self.uses = uses


class Accounts:
    """All that were seen and are not idle. Of an account that has used nothing in any window that
    goes on, only what it used in all is kept."""

    def __init__(self, make: MakeMeter | None = None) -> None:
        self._make: MakeMeter = make or make_local
        self._known: dict[str, Metered] = {}
        self._round: deque[str] = deque()
        # Of those that aren't known: what they used, by the start of the window.
        self._spent: dict[str, dict[tuple[Unit, Window], tuple[float, int]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def meters(self, account: Account, now: float) -> tuple[Meter, ...]:
        """Its meters, as its limits say now."""
        found = self._known.get(account.id)
        if found is None:
            self._forget_some(now)
            found = self._known[account.id] = Metered(self._uses(account.id, now))
            self._round.append(account.id)
        elif found.limits is account.limits:
            return found.meters
        elif found.limits == account.limits:
            found.limits = account.limits
            return found.meters
        found.meters = self._edited(account, found, now)
        found.limits = account.limits
        return found.meters

    def restore(self, spent: Iterable[Spent], now: float) -> None:
        """Take over what was used before this program started."""
        for one in spent:
            known = self._known.get(one.account)
            if known is not None:
                known.uses[one.unit].add(one, now)
            else:
                self._keep(one)

    def at_least(self, spent: Iterable[Spent], now: float) -> None:
        """What has ended used no less than this in the windows that go on."""
        for one in spent:
            known = self._known.get(one.account)
            if known is None:
                self._keep(one)
                continue
            for meter in known.meters:
                meter.learn(one, now)

    def _keep(self, one: Spent) -> None:
        """Of the later window; of one and the same what is more."""
        kept = self._spent.setdefault(one.account, {})
        found = one.since, one.amount
        kept[one.unit, one.window] = max(found, kept.get((one.unit, one.window), found))

    def _uses(self, account: str, now: float) -> dict[Unit, Use]:
        uses: dict[Unit, Use] = {
            "tokens": Use(account, "tokens", TOKENS, now),
            "currency": Use(account, "currency", COST, now),
        }
        for (unit, window), (since, amount) in self._spent.pop(account, {}).items():
            uses[unit].add(Spent(account, unit, window, since, amount), now)
        return uses

    def _edited(self, account: Account, found: Metered, now: float) -> tuple[Meter, ...]:
        old = {meter.kind: meter for meter in found.meters}
        new: list[Meter] = []
        for kind, (limit, budget) in _wanted(account.limits).items():
            meter = old.get(kind)
            if meter is None or not meter.edit(limit, now):
                use = None if budget is None else found.uses[budget.unit]
                meter = self._make(account.id, kind, limit, budget, now, use)
            if meter is not None:
                new.append(meter)
        return *new, *found.uses.values()  # a budget looks at what was used before the request

    def _forget_some(self, now: float) -> None:
        """A few at a time, as nobody can wait for a look at a million."""
        for _ in range(min(_LOOKED_AT, len(self._round))):
            name = self._round.popleft()
            known = self._known[name]
            if all(meter.idle(now) for meter in known.meters):
                del self._known[name]
                for unit, use in known.uses.items():
                    if total := use.used("total", now):
                        self._spent.setdefault(name, {})[unit, "total"] = 0.0, total
            else:
                self._round.append(name)


def kind_of(budget: Budget) -> str:
    """What a budget is called among its account's limits."""
    return f"{budget.unit}:{budget.window}"


def make_local(
    account: str, kind: str, limit: int | None, budget: Budget | None, now: float, use: Use | None
) -> Meter:
    """A meter of this gateway alone."""
    if budget is not None and use is not None:
        return Spending(account, kind, budget, use)
    if limit is None or kind == "concurrent":
        return Slots(account, limit)
    return Bucket(account, kind, REQUEST if kind == "rpm" else TOKENS, limit, now)


def _wanted(limits: Limits) -> dict[str, tuple[int | None, Budget | None]]:
    """Every kind of limit there is, and how large. What runs is always counted: a limit of it may
    come while it does."""
    wanted: dict[str, tuple[int | None, Budget | None]] = {
        "concurrent": (limits.max_concurrent, None)
    }
    if limits.rpm is not None:
        wanted["rpm"] = limits.rpm, None
    if limits.tpm is not None:
        wanted["tpm"] = limits.tpm, None
    for budget in limits.budgets:
        known = wanted.get(kind_of(budget))
        if known is None or budget.amount < (known[0] or 0):
            wanted[kind_of(budget)] = budget.amount, budget
    return wanted
