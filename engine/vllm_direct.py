"""The direct token path: from the engine core's socket to the sinks, one pass for each step.

`AsyncLLM.generate` wakes a task and makes several objects for every token of every request. Here
one loop reads a step's outputs, keeps their tokens, and tells a request's sink once that there are
some; they become text when they are taken. What of vLLM's internals that takes is checked by
`vllm_shape` at the start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
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
from engine.vllm_stats import StepStats, hide_request_series
from engine.vllm_text import detokenizers

logger = logging.getLogger(__name__)

# By vLLM's `FinishReason`. Nobody here asks for an abort and still listens.
_STOP: Final = 0
_FINISH: Final[dict[int, FinishReason]] = {0: "stop", 1: "length", 4: "stop"}
_BROKEN: Final[dict[int | None, str]] = {
    2: "The engine aborted this request.",
    3: "The engine gave this request up after an internal error.",
}
# So many steps are taken together when the loop is behind, before others get their turn.
_MAX_STEPS: Final = 16
_RECORD_EVERY_S: Final = 0.25


async def open_path(llm: Any, meter: Meter, steps: StepStats) -> DirectPath:
    """Take over an `AsyncLLM` that has had no request yet, in the event loop that will serve it."""
    path = DirectPath(llm, meter, steps)
    path.requests = CoreRequests(llm, await llm.get_supported_tasks())
    return path


class DirectPath:
    """Implements `vllm_engine.TokenPath`; made by `open_path`."""

    requests: CoreRequests

    def __init__(self, llm: Any, meter: Meter, steps: StepStats) -> None:
        self._meter = meter
        self._steps = steps
        self._record = llm.logger_manager.record
        self._record_at = 0.0
        self._client = llm.engine_core
        self._sending: Any = zmq.Socket.shadow(self._client.input_socket.underlying)
        self._reading_socket: Any = zmq.Socket.shadow(
            self._client.resources.output_socket.underlying
        )
        self._failure: asyncio.Future[None]
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
                submission.sequences.append(sequence)
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
            # From here on the request's submission alone holds its sequences.
            del self._live.pop(request_id).submission
        self._meter.leave(len(request_ids))

    async def _read(self) -> None:
        """Read until the engine has died or this task is cancelled, which is vLLM's way to say so.

        Not by pyzmq's awaitable socket: for a single token it costs more than all the rest.
        """
        loop = asyncio.get_running_loop()
        failure = self._failure = loop.create_future()
        descriptor = self._reading_socket.getsockopt(zmq.FD)
        loop.add_reader(descriptor, self._take_all)
        self._take_all()
        try:
            await failure
        except (asyncio.CancelledError, VLLMDeadError):
            pass
        except Exception:
            logger.exception("the engine's outputs can't be read any more")
            self._client.resources.engine_dead = True
        finally:
            self._fail_all()
            with suppress(RuntimeError):  # the descriptor may be another one's already
                loop.remove_reader(descriptor)

    def _take_all(self) -> None:
        """Take every message there is: steps that ended meanwhile belong to the same pass.

        ZeroMQ tells of messages once: whoever leaves one has to come back by himself.
        """
        reading = self._reading_socket
        try:
            for _ in range(_MAX_STEPS):
                if not reading.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    return
                self._take(reading.recv_multipart(zmq.NOBLOCK, copy=False))
            asyncio.get_running_loop().call_soon(self._take_all)
        except Exception as error:
            if not self._failure.done():
                self._failure.set_exception(error)

    def _take(self, frames: Any) -> None:
        """One message of the engine core: a step's outputs, its figures, or a call's answer."""
        self._client.resources.validate_alive(frames)
        outputs = self._client.decoder.decode(frames)
        if outputs.utility_output is not None:
            _process_utility_output(outputs.utility_output, self._client.utility_results)
        if outputs.outputs:
            self._take_tokens(outputs.outputs)
        elif outputs.scheduler_stats is not None:
            self._meter.step(0, 0)  # a part of a long prompt
        if outputs.scheduler_stats is not None:
            self._note(outputs.engine_index, outputs.scheduler_stats)

    def _note(self, engine_index: int, stats: Any) -> None:
        """Keep a step's figures. vLLM's own series get them a few times a second: that costs as
        much as hundreds of tokens do. What they sum up they get whenever there is some."""
        self._steps.note(engine_index, stats)
        now = time.monotonic()
        sums = stats.prefix_cache_stats.requests or stats.spec_decoding_stats
        if sums or now >= self._record_at or not self._live:
            self._record_at = now + _RECORD_EVERY_S
            self._record(scheduler_stats=stats, iteration_stats=None, engine_idx=engine_index)

    def _take_tokens(self, outputs: Sequence[Any]) -> None:
        find = self._live.get
        prompt_tokens = tokens = 0
        ended: list[tuple[Any, _Sequence, _Submission]] = []
        for output in outputs:
            sequence = find(output.request_id)
            if sequence is None:  # aborted meanwhile
                continue
            if output.prefill_stats is not None:
                prompt_tokens += sequence.prefilled(output.prefill_stats)
            new = output.new_token_ids
            if output.finish_reason is not None or sequence.stops is not None:
                try:
                    new = sequence.check(new, output.finish_reason)
                except Exception:
                    logger.exception("request %s is given up", output.request_id)
                    sequence.broken = "The answer could not be decoded."
                if sequence.over:
                    ended.append((output, sequence, sequence.submission))
            # Texts are looked up when they are taken, those of several steps together.
            sequence.tokens += new
            tokens += len(new)
            submission = sequence.submission
            if not submission.told and (new or sequence.just_finished):
                submission.told = True
                submission.tell(submission.sink.ready)
        self._meter.step(prompt_tokens, tokens)
        self._end(ended)

    def _end(self, ended: Sequence[tuple[Any, _Sequence, _Submission]]) -> None:
        """These sequences are over: by the engine core's word, or by a stop string."""
        stopped: list[str] = []
        for output, sequence, submission in ended:
            if output.request_id not in submission.live:
                continue
            if sequence.broken is not None:
                submission.failed(EngineGenerateError(sequence.broken))
                continue
            del submission.live[output.request_id]
            self._forget((output.request_id,))
            if output.finish_reason is None:
                stopped.append(output.request_id)
            if not submission.live:
                submission.tell(submission.sink.finished)
        if stopped:
            self._free(stopped)

    def _fail_all(self) -> None:
        for waiting in self._client.utility_results.values():
            if not waiting.done():
                waiting.set_exception(VLLMDeadError())
        for submission in {sequence.submission for sequence in self._live.values()}:
            submission.failed(EngineDeadError("The engine stopped while this request was running."))


