"""From what a call says to what the engine is given: a grammar that can be made, and prompts of
exact token ids that fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msgspec import structs

from engine.base import (
    ContextLengthError,
    Conversation,
    Engine,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    Source,
    Structure,
)
from engine.checks import completion_room
from gateway.call import Call
from gateway.timings import enter

# Of one answer: each is an object of its own until it is told.
MAX_SCORES = 500_000


async def grammar(engine: Engine, structure: Structure, loose: Structure | None) -> Structure:
    """What the completion is held to: `structure`, or `loose` where no grammar can be made of it.

    Raises InvalidPromptError where neither will do, EngineBusyError.
    """
    try:
        await engine.check_structure(structure)
    except InvalidPromptError:
        if loose is None:
            raise
        await engine.check_structure(loose)
        return loose
    return structure


async def render(engine: Engine, source: Source, call: Call) -> tuple[Prompt, int]:
    """The prompt, and how many tokens its completion may have. Raises InvalidPromptError."""
    limit = engine.info.max_model_len
    enter(call.timings, "render" if isinstance(source, Conversation) else "tokenize")
    on_text = None if call.timings is None else partial(call.timings.enter, "tokenize")
    try:
        prompt = await engine.render(source, on_text)
        if call.with_text and prompt.text is None:
            prompt = structs.replace(prompt, text=await engine.detokenize(prompt.token_ids))
        room = completion_room(len(prompt.token_ids), call.limit(prompt, limit), limit)
    except ContextLengthError as error:
        error.param = error.param or call.param
        raise
    if len(prompt.token_ids) + call.sampling.min_tokens > limit:
        raise InvalidPromptError(
            f"Invalid 'min_tokens': {call.sampling.min_tokens} more tokens don't fit into the "
            f"context of {limit} tokens.",
            "min_tokens",
        )
    return prompt, room


def check_scores(
    sampling: SamplingOptions, prompts: Sequence[Prompt], rooms: Sequence[int]
) -> None:
    """Raise InvalidPromptError where an answer's log-probabilities could be too many.

    `rooms` is how many tokens a completion of each prompt may have.
    """
    scores = 0
    if sampling.logprobs is not None:
        scores += sum(rooms) * (sampling.logprobs + 1)
    if sampling.prompt_logprobs is not None:
        read = sum(len(prompt.token_ids) for prompt in prompts)
        scores += read * (sampling.prompt_logprobs + 1)
    # Every choice tells of its prompt anew.
    scores *= sampling.n
    if scores > MAX_SCORES:
        raise InvalidPromptError(
            f"Too many log-probabilities: those of {sampling.n * len(prompts)} choices, with their "
            f"alternatives and echoed prompts, may be {scores:,} in all, and {MAX_SCORES:,} are "
            "allowed. Ask for fewer prompts, choices, tokens or alternatives.",
            "logprobs",
        )
