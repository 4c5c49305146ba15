"""The direct token path: from the engine core's socket to the sinks, one pass for each step.

`AsyncLLM.generate` wakes a task and makes several objects for every token of every request. Here
one loop reads a step's outputs, looks each token's text up, and calls the request's sink; nothing
waits in between. What of vLLM's internals that takes is checked by `vllm_shape` at the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import zmq
from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.engine.core_client import _process_utility_output
from vllm.v1.engine.exceptions import EngineDeadError as VLLMDeadError

from engine.base import (
    EngineDeadError,
    EngineError,
    EngineGenerateError,
    FinishReason,
    GenerateRequest,
    Sink,
    TokenDelta,
)
from engine.detokenizer import Detokenizer
from engine.meter import Meter
from engine.stops import StopStrings
from engine.vllm_requests import CoreRequests
from engine.vllm_stats import hide_request_series
from engine.vllm_text import detokenizers

logger = logging.getLogger(__name__)

# By vLLM's `FinishReason`: stop, length, abort, error, repetition.
_STOP: Final = 0
_ERROR: Final = 3
_FINISH: Final[tuple[FinishReason, ...]] = ("stop", "length", "abort", "abort", "stop")
# So many steps are taken together when the loop is behind, before others get their turn.
_MAX_STEPS: Final = 16


async def open_path(llm: Any, meter: Meter) -> DirectPath:
    """Take over an `AsyncLLM` that has had no request yet, in the event loop that will serve it."""
    path = DirectPath(llm, meter)
    path.requests = CoreRequests(llm, await llm.get_supported_tasks())
    return path


class DirectPath:
    """Implements `vllm_engine.TokenPath`; made by `open_path`."""

    requests: CoreRequests

    def __init__(self, llm: Any, meter: Meter) -> None:
        self._meter = meter
        self._record = llm.logger_manager.record
        self._client = llm.engine_core
        self._sending: Any = zmq.Socket.shadow(self._client.input_socket.underlying)
        self._live: dict[str, _Sequence] = {}
        self._detokenizer = detokenizers(llm)
        hide_request_series()
        self._reading = asyncio.create_task(self._read(), name="engine outputs")
        # vLLM cancels this task when the engine's process has died, and starts no reader itself.
        self._client.resources.output_queue_task = self._reading

    def submit(self, request: GenerateRequest, room: int, sink: Sink) -> _Submission:
        """As `Engine.submit`; at most `room` tokens. Raises vLLM's exceptions."""
        submission = _Submission(self, sink)
        n = request.sampling.n
        self._meter.enter(n)
        try:
            for index, core in enumerate(self.requests.of(request, room)):
                sequence = _Sequence(index, submission, request, self._detokenizer(core))
                submission.live[core.request_id] = sequence
                self._live[core.request_id] = sequence
                self._send(EngineCoreRequestType.ADD, core)
        except BaseException:
            self._meter.leave(n - len(submission.live))
            submission.abort()
            raise
        return submission

    def abort(self, request_ids: Sequence[str]) -> None:
        """Forget these sequences, here and in the engine core."""
        self._forget(request_ids)
        self._free(request_ids)

    async def close(self) -> None:
        """Stop reading; what is unfinished fails."""
        self._reading.cancel()
        await asyncio.wait([self._reading])

    def _send(self, kind: EngineCoreRequestType, payload: Any) -> None:
        self._client.ensure_alive()
        frames = (self._client.core_engine, kind.value, *self._client.encoder.encode(payload))
        self._sending.send_multipart(frames, flags=zmq.NOBLOCK, copy=True)

    def _free(self, request_ids: Sequence[str]) -> None:
        with suppress(VLLMDeadError, zmq.ZMQError):  # nothing is left to be freed
            self._send(EngineCoreRequestType.ABORT, list(request_ids))

    def _forget(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            del self._live[request_id]
        self._meter.leave(len(request_ids))

    async def _read(self) -> None:
        resources = self._client.resources
        socket = resources.output_socket
        more: Any = zmq.Socket.shadow(socket.underlying)
        try:
            while True:
                frames = await socket.recv_multipart(copy=False)
                self._take(frames)
                # Steps that ended meanwhile belong to the same pass: their deltas are merged.
                for _ in range(_MAX_STEPS):
                    if not more.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                        break
                    self._take(more.recv_multipart(zmq.NOBLOCK, copy=False))
        except (asyncio.CancelledError, VLLMDeadError):
            self._fail_all()
        except Exception:
            logger.exception("the engine's outputs can't be read any more")
            resources.engine_dead = True
            self._fail_all()

    def _take(self, frames: Any) -> None:
        """One message of the engine core: a step's outputs, its figures, or a call's answer."""
        self._client.resources.validate_alive(frames)
        outputs = self._client.decoder.decode(frames)
        if outputs.utility_output is not None:
            _process_utility_output(outputs.utility_output, self._client.utility_results)
        if outputs.outputs:
            self._take_tokens(outputs.outputs)
        if outputs.scheduler_stats is not None:
            self._record(
                scheduler_stats=outputs.scheduler_stats,
                iteration_stats=None,
                engine_idx=outputs.engine_index,
            )

    def _take_tokens(self, outputs: Sequence[Any]) -> None:
        find = self._live.get
        prompt_tokens = tokens = 0
        stopped: list[str] = []
        for output in outputs:
            sequence = find(output.request_id)
            if sequence is None:  # aborted meanwhile
                continue
            if output.prefill_stats is not None:
                prompt_tokens += sequence.prefilled(output.prefill_stats)
            try:
                taken = sequence.take(output)
            except Exception:
                logger.exception("request %s is given up", output.request_id)
                sequence.submission.failed(EngineGenerateError("The answer could not be decoded."))
                continue
            tokens += taken
            if sequence.finished and output.request_id in sequence.submission.live:
                del sequence.submission.live[output.request_id]
                self._forget((output.request_id,))
                if output.finish_reason is None:
                    stopped.append(output.request_id)
        self._meter.step(prompt_tokens, tokens)
        if stopped:
            self._free(stopped)

    def _fail_all(self) -> None:
        for submission in {sequence.submission for sequence in self._live.values()}:
            submission.failed(EngineDeadError("The engine stopped while this request was running."))


class _Submission:
    """One request: the sequences of its choices that are unfinished."""

    __slots__ = ("_path", "live", "sink")

    def __init__(self, path: DirectPath, sink: Sink) -> None:
        self._path = path
        self.sink = sink
        self.live: dict[str, _Sequence] = {}

    def abort(self) -> None:
        if self.live:
            request_ids = list(self.live)
            self.live.clear()
            self._path.abort(request_ids)

    def failed(self, error: EngineError) -> None:
        self.abort()
        self.sink.failed(error)


class _Sequence:
    """One choice: turns the engine core's outputs into deltas."""

    __slots__ = (
        "_cached",
        "_index",
        "_min_tokens",
        "_prefilled",
        "_produced",
        "_push",
        "_stops",
        "_tell",
        "finished",
        "submission",
    )

    def __init__(
        self, index: int, submission: _Submission, request: GenerateRequest, text: Detokenizer
    ) -> None:
        self.submission = submission
        self.finished = False
        self._index = index
        self._tell: Callable[[TokenDelta], None] = submission.sink.delta
        self._push = text.push
        self._stops = StopStrings(request.sampling.stop) if request.sampling.stop else None
        self._min_tokens = request.sampling.min_tokens
        self._produced = 0
        self._prefilled = False
        self._cached = 0

    def prefilled(self, stats: Any) -> int:
        """Note the prefix cache's hits; returns the prompt's tokens, the first time."""
        if self._prefilled:  # preempted, and computed again
            return 0
        self._prefilled = True
        self._cached = stats.num_cached_tokens
        prompt_tokens: int = stats.num_prompt_tokens
        return prompt_tokens

    def take(self, output: Any) -> int:
        """Tell the sink what `output` adds; returns how many tokens that are."""
        tokens, reason = output.new_token_ids, output.finish_reason
        if reason is None and self._stops is None and len(tokens) == 1:
            delta = TokenDelta(self._index, self._push(tokens[0]), tokens, None, self._cached)
            self._tell(delta)
            return 1
        return self._take_any(tokens, reason)

    def _take_any(self, tokens: list[int], reason: int | None) -> int:
        if reason == _ERROR:
            self.submission.failed(
                EngineGenerateError("The engine gave this request up after an internal error.")
            )
            return 0
        # The token that ended the sequence, an end of sequence or a stop token, is not text.
        spoken = len(tokens) - 1 if reason == _STOP else len(tokens)
        text, kept, stopped = self._text(tokens[:spoken])
        finish: FinishReason | None = None
        if stopped:
            finish, tokens = "stop", tokens[:kept]
        elif reason is not None:
            finish = _FINISH[reason]
            if self._stops is not None:
                text += self._stops.rest()
        self._produced += len(tokens)
        self.finished = finish is not None
        self._tell(TokenDelta(self._index, text, tokens, finish, self._cached))
        return len(tokens)

    def _text(self, tokens: Sequence[int]) -> tuple[str, int, bool]:
        """Their text, how many of them it took, and whether a stop string ended it."""
        parts: list[str] = []
        for count, token in enumerate(tokens, 1):
            text, stopped = self._push(token), False
            if self._stops is not None:
                ignored = self._produced + count <= self._min_tokens
                text, stopped = self._stops.push(text, ignored=ignored)
            parts.append(text)
            if stopped:
                return "".join(parts), count, True
        return "".join(parts), len(tokens), False
