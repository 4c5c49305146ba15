"""The usage so far in every chunk of a stream: `stream_options.continuous_usage_stats`, an
extension of vLLM's server that load tools and agents ask for."""

from __future__ import annotations

from collections.abc import Sequence

from engine.base import Prompt, TokenDelta
from gateway.answers import Answer, encode
from gateway.call import Usage
from gateway.errors import APIError

# How an event ends that tells no usage. JSON has no line end within a string, so that text never
# looks like it.
_UNCOUNTED = b',"usage":null}\n\n'


class CountedAnswer:
    """Implements `answers.Answer` by another one, whose chunks say that they have no usage.

    The tokens of all choices count. Events that are told together, as they come from one delta,
    have the same usage.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._prompt_tokens = 0
        self._completion_tokens = 0

    @property
    def reasoning_tokens(self) -> int:
        return self._answer.reasoning_tokens

    def begin(self, prompts: Sequence[Prompt]) -> None:
        self._prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        self._answer.begin(prompts)

    def whole(self, choices: Sequence[TokenDelta], usage: Usage) -> bytes:
        return self._answer.whole(choices, usage)

    def events(self, delta: TokenDelta) -> bytes:
        self._completion_tokens += len(delta.token_ids)
        usage = {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
        }
        counted = b',"usage":%b}\n\n' % encode(usage)
        return self._answer.events(delta).replace(_UNCOUNTED, counted)

    def finished(self, usage: Usage) -> bytes:
        return self._answer.finished(usage)

    def failed(self, error: APIError) -> bytes:
        return self._answer.failed(error)

    def record(self, usage: Usage) -> bytes | None:
        return self._answer.record(usage)
