"""One request inside an engine: its choices, and who is told of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from engine.base import EngineError, GenerateRequest, Sink, TokenDelta
from engine.choice import Choice

logger = logging.getLogger(__name__)


class Sequences:
    """Implements `engine.base.Submission`. `live` are the choices that are unfinished, by the
    names the engine knows them by; `free` makes the engine forget some."""

    __slots__ = ("_free", "_unread", "choices", "live", "sink", "told")

    def __init__(
        self, request: GenerateRequest, sink: Sink, free: Callable[[Sequence[str]], None]
    ) -> None:
        self.sink = sink
        # Whether the sink knows that there is something to take.
        self.told = False
        self.choices: list[Choice[Sequences]] = []
        self.live: dict[str, Choice[Sequences]] = {}
        self._free = free
        # A completion that is continued was counted when it began.
        self._unread = 0 if request.generated else len(request.prompt.token_ids)

    @property
    def produced(self) -> int:
        return sum([choice.produced for choice in self.choices])

    @property
    def cached_tokens(self) -> int:
        return self.choices[0].cached_tokens

    def take(self) -> Sequence[TokenDelta]:
        self.told = False
        return [choice.take() for choice in self.choices if choice.tokens or choice.just_finished]

    def abort(self) -> None:
        if self.live:
            names = list(self.live)
            self.live.clear()
            self._free(names)

    def first_token(self) -> int:
        """A choice's first token has come: how many prompt tokens that makes known."""
        unread, self._unread = self._unread, 0
        return unread

    def news(self) -> None:
        """There is something to take."""
        if not self.told:
            self.told = True
            self.tell(self.sink.ready)

    def failed(self, error: EngineError) -> None:
        """It is over without having finished."""
        self.abort()
        self.tell(partial(self.sink.failed, error))

    def tell(self, call: Callable[[], None]) -> None:
        """Call the sink; what it raises is its own request's end, and nobody else's."""
        try:
            call()
        except Exception:
            logger.exception("a request's sink failed")
            self.abort()
