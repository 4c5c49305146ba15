"""How much one engine takes: kept just full, so that the order is decided here, and late."""

from __future__ import annotations

import math
from typing import Final, Literal

from engine.base import LoadedModel
from gateway.config import AdmissionConfig

# How old the engine's own word on its KV cache may be.
USAGE_AGE_S: Final = 0.01

Verdict = Literal["open", "full", "kv", "away"]


class Gate:
    """Counts the sequences inside one engine and says whether more may go.

    `seats` sequences are decoded together; a margin more wait inside, so that no step has a seat
    empty. More than fit may go as one request where a seat would be empty otherwise: neither does
    a request of many sequences wait for ever, nor the engine for a small one.

    Beyond those the engine has spare seats, for requests that are `owed` one: they go at once, and
    as nobody takes the next places that become free, the seats are soon spare again.

    A prompt takes its place in the KV cache as soon as it is sent, though the engine will only tell
    of it later. Whatever the cache, an engine with nothing inside takes a request. `kv_bound` says
    whether it was the cache that kept the last one that asked.
    """

    def __init__(self, config: AdmissionConfig) -> None:
        self._margin = config.margin
        self._ceiling = config.kv_ceiling
        self._model: LoadedModel | None = None
        self._kv_tokens: int | None = None
        self._usage = 0.0
        self._usage_at = -math.inf
        self.seats = 0
        self.places = 0
        self.all_seats = 0
        self.inside = 0
        self.kv_bound = False
        self.unstarted_tokens = 0

    @property
    def away(self) -> bool:
        """Whether there is no engine; what was given to the last one may still be inside."""
        return self._model is None

    def free(self, *, owed: bool = False) -> int:
        """Sequences that may go at once, as far as places are concerned, those included that who is
        `owed` them may take."""
        most = max(self.places, self.all_seats) if owed else self.places
        return 0 if self._model is None else max(0, most - self.inside)

    def open(self, model: LoadedModel) -> None:
        info = model.info
        self._model = model
        self.seats = info.max_num_seqs * info.copies
        self.places = self.seats + math.ceil(self._margin * self.seats)
        self.all_seats = self.seats + info.spare_seqs * info.copies
        self._kv_tokens = info.kv_cache_tokens and info.kv_cache_tokens * info.copies
        self._usage_at = -math.inf

    def close(self) -> None:
        self._model = None

    def full(self, sequences: int) -> bool:
        """Whether there are no places for a request, unless it is owed some."""
        return self.inside >= self.seats and self.inside + sequences > self.places

    def verdict(
        self, sequences: int, prompt_tokens: int, now: float, *, owed: bool = False
    ) -> Verdict:
        """Whether a request may go, and what keeps it if not."""
        self.kv_bound = False
        if self._model is None:
            return "away"
        if not self.inside:
            return "open"
        if self.full(sequences) and not (owed and self.inside + sequences <= self.all_seats):
            return "full"
        if now - self._usage_at >= USAGE_AGE_S:
            self._usage, self._usage_at = self._model.stats().kv_cache_usage, now
        expected = self._usage
        if self._kv_tokens:
            expected += (self.unstarted_tokens + prompt_tokens) / self._kv_tokens
        self.kv_bound = expected > self._ceiling
        return "kv" if self.kv_bound else "open"

    def enter(self, sequences: int) -> None:
        """A request goes."""
        self.inside += sequences

    def leave(self, sequences: int) -> None:
        """A request is over."""
        self.inside -= sequences
