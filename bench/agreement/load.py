"""What every tool is asked to do, and what is taken from its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from bench.client import Endpoint

PromptFields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of streamed requests; lengths in tokens, both exact.

    `base_url` ends in `/v1`. `seed` is that of the prompts, for the tool that writes its own.
    """

    base_url: str
    endpoint: Endpoint
    model: str
    input_tokens: int
    output_tokens: int
    concurrency: int
    requests: int
    seed: int
    api_key: str | None = field(default=None, repr=False)

    @property
    def root_url(self) -> str:
        """Without the `/v1`, for tools that add it."""
        return self.base_url.removesuffix("/v1")


@dataclass(frozen=True, slots=True)
class Figures:
    """One run as its tool reports it. Latencies in milliseconds."""

    succeeded: int
    failed: int
    total_tokens_per_s: float
    output_tokens_per_s: float
    ttft_mean_ms: float
    ttft_p50_ms: float
    tpot_mean_ms: float
    tpot_p50_ms: float

    @classmethod
    def of_requests(
        cls,
        *,
        failed: int,
        input_tokens: int,
        output_tokens: int,
        duration_s: float,
        ttft_ms: Sequence[float],
        tpot_ms: Sequence[float],
    ) -> Figures:
        """For reports that list every request. Raises ValueError: none succeeded."""
        if not ttft_ms or not tpot_ms or duration_s <= 0:
            raise ValueError("no request succeeded")
        return cls(
            succeeded=len(ttft_ms),
            failed=failed,
            total_tokens_per_s=(input_tokens + output_tokens) / duration_s,
            output_tokens_per_s=output_tokens / duration_s,
            ttft_mean_ms=fmean(ttft_ms),
            ttft_p50_ms=median(ttft_ms),
            tpot_mean_ms=fmean(tpot_ms),
            tpot_p50_ms=median(tpot_ms),
        )
