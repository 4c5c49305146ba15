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
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import zmq
from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.engine.core_client import _process_utility_output
from vllm.v1.engine.exceptions import EngineDeadError as VLLMDeadError

from engine.base import EngineDeadError, EngineGenerateError, GenerateRequest, Sink
from engine.choice import Choice
from engine.logprobs import Position
from engine.meter import Meter
from engine.submission import Sequences
from engine.vllm_adapters import Adapters
from engine.vllm_requests import CoreRequests
from engine.vllm_stats import StepStats, hide_request_series
from engine.vllm_text import detokenizers, spelling

logger = logging.getLogger(__name__)

# So many steps are taken together when the loop is behind, before others get their turn.
_MAX_STEPS: Final = 16
_RECORD_EVERY_S: Final = 0.25
# As numbers: an operation on pyzmq's flags costs as much as a token.
_READABLE: Final = int(zmq.POLLIN)
_LAST: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


async def open_path(llm: Any, meter: Meter, steps: StepStats, adapters: Adapters) -> DirectPath:
    """Take over an `AsyncLLM` that has had no request yet, in the event loop that will serve it."""
    path = DirectPath(llm, meter, steps)
    path.requests = CoreRequests(llm, await llm.get_supported_tasks(), adapters)
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
        self._unsent: list[Sequence[Any]] = []
        self._reading_socket: Any = zmq.Socket.shadow(
            self._client.resources.output_socket.underlying
        )
        self._failure: asyncio.Future[None]
        self._live: dict[str, _Choice] = {}
        self._detokenizer = detokenizers(llm)
        self._words = spelling(llm)
        hide_request_series()
        self._reading = asyncio.create_task(self._read(), name="engine outputs")
        # vLLM cancels this task when the engine's process has died, and starts no reader itself.
        self._client.resources.output_queue_task = self._reading

    def submit(self, request: GenerateRequest, room: int, sink: Sink) -> Sequences:
        """As `Engine.submit`; at most `room` tokens. Raises vLLM's exceptions."""
        submission = Sequences(request, sink, self.abort)
        n = request.sampling.n
        self._meter.enter(n)
        try:
            for index, core in enumerate(self.requests.of(request, room)):
                text = self._detokenizer(request)
                sequence = Choice(index, submission, request, text, self._words)
                submission.choices.append(sequence)
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

    def died(self) -> None:
        """The engine core is gone: take what it said last, then fail the rest."""
        self._take_all()
        self._end_reading(VLLMDeadError())

    async def close(self) -> None:
        """Stop reading; what is unfinished fails."""
        self._reading.cancel()
        await asyncio.wait([self._reading])

    def _send(self, kind: EngineCoreRequestType, payload: Any) -> None:
        """Encoded at once, as what can't be is its own request's error, and sent with everything
        else of this pass of the loop: waking ZeroMQ's thread for each costs as much as encoding
        several."""
        self._client.ensure_alive()
        frames = self._client.core_engine, kind.value, *self._client.encoder.encode(payload)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send_all)
        self._unsent.append(frames)

    def _send_all(self) -> None:
        unsent, self._unsent = self._unsent, []
        send = self._sending.send
        try:
            for *frames, last in unsent:
                for frame in frames:
                    send(frame, _MORE)
                send(last, _LAST)
        except Exception as error:
            self._end_reading(error)  # nothing can be asked of the engine any more

    def _free(self, request_ids: Sequence[str]) -> None:
        with suppress(VLLMDeadError):  # nothing is left to be freed
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
                if not reading.getsockopt(zmq.EVENTS) & _READABLE:
                    return
                self._take(reading.recv_multipart(zmq.NOBLOCK, copy=False))
            asyncio.get_running_loop().call_soon(self._take_all)
        except Exception as error:
            self._end_reading(error)

    def _end_reading(self, error: Exception) -> None:
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
        ended: list[tuple[Any, _Choice, Sequences]] = []
        for output in outputs:
            sequence = find(output.request_id)
            if sequence is None:  # aborted meanwhile
                continue
            if output.new_prompt_logprobs_tensors is not None:
                sequence.scored(_positions(output.new_prompt_logprobs_tensors))
            new = output.new_token_ids
            if output.finish_reason is not None or sequence.watched:
                try:
                    scores = _positions(output.new_logprobs)
                    new = sequence.check(new, output.finish_reason, scores)
                except Exception:
                    logger.exception("request %s is given up", output.request_id)
                    sequence.broken = "The answer could not be decoded."
                if sequence.over:
                    ended.append((output, sequence, sequence.submission))
            submission = sequence.submission
            if output.prefill_stats is not None:
                sequence.prefilled(output.prefill_stats.num_cached_tokens)
                if new:
                    prompt_tokens += submission.first_token()
            # Texts are looked up when they are taken, those of several steps together.
            sequence.tokens += new
            tokens += len(new)
            if not submission.told and (new or sequence.just_finished):
                submission.news()
        self._meter.step(prompt_tokens, tokens)
        self._end(ended)

    def _end(self, ended: Sequence[tuple[Any, _Choice, Sequences]]) -> None:
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


def _positions(scores: Any) -> Sequence[Position]:
    """vLLM's rows of tokens and of their log-probabilities, as pairs."""
    if scores is None:
        return ()
    rows = zip(scores.logprob_token_ids.tolist(), scores.logprobs.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in rows]


_Choice: TypeAlias = Choice[Sequences]
