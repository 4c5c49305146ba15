"""What is measured of an engine, from which follows how long who waits will: pure, with the time
passed in. Everything is None until it was measured: a guess would refuse work on a fresh start.
"""

from __future__ import annotations

from typing import Final

# First tokens that come so close together come of one step.
SAME_STEP_S: Final = 0.002
# What remains of what was learnt before, with each step that ends the reading of prompts.
STEP_MEMORY: Final = 0.98
STEPS_AT_LEAST: Final = 4
# Lengths that differ by less, relative to their mean, don't tell what a token costs.
SPREAD: Final = 0.1
# A rate of endings is that of about so many of the latest engines-full.
TURNOVERS: Final = 2


class Prefill:
    """How long prompts take to be read: ``fixed + tokens x per_token`` seconds, by least squares
    over the latest steps that gave first tokens. The fixed part is a step's own time; it would make
    a plain rate look slow after short prompts. Where all were alike nothing is said about others.

    Time counts only while a prompt that has a seat in the engine hasn't given its first token.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._step_at: float | None = None
        self._step_s = 0.0
        self._step_tokens = 0
        self._steps = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._fixed = self._per_token = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """How fast prompts are read, beyond what a step takes anyway."""
        known = self._steps >= STEPS_AT_LEAST and self._per_token > 0
        return 1 / self._per_token if known else None

    def seconds(self, tokens: float) -> float | None:
        """How long so many tokens take to be read."""
        if self._steps < STEPS_AT_LEAST:
            return None
        return self._fixed + tokens * self._per_token

    def busy(self, busy: bool, now: float) -> None:
        """Whether a prompt is being read, from now on."""
        if not busy:
            self._since = None
        elif self._since is None:
            self._since = now

    def read(self, tokens: int, now: float) -> None:
        """A prompt has given its first token, and so many of its tokens had to be computed."""
        if self._step_at is None or now - self._step_at > SAME_STEP_S:
            if self._step_at is not None:
                self._learn(float(self._step_tokens), self._step_s)
            if self._since is None:
                self._step_at = None
                return
            self._step_at, self._step_s, self._step_tokens = now, now - self._since, 0
            self._since = now
        self._step_tokens += tokens

    def interrupt(self) -> None:
        """The engine is gone: what it was reading tells nothing."""
        self._since = self._step_at = None

    def _learn(self, x: float, y: float) -> None:
        self._steps += 1
        self._weight = STEP_MEMORY * self._weight + 1
        self._x = STEP_MEMORY * self._x + x
        self._y = STEP_MEMORY * self._y + y
        self._xx = STEP_MEMORY * self._xx + x * x
        self._xy = STEP_MEMORY * self._xy + x * y
        self._fixed, self._per_token = self._line()

    def _line(self) -> tuple[float, float]:
        x, y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - x * x
        if variance <= (SPREAD * x) ** 2:
            return y, 0.0
        per_token = max(0.0, (self._xy / self._weight - x * y) / variance)
        if per_token * x > y:  # a step takes no negative time
            return 0.0, self._xy / self._xx
        return y - per_token * x, per_token


class Drain:
    """How fast places become free while the engine is full, in sequences and in requests.

    What is older than a few turnovers of all seats counts for ever less; nothing is said before
    the first was complete, as sequences that began together also end together.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._unended_s = 0.0
        self._seconds = 0.0
        self._sequences = 0.0
        self._requests = 0.0
        self._ended = 0
        self._needed = 1

    def seats(self, seats: int) -> None:
        """How many sequences the engine decodes together."""
        self._needed = max(seats, 1)

    def busy(self, busy: bool, now: float) -> None:
        """Whether the engine is full, from now on."""
        if self._since is not None:
            self._unended_s += now - self._since
        self._since = now if busy else None

    def ended(self, sequences: int, now: float) -> None:
        """A request is over, of so many sequences."""
        if self._since is None:
            return
        self.busy(True, now)
        kept = max(0.0, 1 - sequences / (TURNOVERS * self._needed))
        self._seconds = self._seconds * kept + self._unended_s
        self._unended_s = 0.0
        self._sequences = self._sequences * kept + sequences
        self._requests = self._requests * kept + 1
        self._ended += sequences

    def interrupt(self) -> None:
        """The engine is gone: it is neither full nor slow."""
        self._since = None

    def sequences_per_second(self, now: float) -> float | None:
        return self._rate(self._sequences, now)

    def requests_per_second(self, now: float) -> float | None:
        return self._rate(self._requests, now)

    def _rate(self, count: float, now: float) -> float | None:
        seconds = self._seconds + self._unended_s
        if self._since is not None:
            seconds += now - self._since
        if self._ended < self._needed or seconds <= 0:
            return None
        return count / seconds


class Mean:
    """An average that follows: the latest count most."""

    def __init__(self, memory: float = 0.95) -> None:
        self._memory = memory
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """`weight` things had `value` altogether."""
        self._sum = self._memory * self._sum + value
        self._weight = self._memory * self._weight + weight

    @property
    def value(self) -> float:
        """0 where nothing was added."""
        return self._sum / self._weight if self._weight else 0.0
