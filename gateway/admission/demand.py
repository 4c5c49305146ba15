"""What the queue knows of a request, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from gateway.tenants import Priority

TOO_LATE: Final = "The request's time would be over before its first token; it wasn't started."


class Demand(msgspec.Struct, frozen=True):
    """One request as the queue sees it.

    `prompt_tokens` is exact, all prompts together; `sequences` are the choices in all (n x
    prompts); `max_tokens` the completion tokens at most, all sequences together. `deadline` is on
    admission's clock.
    """

    tenant: str
    weight: float
    priority: Priority
    prompt_tokens: int
    sequences: int
    max_tokens: int
    deadline: float | None


class QueueStats(msgspec.Struct, frozen=True):
    """One replica's queue. Requests and prompt tokens that wait; sequences in the engine.

    `predicted_ttft_s` is of a request behind everyone who waits, 0 where it would go at once and
    its prompt's time isn't known; None where nothing was measured that could tell.
    `requests_per_s` is how fast requests ended while the engine was full, None before it was.
    """

    queued: int
    queued_tokens: int
    running: int
    predicted_ttft_s: float | None
    prefill_tokens_per_s: float | None
    requests_per_s: float | None


class Ticket:
    """A request's place in a queue, and what its tenant was charged for it."""

    __slots__ = (
        "charged_completion",
        "charged_prompt",
        "demand",
        "lifts",
        "order",
        "progress",
        "sent_at",
        "waiting",
        "was_started",
    )  # fmt: skip

    def __init__(self) -> None:
        self.demand: Demand = _NOTHING
        self.progress: Callable[[], int] | None = None
        # Its number in the order of arrival; it keeps that when it has to come back.
        self.order = 0
        self.waiting = False
        self.sent_at = 0.0
        self.was_started = False  # its first token has come
        self.charged_prompt = 0
        self.charged_completion = 0
        # How often its flow had been lifted when it was charged for its prompt.
        self.lifts = 0


_NOTHING = Demand("", 1.0, "online", 0, 0, 0, None)