class _Submission:
    """One request: its choices, and those of them that are unfinished."""

    __slots__ = ("_path", "live", "sequences", "sink", "told")

    def __init__(self, path: DirectPath, sink: Sink) -> None:
        self._path = path
        self.sink = sink
        self.told = False
        self.sequences: list[_Sequence] = []
        self.live: dict[str, _Sequence] = {}

    def take(self) -> Sequence[TokenDelta]:
        self.told = False
        return [s.take() for s in self.sequences if s.tokens or s.just_finished]

    def abort(self) -> None:
        if self.live:
            request_ids = list(self.live)
            self.live.clear()
            self._path.abort(request_ids)

    def failed(self, error: EngineError) -> None:
        self.abort()
        self.tell(partial(self.sink.failed, error))

    def tell(self, call: Callable[[], None]) -> None:
        """Call the sink; what it raises is its own request's end, and nobody else's."""
        try:
            call()
        except Exception:
            logger.exception("a request's sink failed")
            self.abort()


class _Sequence:
    """One choice: collects its tokens, and makes them text when they are taken."""

    __slots__ = (
        "_cached",
        "_checked",
        "_finish",
        "_index",
        "_min_tokens",
        "_prefilled",
        "_produced",
        "_silent",
        "_text",
        "broken",
        "just_finished",
        "stops",
        "submission",
        "tokens",
    )

    def __init__(
        self, index: int, submission: _Submission, request: GenerateRequest, text: Detokenizer
    ) -> None:
        self.submission = submission
        self.tokens: list[int] = []
        self.stops = StopStrings(request.sampling.stop) if request.sampling.stop else None
        self.broken: str | None = None
        self._index = index
        self._text = text
        self._min_tokens = request.sampling.min_tokens
        self._produced = 0
        # Of a choice with stop strings, what may be told of the tokens that aren't taken yet.
        self._checked = ""
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

    def check(self, tokens: Sequence[int], reason: int | None) -> Sequence[int]:
        """See whether `tokens` end the choice; returns those of them that belong to it."""
        if reason in _BROKEN:
            self.broken = _BROKEN[reason]
            return ()
        # The token that ended the sequence, an end of sequence or a stop token, is not text.
        self._silent = 1 if reason == _STOP and tokens else 0
        if reason is not None:
            self._finish = _FINISH[reason]
        if self.stops is not None:
            tokens = self._search(tokens, self.stops)
        self.just_finished = self._finish is not None
        return tokens

    def take(self) -> TokenDelta:
        tokens = self.tokens
        if self.stops is not None:
            text, self._checked = self._checked, ""
        else:
            spoken = tokens[: len(tokens) - self._silent] if self._silent else tokens
            text = self._text.extend(spoken)
        self.tokens = []
        self.just_finished = False
        return TokenDelta(self._index, text, tokens, self._finish, self._cached)

    def _search(self, tokens: Sequence[int], stops: StopStrings) -> Sequence[int]:
        """Let the text of `tokens` through, up to a stop string."""
        for count, token in enumerate(tokens[: len(tokens) - self._silent], 1):
            self._produced += 1
            ignored = self._produced <= self._min_tokens
            text, stopped = stops.push(self._text.push(token), ignored=ignored)
            self._checked += text
            if stopped:
                self._finish = "stop"
                return tokens[:count]
        if self._finish is not None:
            self._checked += stops.rest()
        return tokens
