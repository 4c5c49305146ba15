"""Whose turn it is."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.admission.demand import Ticket
from gateway.admission.fair_queue import CLASSES, FairQueue
from gateway.admission.flows import MAX_INDEBTED
from gateway.tenants import Priority
from tests.admission.world import demand


class Named(Ticket):
    """A ticket that shows what it is."""

    def __repr__(self) -> str:
        return f"{self.demand.tenant}:{self.demand.priority}:{self.order}"


def ticket(
    tenant: str = "a",
    prompt_tokens: int = 10,
    *,
    weight: float = 1.0,
    priority: Priority = "online",
    sequences: int = 1,
) -> Named:
    made = Named()
    made.demand = demand(
        tenant,
        weight=weight,
        priority=priority,
        prompt_tokens=prompt_tokens,
        sequences=sequences,
    )
    return made


def pushed(queue: FairQueue[Named], *tickets: Named) -> None:
    for one in tickets:
        queue.push(one)


def started(queue: FairQueue[Named], count: int) -> list[Named]:
    found = []
    for _ in range(count):
        first = queue.first()
        assert first is not None
        queue.start(first)
        found.append(first)
    return found


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    queue: FairQueue[Named] = FairQueue()
    tickets = [ticket() for _ in range(5)]
    pushed(queue, *tickets)
    assert started(queue, 5) == tickets
    assert queue.first() is None
    assert len(queue) == 0


def test_tenants_take_turns_by_the_tokens_of_their_prompts() -> None:
    queue: FairQueue[Named] = FairQueue()
    pushed(queue, *[ticket("big", 30) for _ in range(4)], *[ticket("small", 10) for _ in range(6)])
    order = [one.demand.tenant for one in started(queue, 8)]
    assert order.count("small") == 6
    assert order.count("big") == 2


def test_completion_tokens_cost_twice_what_prompt_tokens_do() -> None:
    queue: FairQueue[Named] = FairQueue()
    talker, reader = ticket("talker", 0), ticket("reader", 19)
    queue.start(talker)
    queue.start(reader)
    pushed(queue, ticket("talker"), ticket("reader"))
    queue.charge(talker, 10)
    first = queue.first()
    assert first is not None
    assert first.demand.tenant == "reader"


def test_progress_is_charged_once() -> None:
    queue: FairQueue[Named] = FairQueue()
    one = ticket("a", 5)
    queue.start(one)
    for tokens in (3, 3, 2, 4):
        queue.charge(one, tokens)
    flow = queue.flow("a", "online")
    assert flow is not None
    assert flow.counter == 5 + 2 * 4


def test_online_goes_before_batch_whatever_was_used() -> None:
    queue: FairQueue[Named] = FairQueue()
    heavy = ticket("a", 1000)
    queue.start(heavy)
    batch, online = ticket("b", priority="batch"), ticket("a")
    pushed(queue, batch, online)
    assert started(queue, 2) == [online, batch]


def test_batch_of_a_tenant_does_not_count_against_its_online_requests() -> None:
    queue: FairQueue[Named] = FairQueue()
    queue.start(ticket("a", 1000, priority="batch"))
    queue.start(ticket("b", 1))
    queue.start(ticket("b", 1))
    pushed(queue, ticket("b"), ticket("a"))
    flows = {name: queue.flow(name, "online") for name in "ab"}
    assert flows["a"] is not None
    assert flows["b"] is not None
    assert flows["a"].counter <= flows["b"].counter


def test_a_returning_tenant_gets_no_credit_for_its_absence() -> None:
    queue: FairQueue[Named] = FairQueue()
    queue.start(ticket("away", 1))
    pushed(queue, *[ticket("busy", 100) for _ in range(50)])
    started(queue, 40)
    pushed(queue, *[ticket("away", 100) for _ in range(10)])
    order = [one.demand.tenant for one in started(queue, 10)]
    assert order.count("away") == 5


def test_a_newcomer_to_an_empty_queue_joins_where_the_last_one_was() -> None:
    queue: FairQueue[Named] = FairQueue()
    running = ticket("busy", 100)
    queue.start(running)
    queue.charge(running, 50)
    queue.start(ticket("new", 7))
    flow = queue.flow("new", "online")
    assert flow is not None
    assert flow.counter == 200 + 7


def test_what_was_not_computed_is_refunded() -> None:
    queue: FairQueue[Named] = FairQueue()
    pushed(queue, *[ticket("a", 100) for _ in range(3)], *[ticket("b", 100) for _ in range(3)])
    a, b = started(queue, 2)
    queue.refund(b, 100)
    queue.refund(a, 30)
    assert [one.demand.tenant for one in started(queue, 2)] == ["b", "a"]


def test_a_refund_gives_back_no_more_than_was_charged() -> None:
    queue: FairQueue[Named] = FairQueue()
    one = ticket("a", 100)
    queue.start(one)
    for _ in range(3):
        queue.refund(one, 80)
    flow = queue.flow("a", "online")
    assert flow is not None
    assert flow.counter == 0


def test_a_refund_after_a_lift_is_no_second_credit() -> None:
    queue: FairQueue[Named] = FairQueue()
    early = ticket("a", 100)
    queue.start(early)
    pushed(queue, *[ticket("b", 100) for _ in range(12)])
    started(queue, 10)
    queue.push(ticket("a"))
    flow = queue.flow("a", "online")
    assert flow is not None
    lifted = flow.counter
    queue.refund(early, 100)
    assert flow.counter == lifted


def test_who_comes_back_is_where_he_was() -> None:
    queue: FairQueue[Named] = FairQueue()
    tickets = [ticket() for _ in range(4)]
    pushed(queue, *tickets)
    first, second = started(queue, 2)
    for one in (second, first):
        queue.refund(one, 10)
        queue.finish(one)
        queue.push(one)
    assert started(queue, 4) == tickets


@pytest.mark.parametrize("weights", [(1.0, 2.0, 4.0), (0.5, 1.0, 3.0)])
def test_weights_are_shares(weights: tuple[float, ...]) -> None:
    queue: FairQueue[Named] = FairQueue()
    for number, weight in enumerate(weights):
        pushed(queue, *[ticket(str(number), 10, weight=weight) for _ in range(1000)])
    served = started(queue, 700)
    for number, weight in enumerate(weights):
        share = sum(one.demand.tenant == str(number) for one in served) / 700
        assert share == pytest.approx(weight / sum(weights), rel=0.05)


def test_a_tenant_at_its_cap_lets_others_pass() -> None:
    queue: FairQueue[Named] = FairQueue(cap=2)
    pushed(queue, *[ticket("a", 1) for _ in range(4)], *[ticket("b", 500) for _ in range(2)])
    served = started(queue, 4)
    assert sorted(one.demand.tenant for one in served) == ["a", "a", "b", "b"]
    assert queue.first() is None
    queue.finish(next(one for one in served if one.demand.tenant == "a"))
    first = queue.first()
    assert first is not None
    assert first.demand.tenant == "a"


def test_the_cap_is_for_both_classes_together() -> None:
    queue: FairQueue[Named] = FairQueue(cap=1)
    pushed(queue, ticket("a", priority="batch"), ticket("a"))
    started(queue, 1)
    assert queue.first() is None


def test_nothing_of_a_tenant_passes_its_own_request_that_is_held_by_the_cap() -> None:
    queue: FairQueue[Named] = FairQueue(cap=2)
    large = ticket("a", sequences=2)
    pushed(queue, ticket("a"), large)
    (running,) = started(queue, 1)
    pushed(queue, ticket("a", priority="batch"))
    assert not queue.passes(ticket("a"))
    assert queue.first() is None
    queue.finish(running)
    assert queue.first() is large


def test_a_request_larger_than_the_cap_runs_alone() -> None:
    queue: FairQueue[Named] = FairQueue(cap=2)
    small, large = ticket("a"), ticket("a", sequences=5)
    pushed(queue, small, large)
    started(queue, 1)
    assert queue.first() is None
    queue.finish(small)
    assert started(queue, 1) == [large]


def test_a_smaller_request_may_go_once_the_one_before_it_left() -> None:
    queue: FairQueue[Named] = FairQueue(cap=2)
    first, large, small = ticket("a"), ticket("a", sequences=2), ticket("a")
    pushed(queue, first, large, small)
    started(queue, 1)
    assert queue.first() is None
    queue.remove(large)
    assert queue.first() is small


def test_a_cap_holds_back_no_newcomers_count() -> None:
    queue: FairQueue[Named] = FairQueue(cap=1)
    pushed(queue, *[ticket("capped", 1) for _ in range(3)])
    started(queue, 1)
    pushed(queue, *[ticket("busy", 100) for _ in range(20)])
    busy = []
    for _ in range(10):
        busy += started(queue, 1)
        queue.finish(busy[-1])
    queue.push(ticket("new", 100))
    flow = queue.flow("new", "online")
    assert flow is not None
    assert flow.counter >= 900


def test_idle_tenants_are_forgotten() -> None:
    queue: FairQueue[Named] = FairQueue()
    for number in range(50_000):
        one = ticket(f"tenant {number}", 10)
        queue.start(one)
        queue.charge(one, 5)
        queue.finish(one)
    assert queue.remembered() < 3_000


def test_debts_are_remembered_for_so_many_tenants_and_no_more() -> None:
    queue: FairQueue[Named] = FairQueue()
    queue.push(ticket("busy"))
    for number in range(4 * MAX_INDEBTED):
        one = ticket(f"tenant {number}", 10)
        queue.push(one)
        queue.start(one)
        queue.finish(one)
    assert queue.remembered() < 3 * MAX_INDEBTED


def test_a_tenant_in_debt_is_not_passed_by_newcomers_for_ever() -> None:
    queue: FairQueue[Named] = FairQueue()
    pushed(queue, *[ticket("busy", 100) for _ in range(2)], ticket("new 0", 50))
    started(queue, 1)
    for number in range(1, 10 * MAX_INDEBTED):
        queue.push(ticket(f"new {number}", 50))
        (served,) = started(queue, 1)
        if served.demand.tenant == "busy":
            break
        queue.finish(served)
    else:
        pytest.fail("it was never its turn")


class Queueing(RuleBasedStateMachine):
    """Anything that may happen to a queue, beside a plain list of what is in it."""

    tenants = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.cap = 3
        self.queue: FairQueue[Named] = FairQueue(self.cap)
        self.waiting: list[Named] = []
        self.running: list[Named] = []
        self.service: dict[tuple[str, Priority], float] = {}

    @rule(
        tenant=tenants,
        priority=st.sampled_from(CLASSES),
        prompt_tokens=st.integers(0, 50),
        sequences=st.integers(1, 4),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
    )
    def push(
        self, tenant: str, priority: Priority, prompt_tokens: int, sequences: int, weight: float
    ) -> None:
        one = ticket(tenant, prompt_tokens, weight=weight, priority=priority, sequences=sequences)
        others = [self.counter(other) for other in self.eligible() if self.rival(other, one)]
        self.queue.push(one)
        self.waiting.append(one)
        # One that its tenant's own online request holds back joins, and is lifted, when it may go.
        if others and one in self.eligible():
            assert self.counter(one) >= min(others)

    @rule(tenant=tenants, prompt_tokens=st.integers(0, 50))
    def start_without_waiting(self, tenant: str, prompt_tokens: int) -> None:
        one = ticket(tenant, prompt_tokens)
        if self.queue.passes(one):
            self.queue.start(one)
            self.running.append(one)

    @rule()
    def start(self) -> None:
        eligible = self.eligible()
        first = self.queue.first()
        if first is None:
            assert not eligible
            return
        assert first in eligible
        assert not any(
            CLASSES.index(other.demand.priority) < CLASSES.index(first.demand.priority)
            for other in eligible
        )
        rivals = [self.counter(other) for other in eligible if self.rival(other, first)]
        assert not rivals or self.counter(first) <= min(rivals)
        before = self.counter(first)
        new = 0 if first.charged_prompt else first.demand.prompt_tokens
        self.queue.start(first)
        assert self.counter(first) == before + new / first.demand.weight
        self.waiting.remove(first)
        self.running.append(first)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        self.queue.remove(one)
        self.waiting.remove(one)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.integers(1, 20))
    def charge(self, data: st.DataObject, tokens: int) -> None:
        one = data.draw(st.sampled_from(self.running))
        before = self.counter(one)
        self.queue.charge(one, one.charged_completion + tokens)
        assert self.counter(one) == before + 2 * tokens / one.demand.weight

    @precondition(lambda self: self.running)
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.5, 1.0]))
    def refund(self, data: st.DataObject, share: float) -> None:
        one = data.draw(st.sampled_from(self.running))
        before = self.counter(one)
        self.queue.refund(one, int(one.demand.prompt_tokens * share))
        assert self.counter(one) <= before

    @precondition(lambda self: self.running)
    @rule(data=st.data(), again=st.booleans())
    def finish(self, data: st.DataObject, again: bool) -> None:
        one = data.draw(st.sampled_from(self.running))
        self.queue.finish(one)
        self.running.remove(one)
        if again:
            self.queue.push(one)
            self.waiting.append(one)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert set(self.queue) == set(self.waiting)
        assert self.queue.prompt_tokens == sum(one.demand.prompt_tokens for one in self.waiting)
        for tenant in "abcd":
            running = [one.demand.sequences for one in self.running if one.demand.tenant == tenant]
            assert self.queue.running(tenant) == sum(running)

    @invariant()
    def counters_are_never_negative(self) -> None:
        assert all(self.counter(one) >= 0 for one in (*self.waiting, *self.running))

    def teardown(self) -> None:
        while self.waiting:
            self.start()
            if self.running:
                self.queue.finish(self.running.pop())
        assert self.queue.first() is None

    def counter(self, one: Named) -> float:
        flow = self.queue.flow(one.demand.tenant, one.demand.priority)
        return 0.0 if flow is None else flow.counter

    def eligible(self) -> list[Named]:
        """The oldest of each flow that may go."""
        oldest: dict[tuple[str, Priority], Named] = {}
        for one in sorted(self.waiting, key=lambda one: one.order):
            oldest.setdefault((one.demand.tenant, one.demand.priority), one)
        held = {
            tenant
            for (tenant, priority), one in oldest.items()
            if priority == "online" and not self.fits(one)
        }
        return [one for one in oldest.values() if self.fits(one) and one.demand.tenant not in held]

    def fits(self, one: Named) -> bool:
        """Whether its tenant's cap leaves room for it."""
        running = self.queue.running(one.demand.tenant)
        return not running or running + one.demand.sequences <= self.cap

    @staticmethod
    def rival(other: Named, one: Named) -> bool:
        """Whether it is another tenant's of the same class."""
        return other.demand.priority == one.demand.priority and (
            other.demand.tenant != one.demand.tenant
        )


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
