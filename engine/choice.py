"""One choice of a request: from the engine core's tokens to what is told of them.

Why a choice ended is told as vLLM numbers it; nothing of vLLM is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Generic, TypeVar

from engine.base import FinishReason, GenerateRequest, TokenDelta, TokenLogprob
from engine.detokenizer import Detokenizer
from engine.logprobs import Position, Spelling, SpokenLogprobs, first_of, logprob_of
from engine.stops import StopStrings

# By vLLM's `FinishReason`. Nobody here asks for an abort and still listens.
_STOP: Final = 0
_FINISH: Final[dict[int, FinishReason]] = {0: "stop", 1: "length", 4: "stop"}
_BROKEN: Final[dict[int | None, str]] = {
    2: "The engine aborted this request.",
    3: "The engine gave this request up after an internal error.",
}

Owner = TypeVar("Owner")


class Choice(Generic[Owner]):
    """Collects the tokens of one choice, and makes them text when they are taken.

    The tokens of a `watched` one become text as they come: each may complete a stop string, or has
    log-probabilities to be told with its text. `submission` is what the choice belongs to.

    One that is continued first reads the tokens it has already, and forgets what they say: so
    characters, stop strings and log-probabilities that are only begun go on where they were.
    """

    __slots__ = (
        "_checked",
        "_earlier",
        "_finish",
        "_index",
        "_logprobs",
        "_min_tokens",
        "_prompt",
        "_prompt_logprobs",
        "_read",
        "_rescored",
        "_silent",
        "_stops",
        "_taken",
        "_text",
        "_told",
        "_top",
        "_words",
        "broken",
        "cached_tokens",
        "just_finished",
        "submission",
        "tokens",
        "watched",
    )

    def __init__(
        self,
        index: int,
        submission: Owner,
        request: GenerateRequest,
        text: Detokenizer,
        words: Spelling,
    ) -> None:
        sampling = request.sampling
        self.submission = submission
        self.tokens: list[int] = []
        self.broken: str | None = None
        self.watched = bool(sampling.stop) or sampling.logprobs is not None
        self.cached_tokens = 0
        self._taken = 0
        self._stops = StopStrings(sampling.stop) if sampling.stop else None
        self._logprobs: SpokenLogprobs | None = None
        if sampling.logprobs is not None:
            self._logprobs = SpokenLogprobs(words, sampling.logprobs)
        self._words = words
        self._top = sampling.prompt_logprobs
        self._prompt = request.prompt.token_ids
        self._prompt_logprobs: list[TokenLogprob] = []
        self._index = index
        self._text = text
        self._min_tokens = sampling.min_tokens
        # Of a watched choice: its tokens so far, what may be told of those that aren't taken yet,
        # and the length of what was told.
        self._read = 0
        self._checked = ""
        self._told = 0
        # How many of the last tokens are no text: one that ended the sequence.
        self._silent = 0
        self._finish: FinishReason | None = None
        # Whether the end is still to be told.
        self.just_finished = False
        # Tokens of before that wait for their log-probabilities, and those of the prompt and them.
        self._earlier: Sequence[int] = ()
        self._rescored: list[Position] = []
        if request.generated:
            self._continue(request.generated)

    @property
    def over(self) -> bool:
        """Whether this choice has come to an end, a good one or not."""
        return self._finish is not None or self.broken is not None

    @property
    def produced(self) -> int:
        """Its tokens so far, taken or not."""
        return self._taken + len(self.tokens)

    def prefilled(self, cached_tokens: int) -> None:
        """Its prompt has been computed; so many tokens were cached, some perhaps of what it is
        continued from."""
        if not self.produced:  # else it was preempted, and computed again
            self.cached_tokens = min(cached_tokens, len(self._prompt))

    def scored(self, positions: Iterable[Position]) -> None:
        """Note the log-probabilities of a part of the prompt, from its second token on."""
        if self._earlier:
            self._rescored += positions
        if self._top is None:
            return
        if not self._prompt_logprobs:
            self._prompt_logprobs.append(first_of(self._prompt[0], self._words))
        self._prompt_logprobs += [logprob_of(one, self._words, self._top) for one in positions]

    def check(
        self, tokens: Sequence[int], reason: int | None, positions: Sequence[Position] = ()
    ) -> Sequence[int]:
        """See whether new tokens end the choice; returns those of them that belong to it.

        `reason` is the engine's, where it has ended it; `positions` are the tokens'
        log-probabilities, where they were asked for.
        """
        if reason in _BROKEN:
            self.broken = _BROKEN[reason]
            return ()
        if self._earlier:
            self._reread()  # before there is an end, which is that of the new tokens
        # The token that ended the sequence, an end of sequence or a stop token, is not text.
        self._silent = 1 if reason == _STOP and tokens else 0
        if reason is not None:
            self._finish = _FINISH[reason]
        if self.watched:
            tokens = self._watch(tokens, positions)
        self.just_finished = self._finish is not None
        return tokens

    def take(self) -> TokenDelta:
        tokens = self.tokens
        logprobs: Sequence[TokenLogprob] = ()
        stop_string = None
        if self.watched:
            text, self._checked = self._checked, ""
            stop_string = self._stops.matched if self._stops is not None else None
            if self._logprobs is not None:
                self._told += len(text)
                logprobs = self._logprobs.until(self._told)
        else:
            spoken = tokens[: len(tokens) - self._silent] if self._silent else tokens
            text = self._text.extend(spoken)
        self._taken += len(tokens)
        self.tokens = []
        self.just_finished = False
        scored: Sequence[TokenLogprob] = ()
        if self._prompt_logprobs:
            scored, self._prompt_logprobs = self._prompt_logprobs, []
        return TokenDelta(
            self._index,
            text,
            tokens,
            self._finish,
            self.cached_tokens,
            logprobs,
            scored,
            stop_string,
        )

    def _continue(self, tokens: Sequence[int]) -> None:
        if self._logprobs is not None:
            # Some may belong to text that wasn't told yet: the engine scores the tokens again.
            self._earlier = tokens
        elif self.watched:
            self._watch(tokens)
            self._checked = ""
        else:
            self._text.extend(tokens)

    def _reread(self) -> None:
        """The tokens of before, now that their log-probabilities are here."""
        tokens, self._earlier = self._earlier, ()
        positions, self._rescored = self._rescored[-len(tokens) :], []
        self._watch(tokens, positions)
        self._told, self._checked = len(self._checked), ""
        if self._logprobs is not None:
            self._logprobs.until(self._told)

    def _watch(self, tokens: Sequence[int], positions: Sequence[Position] = ()) -> Sequence[int]:
        """Let the text of `tokens` through, up to a stop string."""
        for count, token in enumerate(tokens[: len(tokens) - self._silent], 1):
            self._read += 1
            text = self._text.push(token)
            if self._logprobs is not None and positions:
                self._logprobs.add(positions[count - 1], text)
            if self._passes_stop(text):
                self._finish = "stop"
                return tokens[:count]
        if self._finish is not None and self._stops is not None:
            self._checked += self._stops.rest()
        return tokens

    def _passes_stop(self, text: str) -> bool:
        """Let `text` through, unless it may belong to a stop string; whether one is complete."""
        if self._stops is None:
            self._checked += text
            return False
        through, stopped = self._stops.push(text, ignored=self._read <= self._min_tokens)
        self._checked += through
        return stopped
