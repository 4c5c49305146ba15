"""What the queue charged each tenant, held against what its requests were served."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from bench.simulate.fairness import COMPLETION_COST, PROMPT_COST
from gateway.admission import Permit
from gateway.admission.fair_queue import FairQueue
from gateway.call import Usage
from gateway.tenants import Priority

_ROUNDING = 1e-6


class Charges:
    """Of requests without a first token only the engine knows how much of their prompt it has read;
    they may be charged for any part of it."""

    def __init__(self, violated: Callable[[str], None]) -> None:
        self._violated = violated
        self._service: dict[tuple[str, Priority], float] = defaultdict(float)

    def ended(self, permit: Permit, used: Usage) -> None:
        """A request is over, its permit released."""
        demand, completion = permit.demand, permit.charged_completion
        prompt = used.prompt_tokens - used.cached_tokens
        if not used.prompt_tokens:
            prompt = min(permit.charged_prompt, demand.prompt_tokens)
        if (permit.charged_prompt, completion) != (prompt, used.completion_tokens):
            self._violated(
                f"mischarged: {demand.tenant} is charged for {permit.charged_prompt} prompt and "
                f"{completion} completion tokens, not for {prompt} and {used.completion_tokens}"
            )
        service = PROMPT_COST * prompt + COMPLETION_COST * used.completion_tokens
        self._service[demand.tenant, demand.priority] += service / demand.weight

    def check(self, queue: FairQueue[Permit]) -> None:
        """All is over: a counter is the service, and more only where it was lifted."""
        for (tenant, priority), service in self._service.items():
            flow = queue.flow(tenant, priority)
            if flow is None:  # nothing of it was ever started
                continue
            exact = math.isclose(flow.counter, service, abs_tol=_ROUNDING)
            if not exact and (flow.counter < service or not flow.lifts):
                self._violated(
                    f"mischarged: the counter of {tenant} is {flow.counter:g} after {flow.lifts} "
                    f"lifts, what it was served is {service:g}"
                )
