"""A request inside the simulated engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.base import EngineError, Sink, TokenDelta
from engine.scripted import ScriptedSequence
from engine.streaming import Pending


@dataclass(eq=False, slots=True)
class Call:
    """Implements `engine.base.Submission`: who hears of it, when it fails if it must, and the
    prompt tokens that will be counted with its first one. `drop` makes the engine forget it."""

    drop: Callable[[Call], None]
    sink: Sink
    priority: int
    unfinished: int
    fails_at: int | None
    unread: int
    produced: int = 0
    cached_tokens: int = 0
    pending: Pending = field(default_factory=Pending)
    over: bool = False

    def take(self) -> Sequence[TokenDelta]:
        return self.pending.take()

    def abort(self) -> None:
        if not self.over:
            self.drop(self)

    def fail(self, error: EngineError) -> None:
        self.abort()
        self.sink.failed(error)


@dataclass(eq=False, slots=True)
class Choice:
    """One choice of a call; `done` of its prompt's tokens are what it is continued from."""

    call: Call
    script: ScriptedSequence
    prompt_tokens: int
    done: int

    @property
    def held(self) -> int:
        """Tokens it keeps in memory."""
        return self.prompt_tokens + self.script.produced - self.done
