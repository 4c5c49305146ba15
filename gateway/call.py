"""What a request is once it has been understood, and what it used once it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from engine.base import Prompt, SamplingOptions, Source, Structure
from gateway.deployments import Deployment
from gateway.errors import DeadlineError
from gateway.ledger import Entry
from gateway.tenants import Principal
from gateway.timings import Timings

Cause = Literal["disconnect", "shutdown"]


class Call(msgspec.Struct, frozen=True):
    """A validated request of `principal`: `sources` are each completed `sampling.n` times.

    `entry` is its line of the ledger. `param` is the request field the prompts came from, for
    errors. `arrived` and `deadline` are `time.perf_counter()`'s. `returning` says whether the
    client was refused before and has waited; None: unknown. `loose` takes the place of
    `sampling.structure` where no grammar can be made of that. `with_text`: prompts given as token
    ids are needed as text, too. `clipped`: `sampling.max_tokens` may be more than the context
    holds, whose end is the completion's then. `timings` is told where the time goes.
    """

    request_id: str
    deployment: Deployment
    principal: Principal
    entry: Entry
    sources: Sequence[Source]
    sampling: SamplingOptions
    param: str
    arrived: float
    deadline: float | None = None
    returning: bool | None = None
    loose: Structure | None = None
    with_text: bool = False
    clipped: bool = False
    timings: Timings | None = None

    def limit(self, prompt: Prompt, max_model_len: int) -> int | None:
        """How many tokens a completion of `prompt` may have; None: what the context holds."""
        wanted = self.sampling.max_tokens
        if self.clipped and wanted is not None and wanted > max_model_len - len(prompt.token_ids):
            return None
        return wanted


class Usage(msgspec.Struct, frozen=True):
    """Exact token counts, as the engine saw them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def at_deadline(
    deadline: float | None, end: Callable[[DeadlineError], None]
) -> asyncio.TimerHandle | None:
    """Call `end` when the time of `time.perf_counter()` has come; None: never."""
    if deadline is None:
        return None
    left = max(0.0, deadline - time.perf_counter())
    return asyncio.get_running_loop().call_later(left, end, DeadlineError())


class Outlet(Protocol):
    """Who sends a call's deltas while it runs: an event stream."""

    def ready(self) -> None:
        """There is something to take from the generation; returns at once."""
        ...


class InterruptedCallError(Exception):
    """The call was ended from outside: its client hung up, or the grace period is over."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause
