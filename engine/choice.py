"""One choice of a request: from the engine core's tokens to what is told of them.

Outputs, prefill statistics and scores are read as vLLM's `EngineCoreOutput` has them; nothing of
vLLM is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

from engine.base import FinishReason, GenerateRequest, TokenDelta, TokenLogprob
from engine.detokenizer import Detokenizer
from engine.logprobs import Spelling, SpokenLogprobs, first_of, logprob_of
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
    """

    __slots__ = (
        "_cached",
        "_checked",
        "_finish",
        "_index",
        "_logprobs",
        "_min_tokens",
        "_prefilled",
        "_produced",
        "_prompt",
        "_prompt_logprobs",
        "_silent",
        "_stops",
        "_text",
        "_told",
        "_top",
        "_words",
        "broken",
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
        self._produced = 0
        # Of a watched choice: what may be told of the tokens that aren't taken yet, and the length
        # of what was told.
        self._checked = ""
        self._told = 0
        # How many of the last tokens are no text: one that ended the sequence.
        self._silent = 0
        self._finish: FinishReason | None = None
        # Whether the end is still to be told.
        self.just_finished = False
        self._prefilled = False
        self._cached = 0

    @property
    def over(self) -> bool:
        """Whether this choice has come to an end, a good one or not."""
        return self._finish is not None or self.broken is not None

    def prefilled(self, stats: Any) -> int:
        """Note the prefix cache's hits; returns the prompt's tokens, the first time."""
        if self._prefilled:  # preempted, and computed again
            return 0
        self._prefilled = True
        self._cached = stats.num_cached_tokens
        prompt_tokens: int = stats.num_prompt_tokens
        return prompt_tokens

    def scored(self, tensors: Any) -> None:
        """Note the log-probabilities of a part of the prompt."""
        if self._top is None:
            return
        if not self._prompt_logprobs:
            self._prompt_logprobs.append(first_of(self._prompt[0], self._words))
        rows = zip(tensors.logprob_token_ids.tolist(), tensors.logprobs.tolist(), strict=True)
        self._prompt_logprobs += [
            logprob_of(list(zip(*row, strict=True)), self._words, self._top) for row in rows
        ]

    def check(self, output: Any) -> Sequence[int]:
        """See whether new tokens end the choice; returns those of them that belong to it."""
        tokens: Sequence[int] = output.new_token_ids
        reason: int | None = output.finish_reason
        if reason in _BROKEN:
            self.broken = _BROKEN[reason]
            return ()
        # The token that ended the sequence, an end of sequence or a stop token, is not text.
        self._silent = 1 if reason == _STOP and tokens else 0
        if reason is not None:
            self._finish = _FINISH[reason]
        if self.watched:
            tokens = self._watch(tokens, output.new_logprobs)
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
        self.tokens = []
        self.just_finished = False
        if self._prompt_logprobs:
            scored, self._prompt_logprobs = self._prompt_logprobs, []
            return TokenDelta(
                self._index, text, tokens, self._finish, self._cached, logprobs, scored, stop_string
            )
        return TokenDelta(
            self._index, text, tokens, self._finish, self._cached, logprobs, (), stop_string
        )

    def _watch(self, tokens: Sequence[int], scores: Any) -> Sequence[int]:
        """Let the text of `tokens` through, up to a stop string."""
        for count, token in enumerate(tokens[: len(tokens) - self._silent], 1):
            self._produced += 1
            text = self._text.push(token)
            if self._logprobs is not None and scores is not None:
                ids, values = scores.logprob_token_ids[count - 1], scores.logprobs[count - 1]
                position = list(zip(ids.tolist(), values.tolist(), strict=True))
                self._logprobs.add(position, text)
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
        through, stopped = self._stops.push(text, ignored=self._produced <= self._min_tokens)
        self._checked += through
        return stopped
