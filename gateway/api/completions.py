"""`POST /v1/completions`."""

from __future__ import annotations

from functools import partial

from gateway.answers.text import TextAnswer, TextForm
from gateway.api.generation import Context, GenerationEndpoint, Task
from gateway.api.schemas import documented
from gateway.protocol.completions import CompletionRequest
from gateway.services import Services


def endpoint(room: Services) -> GenerationEndpoint[CompletionRequest]:
    return GenerationEndpoint(
        room,
        "/v1/completions",
        model=CompletionRequest,
        id_prefix="cmpl",
        task=_task,
        summary="Continue one or more prompts, whole or as a stream.",
        documentation=documented(
            CompletionRequest,
            answer="gateway.protocol.answers:TextCompletion",
            event="gateway.protocol.answers:TextCompletion",
            example={"model": "", "prompt": "The capital of Japan is", "max_tokens": 8},
        ),
    )


def _task(body: CompletionRequest, _context: Context) -> Task:
    form = TextForm(
        echo=bool(body.echo),
        logprobs=body.logprobs is not None,
        prompt_only=body.prompt_only,
        n=body.told,
        best_of=body.made,
    )
    return Task(
        body.prompts(),
        "prompt",
        body.options(),
        partial(TextAnswer, form=form),
        include_usage=body.include_usage,
        # Of a prompt that is only scored no token is told.
        continuous_usage=body.continuous_usage and not form.prompt_only,
        with_text=form.echo or form.logprobs,
    )
