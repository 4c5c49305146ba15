"""One simulated run: the gateway's admission and limits, a modelled engine, and who watches."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from bench.simulate.allowance import Allowance
from bench.simulate.books import Books
from bench.simulate.charges import Charges
from bench.simulate.engine import ModelledEngine
from bench.simulate.fairness import COMPLETION_COST, PROMPT_COST, FairnessWatch, Flow
from bench.simulate.life import Life
from bench.simulate.loop import NothingHappensError, VirtualLoop
from bench.simulate.scenario import Ask, Death, Scenario
from bench.simulate.starts import Starts
from engine.base import LoadedModel
from gateway.admission import Admission
from gateway.config import LimitsConfig, ModelConfig
from gateway.deployments import Deployment, Replica
from gateway.errors import APIError, UnavailableError
from gateway.holds import Holds
from gateway.ledger import Entry
from gateway.limits import Limiter, Reservation
from gateway.tenants import Account, Unit

_MODEL = ModelConfig(name="model")
_IDLE_S = 0.25
_REFILL_S = 61.0
_LONGEST_S = 1_000.0


@dataclass(slots=True)
class Row:
    """What became of a request. Times in seconds; a time is None where it didn't come to it."""

    ask: Ask
    outcome: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queued_s: float = 0.0
    ttft_s: float | None = None
    ended_at: float = 0.0
    starts: int = 0


@dataclass(slots=True)
class Run:
    """What a run came to. `violations` are sentences; none: every invariant held."""

    seed: int
    rows: list[Row] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    largest_gap: float = 0.0
    service: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(row.outcome for row in self.rows)


