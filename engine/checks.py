"""What every engine refuses before it starts to work. Pure; lengths are in tokens."""

from __future__ import annotations

from collections.abc import Sequence

from engine.base import ContextLengthError, GenerateRequest, InvalidPromptError, SamplingOptions
from engine.structure import check_with_structure


def check_prompt(
    token_ids: Sequence[int], *, vocab_size: int, max_model_len: int, param: str
) -> None:
    """Raise InvalidPromptError for an empty prompt or a token id that doesn't exist, and
    ContextLengthError where there is no room for one more token. `param` is blamed."""
    if not token_ids:
        raise InvalidPromptError("The prompt is empty: at least one token is needed.", param)
    check_token_ids(token_ids, vocab_size=vocab_size, param=param)
    if len(token_ids) >= max_model_len:
        raise ContextLengthError(
            max_model_len=max_model_len, prompt_tokens=len(token_ids), param=param
        )


def check_input(token_ids: Sequence[int], *, vocab_size: int, max_model_len: int) -> None:
    """As `check_prompt`, for what is embedded: it may fill the context, as nothing follows it."""
    if not token_ids:
        raise InvalidPromptError("The input is empty: at least one token is needed.", "input")
    check_token_ids(token_ids, vocab_size=vocab_size, param="input")
    if len(token_ids) > max_model_len:
        raise ContextLengthError(
            max_model_len=max_model_len, prompt_tokens=len(token_ids), param="input"
        )


def check_token_ids(token_ids: Sequence[int], *, vocab_size: int, param: str) -> None:
    """Raise InvalidPromptError for a token id that doesn't exist. `param` is blamed."""
    low, high = min(token_ids, default=0), max(token_ids, default=0)
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise InvalidPromptError(
            f"Token id {wrong} is not in the vocabulary of 0 to {vocab_size - 1}.", param
        )


def completion_room(prompt_tokens: int, max_tokens: int | None, max_model_len: int) -> int:
    """How many tokens may be generated. Raises ContextLengthError where `max_tokens` is more."""
    room = max_model_len - prompt_tokens
    if room < (max_tokens or 1):
        raise ContextLengthError(
            max_model_len=max_model_len,
            prompt_tokens=prompt_tokens,
            requested_tokens=max_tokens or 1,
        )
    return max_tokens or room


def check_sampling(sampling: SamplingOptions, vocab_size: int) -> None:
    """Raise InvalidPromptError where an option names tokens that don't exist, or a choice's seed
    (the i-th's is `seed + i`) would not be a 64-bit integer."""
    check_with_structure(sampling)
    if sampling.seed is not None and sampling.seed + sampling.n - 1 >= 2**63:
        raise InvalidPromptError(
            f"Invalid 'seed': with {sampling.n} choices it can be {2**63 - sampling.n} at most.",
            "seed",
        )
    for param, token_ids in (
        ("logit_bias", sampling.logit_bias or ()),
        ("stop_token_ids", sampling.stop_token_ids),
    ):
        for token_id in token_ids:
            if not 0 <= token_id < vocab_size:
                raise InvalidPromptError(
                    f"Token id {token_id} in '{param}' is not in the vocabulary of 0 to "
                    f"{vocab_size - 1}.",
                    param,
                )


def resumable(sampling: SamplingOptions) -> bool:
    """Whether a completion can be continued exactly from its tokens alone.

    Not with a seed: how far its generator has come isn't known. Nor with penalties or a grammar,
    which would take the tokens so far for a part of the prompt.
    """
    return (
        sampling.n == 1
        and sampling.seed is None
        and sampling.structure is None
        and sampling.prompt_logprobs is None
        and not sampling.presence_penalty
        and not sampling.frequency_penalty
        and sampling.repetition_penalty == 1
    )


def check_request(request: GenerateRequest, *, vocab_size: int, max_model_len: int) -> int:
    """How many tokens this request may still generate, for each choice.

    Raises InvalidPromptError where an option can't be served, or `generated` can't be continued;
    ContextLengthError.
    """
    sampling = request.sampling
    check_sampling(sampling, vocab_size)
    room = completion_room(len(request.prompt.token_ids), sampling.max_tokens, max_model_len)
    if not request.generated:
        return room
    check_token_ids(request.generated, vocab_size=vocab_size, param="prompt")
    if not resumable(sampling) or len(request.generated) >= room:
        raise InvalidPromptError("This completion can't be continued.")
    return room - len(request.generated)
