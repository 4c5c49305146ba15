"""Sampling options in vLLM's words."""

from __future__ import annotations

from copy import copy

from msgspec import structs
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from engine.base import GenerateRequest, SamplingOptions, Structure


def sampling_params(sampling: SamplingOptions, max_tokens: int) -> SamplingParams:
    """Raises vLLM's VLLMValidationError for what it can't do."""
    temperature, top_k = _temperature_and_top_k(sampling)
    return SamplingParams(
        n=sampling.n,
        max_tokens=max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=temperature,
        top_p=sampling.top_p,
        top_k=top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        logit_bias=dict(sampling.logit_bias) if sampling.logit_bias else None,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        structured_outputs=structured_outputs(sampling.structure),
        skip_special_tokens=sampling.skip_special_tokens,
        output_kind=RequestOutputKind.DELTA,
        # These are made for one request, so vLLM need not copy them.
        skip_clone=True,
    )


def choice_params(params: SamplingParams, index: int) -> SamplingParams:
    """For one of several choices: each has a seed of its own, as with vLLM's `n`."""
    one = copy(params)
    one.n = 1
    if one.top_k == 1:  # as vLLM itself makes them of a temperature of 0
        one.temperature, one.top_k, one.top_p, one.min_p = 0.0, 0, 1.0, 0.0
    if one.seed is not None:
        # To vLLM -1 means no seed at all.
        one.seed = one.seed + index if one.seed + index != -1 else -(2**63)
    return one


def structured_outputs(structure: Structure | None) -> StructuredOutputsParams | None:
    """A structure that has been checked, as the engine core takes it."""
    if structure is None:
        return None
    if structure.kind == "json_object":
        params = StructuredOutputsParams(json_object=True)
    elif structure.kind == "json_schema":
        params = StructuredOutputsParams(json=structure.text)
    else:
        params = StructuredOutputsParams(structural_tag=structure.text)
    params._backend = "xgrammar"
    return params


def remaining(request: GenerateRequest) -> SamplingOptions:
    """The options of what a completion still lacks.

    Where log-probabilities are asked for, those of the tokens it has are computed again, as a part
    of the prompt.
    """
    sampling, done = request.sampling, len(request.generated)
    if not done:
        return sampling
    return structs.replace(
        sampling,
        min_tokens=max(0, sampling.min_tokens - done),
        prompt_logprobs=sampling.logprobs,
    )


def _temperature_and_top_k(sampling: SamplingOptions) -> tuple[float, int]:
    """The likeliest token alone is the greedy choice: vLLM's `top_k=1` takes any of those that tie.
    But several greedy choices is what it doesn't allow."""
    if sampling.temperature != 0 and sampling.top_k != 1:
        return sampling.temperature, sampling.top_k
    return (1.0, 1) if sampling.n > 1 else (0.0, 0)
