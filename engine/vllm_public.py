"""The public token path: vLLM's documented `AsyncLLM.generate`, one task for each choice.

Dearer than the direct one, and for any vLLM: taken where the installed one's internals aren't those
the direct path was written for. Tokens become text here, as there; so both say the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from msgspec import structs
from vllm.v1.engine.exceptions import EngineDeadError as VLLMDeadError

from engine.base import EngineError, EngineGenerateError, GenerateRequest, Sink
from engine.choice import Choice
from engine.logprobs import Position
from engine.meter import Meter
from engine.submission import Sequences
from engine.vllm_adapters import Adapters
from engine.vllm_sampling import choice_params, remaining, sampling_params
from engine.vllm_text import detokenizers, spelling

# An exception wakes a task at once, unless vLLM keeps it waiting for something else.
_TOLD_S: Final = 5.0
# What vLLM says in its documented outputs, by its own numbers.
_REASONS: Final = {"stop": 0, "length": 1, "abort": 2, "error": 3, "repetition": 4}


class PublicPath:
    """Implements `vllm_engine.TokenPath`. `known` turns vLLM's exceptions into ours."""

    def __init__(
        self,
        llm: Any,
        meter: Meter,
        known: Callable[[Exception], EngineError],
        adapters: Adapters,
    ) -> None:
        self._llm = llm
        self._meter = meter
        self._known = known
        self._adapters = adapters
        self._detokenizer = detokenizers(llm)
        self._words = spelling(llm)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def submit(self, request: GenerateRequest, room: int, sink: Sink) -> Sequences:
        """As `Engine.submit`; at most `room` tokens. Raises vLLM's exceptions."""
        adapter = self._adapters.find(request.adapter)
        # Stop strings are found here.
        sampling = structs.replace(remaining(request), stop=())
        params = sampling_params(sampling, room)
        params.detokenize = False
        submission = Sequences(request, sink, self._abort)
        for index in range(sampling.n):
            several = sampling.n > 1
            name = f"{index}_{request.request_id}" if several else request.request_id
            text = self._detokenizer(request)
            choice = Choice(index, submission, request, text, self._words)
            submission.choices.append(choice)
            submission.live[name] = choice
            one = choice_params(params, index) if several else params
            generating = self._generate(name, request, one, adapter, choice, submission)
            self._tasks[name] = task = asyncio.create_task(generating)
            task.add_done_callback(partial(self._ended, name))
        self._meter.enter(sampling.n)
        return submission

    def died(self) -> None:
        """The engine core is gone: fail what is unfinished."""
        self._llm.output_processor.propagate_error(VLLMDeadError())

    async def close(self) -> None:
        """Fail what is unfinished, and wait until everybody knows."""
        # First the reader of the outputs, who would report the engine's end as a failure.
        reader = self._llm.output_handler
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        self.died()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_TOLD_S)

    async def _generate(
        self,
        name: str,
        request: GenerateRequest,
        params: Any,
        adapter: Any,
        choice: Choice[Sequences],
        submission: Sequences,
    ) -> None:
        prompt = {
            "type": "token",
            "prompt_token_ids": [*request.prompt.token_ids, *request.generated],
        }
        finished = False
        outputs = self._llm.generate(
            prompt, params, name, lora_request=adapter, priority=request.priority
        )
        try:
            async for output in outputs:
                finished = output.finished
                self._take(output, choice, submission, params)
                if choice.over or name not in submission.live:
                    break
            self._end(name, choice, submission)
        except Exception as error:
            if name in submission.live:
                submission.failed(self._known(error))
        finally:
            await outputs.aclose()
            if not finished:
                await self._forget(name)

    def _take(
        self, output: Any, choice: Choice[Sequences], submission: Sequences, params: Any
    ) -> None:
        """What vLLM gives of a choice, which may be several steps' tokens together."""
        (part,) = output.outputs
        choice.prefilled(output.num_cached_tokens or 0)
        if output.prompt_logprobs:
            scored = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
            choice.scored([_position(*one, params.prompt_logprobs) for one in scored])
        reason = None if part.finish_reason is None else _REASONS[part.finish_reason]
        scores: Sequence[Position] = ()
        if part.logprobs:
            of = zip(part.token_ids, part.logprobs, strict=False)
            scores = [_position(*one, params.logprobs) for one in of]
        new = choice.check(part.token_ids, reason, scores)
        choice.tokens += new
        self._meter.step(submission.first_token() if new else 0, len(new))
        if new or choice.just_finished:
            submission.news()

    def _end(self, name: str, choice: Choice[Sequences], submission: Sequences) -> None:
        if submission.live.pop(name, None) is None:  # aborted meanwhile
            return
        if choice.broken is not None:
            submission.failed(EngineGenerateError(choice.broken))
        elif not submission.live:
            submission.tell(submission.sink.finished)

    def _abort(self, names: Sequence[str]) -> None:
        for name in names:
            task = self._tasks.get(name)
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        self._meter.leave(1)

    async def _forget(self, name: str) -> None:
        """For a request that was cancelled on its way to the engine, which vLLM forgets."""
        if not self._llm.errored:
            with suppress(VLLMDeadError):
                await self._llm.abort(name)


def _position(token: int, scored: Mapping[int, Any], top: int | None) -> Position:
    likeliest = [
        (other, found.logprob)
        for other, found in scored.items()
        if found.rank is not None and found.rank <= (top or 0)
    ]
    return [(token, scored[token].logprob), *likeliest]