class World:
    """Plays a scenario once."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        trace: Callable[[str], None] | None = None,
        sample_s: float | None = None,
        strict: bool = True,
    ) -> None:
        """`trace` is told everything that happens; service is sampled every `sample_s`; without
        `strict` nobody watches that it is fair."""
        self.scenario = scenario
        self.loop = VirtualLoop()
        self.run = Run(scenario.seed)
        self._trace = trace
        self._sample_s = sample_s
        self._sampled = 0.0
        accounts = {one.id: one for caller in scenario.callers for one in caller.accounts}
        self.allowance = Allowance(accounts.values(), scenario.wall_start, self.violated)
        self._room = room(scenario)
        self.watch = FairnessWatch(
            _flows(scenario), self._room, self.violated, strict=strict and not scenario.capped
        )
        self.starts = Starts(scenario.admission.max_running_per_tenant, self.violated)
        self.charges = Charges(self.violated)
        self.books = Books()
        self.opened: list[Entry] = []
        self.deployment = Deployment(_MODEL.public_name, Replica(_MODEL))
        self.deployment.price = scenario.price
        self.engine: ModelledEngine | None = None
        self._engines: list[ModelledEngine] = []
        self._gone = False
        self._lives = 0
        self._idled = False

    def play(self) -> Run:
        """Run to the end; every broken invariant is in the result."""
        self.loop.set_exception_handler(self._failed)
        try:
            self.loop.play(self._everything())
        except NothingHappensError:
            self.violated(f"lost: {self._lives} requests wait, and nothing will ever happen again")
        finally:
            self.loop.close()
        self.run.seconds = self.loop.time()
        self._account()
        self.run.largest_gap = self.watch.largest
        return self.run

    def wall(self) -> float:
        """The time of day."""
        return self.scenario.wall_start + self.loop.time()

    def violated(self, text: str) -> None:
        """An invariant is broken. The first one tells most; a flood of them tells nothing."""
        self.note(f"VIOLATION {text}")
        if len(self.run.violations) < 20:
            self.run.violations.append(f"at {self.loop.time():.6f} s: {text}")

    def note(self, text: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.loop.time():12.6f}  {text}")

    async def _everything(self) -> None:
        self.admission = Admission(self.scenario.admission, self.loop.time)
        self.limiter = Limiter(LimitsConfig(), self.wall)
        self.holds = Holds(self.admission, self.limiter, self.books)
        self._start_engine()
        for death in self.scenario.deaths:
            self.loop.call_at(death.at, self._die, death)
        lives = []
        for number, ask in enumerate(self.scenario.asks):
            await asyncio.sleep(max(0.0, ask.at - self.loop.time()))
            row = Row(ask)
            self.run.rows.append(row)
            task = self.loop.create_task(Life(self, number, row).live())
            if ask.patience_s is not None:
                self.loop.call_later(ask.patience_s, task.cancel)
            task.add_done_callback(self._over)
            self._lives += 1
            lives.append(task)
            if number == 0:
                self.loop.call_later(_IDLE_S, self._look_idle)
        await asyncio.gather(*lives, return_exceptions=True)
        await self.admission.idle()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._lives -= 1
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.violated(f"a request ended in {type(error).__name__}: {error}")

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.violated(f"unhandled: {context.get('message')}: {context.get('exception')!r}")

    def _start_engine(self) -> None:
        engine = ModelledEngine(self.scenario.speed, self.loop, self._stepped)
        self._engines.append(engine)
        self.engine = engine
        self.note("the engine is there")
        # All that admission looks at are its facts and its figures.
        self.admission.serve(_MODEL.public_name, cast("LoadedModel", engine))

    def _die(self, death: Death) -> None:
        if self.engine is None:
            return
        engine, self.engine = self.engine, None
        self.note("the engine dies" + ("" if death.away_s else " for good"))
        self.watch.restart()
        engine.die()
        self.admission.serve(_MODEL.public_name, None)
        if death.away_s is None:
            self._gone = True
            self.admission.refuse_queued(
                _MODEL.public_name,
                UnavailableError("The engine is gone.", retry_after_s=30.0),
            )
        else:
            self.loop.call_later(death.away_s, self._start_engine)

    def serving(self) -> ModelledEngine:
        """Raises UnavailableError: the engine is away."""
        if self.engine is None:
            raise UnavailableError("The engine is away.", retry_after_s=1.0)
        return self.engine

    def _stepped(self) -> None:
        self.watch.look()
        if self._sample_s is not None and self.loop.time() >= self._sampled:
            self._sampled = self.loop.time() + self._sample_s
            self.run.service.append((self.loop.time(), dict(self.watch.service)))

    def _look_idle(self) -> None:
        """Nobody waits while the engine idles, from one look to the next."""
        engine, waiting = self.engine, sum(self.watch.waiting.values())
        idle = engine is not None and not engine.inside and waiting > 0
        since = self.loop.time() - _IDLE_S
        if idle and self._idled and engine is not None and engine.idle_since <= since:
            self.violated(f"idle: {waiting} requests wait while the engine has nothing to do")
        self._idled = idle
        going_on = self._lives or len(self.run.rows) < len(self.scenario.asks)
        # Not for ever: that nothing else is left to happen is what tells of those who are lost.
        if going_on and not self.run.violations and self.loop.time() < _LONGEST_S:
            self.loop.call_later(_IDLE_S, self._look_idle)

    def check_room(self, engine: ModelledEngine) -> None:
        """The engine was given a request."""
        if engine.inside > self._room:
            self.violated(f"over-filled: {engine.inside} sequences of {self._room} in the engine")

    def _account(self) -> None:
        """What has to be true once everything is over."""
        run, admission = self.run, self.admission
        run.prompt_tokens = sum(engine.prompt_tokens for engine in self._engines)
        run.generation_tokens = sum(engine.generation_tokens for engine in self._engines)
        self._check_ledger()
        # The counters are nobody's business but the queue's, whose order alone shows them.
        self.charges.check(admission._line(_MODEL.public_name).queue)
        lost = [row for row in run.rows if not row.outcome]
        if lost or len(run.rows) != len(self.scenario.asks):
            self.violated(f"lost: {len(lost)} of {len(self.scenario.asks)} requests have no end")
        if admission.inside or admission.queued:
            self.violated(
                f"not released: {admission.inside} permits are held, {admission.queued} wait"
            )
        self.loop.skip(_REFILL_S)
        for caller in self.scenario.callers:
            self._check_refunded(caller.accounts)

    def _check_ledger(self) -> None:
        """One row for each request that was let in; together they are what the engines did."""
        entries, run = self.books.entries, self.run
        if Counter(map(id, entries)) != Counter(map(id, self.opened)):
            self.violated(f"misrecorded: {len(entries)} rows for {len(self.opened)} requests")
        cached = sum(engine.cached_tokens for engine in self._engines)
        told = {
            "prompt tokens": (sum(one.prompt_tokens for one in entries), run.prompt_tokens),
            "cached tokens": (sum(one.cached_tokens for one in entries), cached),
            "completion tokens": (
                sum(one.completion_tokens for one in entries),
                run.generation_tokens,
            ),
            "of currency": (
                sum(one.cost for one in entries),
                self.scenario.price.cost(run.prompt_tokens, cached, run.generation_tokens),
            ),
        }
        for name, (ledger, engine) in told.items():
            if ledger != engine:
                self.violated(f"misrecorded: {ledger} {name} in the ledger, {engine} in the engine")

    def _check_refunded(self, accounts: tuple[Account, ...]) -> None:
        """Once buckets have filled again, what wasn't used is there to be used."""
        for account in accounts:
            limits, now = account.limits, self.wall()
            left: dict[Unit, list[int]] = {"tokens": [], "currency": []}
            for budget in limits.budgets:
                spent = self.allowance.spent(account.id, budget, now)
                left[budget.unit].append(budget.amount - spent)
            most = [] if limits.tpm is None else [limits.tpm]
            expected = min([*left["tokens"], *most], default=None)
            found = self.limiter.capacity((account,))
            if found != expected:
                self.violated(f"not refunded: {account.id} may use {found} tokens, not {expected}")
            for money in left["currency"]:
                if self._refuses(account, money) or not self._refuses(account, money + 1):
                    self.violated(f"not refunded: {account.id} may not spend just {money}")
            told = dict(self.limiter.headers((account,)))
            for kind, limit in ((b"requests", limits.rpm), (b"tokens", limits.tpm)):
                remaining = told.get(b"x-ratelimit-remaining-" + kind)
                if limit is not None and remaining != b"%d" % limit:
                    self.violated(f"not refunded: {account.id} has {remaining!r} of {limit} left")
            self._check_slots(account)

    def _refuses(self, account: Account, cost: int) -> bool:
        """Whether a request may not cost as much now."""
        try:
            held = self.limiter.reserve((account,), 0, cost)
        except APIError:
            return True
        assert isinstance(held, Reservation)  # noqa: S101  nothing is shared
        held.cancel()
        return False

    def _check_slots(self, account: Account) -> None:
        """As many may run at once as if nobody ever had."""
        slots = account.limits.max_concurrent or 0
        if account.limits.rpm is not None and slots > account.limits.rpm:
            return
        try:
            held = [self.limiter.reserve((account,), 0, 0) for _ in range(slots)]
        except APIError as error:
            self.violated(f"not released: {account.id}: {error}")
            return
        for one in held:
            assert isinstance(one, Reservation)  # noqa: S101  nothing is shared
            one.cancel()


def room(scenario: Scenario) -> int:
    """The most sequences that may be inside of the engine: a request of many may go while there
    is still a seat."""
    seats = scenario.speed.max_num_seqs
    widest = max((len(ask.completions) for ask in scenario.asks), default=1)
    margin = math.ceil(seats * scenario.admission.margin)
    return seats + max(margin, scenario.speed.spare_seqs, widest - 1)


def _flows(scenario: Scenario) -> list[Flow]:
    prompts: dict[str, float] = {}
    sequences: dict[str, float] = {}
    for ask in scenario.asks:
        tenant = ask.principal.tenant
        # Until its first token a request is charged for what it will find in the cache, too.
        rest = COMPLETION_COST * ask.max_tokens + PROMPT_COST * ask.cached_tokens
        prompts[tenant] = max(prompts.get(tenant, 0.0), PROMPT_COST * ask.prompt_tokens)
        sequences[tenant] = max(sequences.get(tenant, 0.0), rest)
    tenants = {caller.tenant: caller for caller in scenario.callers}
    return [
        Flow(
            name,
            caller.weight,
            caller.priority == "batch",
            prompts.get(name, 0.0),
            sequences.get(name, 0.0),
        )
        for name, caller in tenants.items()
    ]
