"""Writes one response: whole, or as server-sent events.

Every event has a name, its `type`, and a `sequence_number` that counts from 0; no `[DONE]` follows
the last one. Source: the OpenAI API reference, "Streaming events".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.base import Prompt, TokenDelta
from gateway.answers import encode
from gateway.call import Usage
from gateway.errors import APIError
from gateway.message import Form, MessageReader
from gateway.responses import object as states
from gateway.responses.object import Response
from gateway.responses.output import Event, Output

_SPOKEN = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
    b'"sequence_number":%%d,"item_id":"%b","output_index":0,"content_index":0,"delta":%%b,'
    b'"logprobs":[]}\n\n'
)


class ResponseAnswer:
    """Implements `answers.Answer`.

    `opening` is the response before there is anything of it, `form` how its completion is to be
    read. `logprobs`: whether those of its text are told. `log`, where there is one, gets each event
    at the place of its number.
    """

    def __init__(
        self,
        opening: Response,
        form: Form,
        *,
        logprobs: bool = False,
        log: list[bytes] | None = None,
    ) -> None:
        self._opening = opening
        self._form = form
        self._output = Output(opening["id"], logprobs=logprobs)
        self._reader = MessageReader(form, Prompt(()))
        self._log = log
        # Where all there is is text: its events, made by one formatting each.
        self._simple = form.plain and not logprobs
        self._spoken: bytes | None = None
        self._sequence = 0
        self._started = False
        self._cut_short = False
        self._final: Response | None = None

    @property
    def final(self) -> Response | None:
        """The response as it ended; None while it goes on."""
        return self._final

    @property
    def announced(self) -> bool:
        """Whether an event has told the response's id."""
        return self._sequence > 0

    @property
    def reasoning_tokens(self) -> int:
        return self._reader.reasoning_tokens

    def begin(self, prompts: Sequence[Prompt]) -> None:
        (prompt,) = prompts
        self._reader = MessageReader(self._form, prompt)

    def whole(self, choices: Sequence[TokenDelta], usage: Usage) -> bytes:
        return encode(self.end(choices, usage))

    def events(self, delta: TokenDelta) -> bytes:
        if self._spoken is not None and delta.finish_reason is None:
            return self._say(self._spoken, delta.text)
        events = self.start() + self._written(self._read(delta))
        if self._simple and self._output.items:
            self._spoken = _SPOKEN % self._output.items[0]["id"].encode()
        return events

    def finished(self, usage: Usage) -> bytes:
        final = self.end((), usage)
        return self._written([_lifecycle(final["status"], final)])

    def failed(self, error: APIError, *, bare: bool = False) -> bytes:
        """`bare`: nothing of the output is told again, as in `fail`."""
        opening, final = self.start(), self.fail(error, bare=bare)
        told = {"code": error.code, "message": error.message, "param": error.param}
        return opening + self._written([{"type": "error", **told}, _lifecycle("failed", final)])

    def record(self, usage: Usage) -> bytes:
        return encode(self.end((), usage))

    def announce(self) -> bytes:
        """The first events, which tell of the response as it was asked for."""
        events = [_lifecycle("created", self._opening)]
        if self._opening["status"] == "queued":
            events.append(_lifecycle("queued", self._opening))
        return self._written(events)

    def start(self) -> bytes:
        """The events in front of those of the output, as far as they are still to come."""
        if self._started:
            return b""
        self._started = True
        announcement = b"" if self.announced else self.announce()
        self._opening = states.started(self._opening)
        return announcement + self._written([_lifecycle("in_progress", self._opening)])

    def end(self, rest: Sequence[TokenDelta], usage: Usage) -> Response:
        """The response, after `rest`, which no event is to tell."""
        for delta in rest:
            self._read(delta)
        if self._final is None:
            self._final = states.ended(
                self._opening,
                self._output.items,
                usage,
                reasoning_tokens=self._reader.reasoning_tokens,
                cut_short=self._cut_short,
            )
        return self._final

    def fail(self, error: APIError, *, bare: bool = False) -> Response:
        """The response, ended by `error`; `bare`: without its output."""
        self._final = states.failed(self._opening, error, () if bare else self._so_far())
        return self._final

    def cancel(self) -> Response:
        """The response, ended where it stands. There is no event for that."""
        self._final = states.cancelled(self._opening, self._so_far())
        return self._final

    def _so_far(self) -> Sequence[Mapping[str, Any]]:
        """The output as far as it has come; none where it is what can't be encoded: an end is told
        and stored whatever has led to it."""
        output = self._output.so_far()
        try:
            encode(output)
        except UnicodeEncodeError:
            return ()
        return output

    def _say(self, form: bytes, text: str) -> bytes:
        if not text:
            return b""
        self._output.say(text)
        event = form % (self._sequence, encode(text))
        self._sequence += 1
        if self._log is not None:
            self._log.append(event)
        return event

    def _read(self, delta: TokenDelta) -> list[Event]:
        events = self._output.add(self._reader.read(delta), delta.logprobs)
        if delta.finish_reason is None:
            return events
        self._cut_short = delta.finish_reason == "length"
        return events + self._output.finish("incomplete" if self._cut_short else "completed")

    def _written(self, events: Iterable[Event]) -> bytes:
        written = []
        for number, event in enumerate(events, self._sequence):
            numbered = {"type": event["type"], "sequence_number": number} | event
            written.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(numbered)))
        # Only now, as all of them could be encoded: those that are told are numbered without a gap.
        self._sequence += len(written)
        if self._log is not None:
            self._log += written
        return b"".join(written)


def _lifecycle(state: str, response: Response) -> Event:
    return {"type": f"response.{state}", "response": response}
