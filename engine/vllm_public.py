"""The public token path: vLLM's documented `AsyncLLM.generate`, one task for each request.

Dearer than the direct one, and for any vLLM: taken where the installed one's internals aren't those
the direct path was written for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from vllm.v1.engine.exceptions import EngineDeadError as VLLMDeadError

from engine.base import EngineError, GenerateRequest, Sink
from engine.meter import Meter
from engine.streaming import Pending
from engine.vllm_adapters import Adapters
from engine.vllm_sampling import delta_of, sampling_params
from engine.vllm_scores import Scores
from engine.vllm_text import detokenizers, spelling


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
        # A task nobody holds may be collected before it has ended.
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, request: GenerateRequest, room: int, sink: Sink) -> _Submission:
        """As `Engine.submit`; at most `room` tokens. Raises vLLM's exceptions."""
        adapter = self._adapters.find(request.adapter)
        params = sampling_params(request.sampling, room)
        submission = _Submission()
        task = asyncio.create_task(self._generate(request, params, adapter, sink, submission))
        submission.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._meter.enter(request.sampling.n)
        task.add_done_callback(lambda _task: self._meter.leave(request.sampling.n))
        return submission

    async def close(self) -> None:
        """Fail what is unfinished, and wait until everybody knows."""
        # First the reader of the outputs, who would report the engine's end as a failure.
        reader = self._llm.output_handler
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        self._llm.output_processor.propagate_error(VLLMDeadError())
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _generate(
        self,
        request: GenerateRequest,
        params: Any,
        adapter: Any,
        sink: Sink,
        submission: _Submission,
    ) -> None:
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt.token_ids)}
        finished = False
        outputs = self._llm.generate(prompt, params, request.request_id, lora_request=adapter)
        score = self._scores(request, params)
        try:
            async for output in outputs:
                finished = output.finished
                cached = output.num_cached_tokens or 0
                for choice in output.outputs:
                    delta = delta_of(choice, cached)
                    if score is not None:
                        delta = score(delta, choice, output)
                    first = submission.pending.add(delta)
                    if first and not submission.aborted:
                        sink.ready()
            if not submission.aborted:
                sink.finished()
        except Exception as error:
            if not submission.aborted:
                sink.failed(self._known(error))
        finally:
            await outputs.aclose()
            if not finished:
                await self._abort(request.request_id)

    def _scores(self, request: GenerateRequest, params: Any) -> Scores | None:
        sampling = request.sampling
        if sampling.logprobs is None and sampling.prompt_logprobs is None:
            return None
        like_core = SimpleNamespace(
            prompt_token_ids=list(request.prompt.token_ids), sampling_params=params
        )
        texts = [self._detokenizer(like_core) for _ in range(sampling.n)]
        return Scores(request, texts, self._words)

    async def _abort(self, request_id: str) -> None:
        """For a request that was cancelled on its way to the engine, which vLLM forgets."""
        if not self._llm.errored:
            with suppress(VLLMDeadError):
                await self._llm.abort(request_id)


class _Submission:
    def __init__(self) -> None:
        self.aborted = False
        self.pending = Pending()
        self.take = self.pending.take
        self.task: asyncio.Task[None] | None = None

    def abort(self) -> None:
        self.aborted = True
        if self.task is not None:
            self.task.cancel()
