"""One run of `gateway chat`: open a model, ask it, show the figures, leave in order.

Every turn is its own `Runner.run`, so that Ctrl-C cancels that turn alone: the cancellation
closes the answer's generator, and that aborts the request inside the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType

from gateway.commands import Exit
from gateway.commands.conversation import (
    AnswerError,
    AnswerOptions,
    Conversation,
    Model,
    Turn,
)
from gateway.commands.terminal import (
    HELP,
    AnswerOutput,
    Screen,
    performance_line,
    summary_line,
)

OpenModel = Callable[[Screen], Awaitable[Model]]
_CLOSE_S = 30.0


def hold(
    open_model: OpenModel,
    options: AnswerOptions,
    system: str | None,
    prompts: Iterable[str] | None,
    *,
    as_json: bool,
) -> int:
    """Chat until the prompts are used up, or with None until the person leaves.

    Returns the exit code.
    """
    screen = Screen()
    with asyncio.Runner() as runner, _termination() as ended:
        try:
            model = runner.run(_opened(open_model, screen))
        except AnswerError as error:
            screen.error(str(error))
            return Exit.FAILED
        except KeyboardInterrupt:
            return ended.code or Exit.INTERRUPTED
        output = AnswerOutput(as_json=as_json)
        conversation = Conversation(model, options, system)
        session = _Session(runner, screen, output, conversation, ended, spaced=prompts is None)
        try:
            code = session.converse() if prompts is None else session.answer_all(prompts)
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        finally:
            # A second Ctrl-C must not leave the engine's processes behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            runner.run(_closed(model))
        return ended.code or code


async def _opened(open_model: OpenModel, screen: Screen) -> Model:
    return await open_model(screen)


async def _closed(model: Model) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(model.close(), _CLOSE_S)


@dataclass(slots=True)
class _Ended:
    """By which signal we were told to end; its exit code, or 0."""

    code: int = 0


@contextlib.contextmanager
def _termination() -> Iterator[_Ended]:
    """SIGTERM and SIGHUP interrupt like Ctrl-C, so that the engine is closed, and then end."""
    ended = _Ended()

    def received(signum: int, _frame: FrameType | None) -> None:
        ended.code = 128 + signum
        signal.raise_signal(signal.SIGINT)

    interrupt = signal.getsignal(signal.SIGINT)
    before = {number: signal.signal(number, received) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield ended
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
        signal.signal(signal.SIGINT, interrupt)


@dataclass(slots=True)
class _Session:
    runner: asyncio.Runner
    screen: Screen
    output: AnswerOutput
    conversation: Conversation
    ended: _Ended
    spaced: bool

    def answer_all(self, prompts: Iterable[str]) -> Exit:
        """One turn for each prompt; the first that fails ends it."""
        for prompt in prompts:
            try:
                self._turn(prompt)
            except AnswerError as error:
                self.screen.error(str(error))
                return Exit.FAILED
        if len(self.conversation.turns) > 1:
            self.screen.note(summary_line(self.conversation.turns))
        return Exit.OK

    def converse(self) -> Exit:
        """Turns as long as a person types them."""
        self.screen.note("Type a message. /help lists the commands, Ctrl-D leaves.\n")
        code = Exit.OK
        while (text := self._read()) is not None:
            try:
                if text.startswith("/"):
                    if not self._command(text):
                        break
                elif text:
                    self._turn(text)
            except KeyboardInterrupt:
                if self.ended.code:
                    break
            except AnswerError as error:
                self.screen.error(str(error))
                if error.fatal:
                    code = Exit.FAILED
                    break
        self.screen.note(summary_line(self.conversation.turns))
        return code

    def _read(self) -> str | None:
        """What was typed; None to leave."""
        try:
            return self.screen.read_prompt().strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return None

    def _command(self, text: str) -> bool:
        """False to leave."""
        match text.split()[0]:
            case "/quit" | "/exit":
                return False
            case "/reset":
                self.conversation.reset()
                self.screen.note("The conversation starts over.")
            case "/stats":
                self.screen.note(summary_line(self.conversation.turns) or "Nothing asked yet.")
            case "/help":
                self.screen.note(HELP)
            case unknown:
                self.screen.note(f"{unknown} is no command.\n{HELP}")
        return True

    def _turn(self, text: str) -> None:
        """Ask, show, and close with the figures, also where the answer was cut short."""
        turns = self.conversation.turns
        before = len(turns)
        try:
            self.runner.run(self.conversation.ask(text, self.output.piece))
        finally:
            if len(turns) > before:
                self._close_turn(turns[-1])

    def _close_turn(self, turn: Turn) -> None:
        self.output.end(turn)
        remarks = []
        if turn.forgotten:
            exchanges = "exchange" if turn.forgotten == 1 else f"{turn.forgotten} exchanges"
            remarks.append(f"The oldest {exchanges} no longer fitted the context: forgotten.")
        if turn.finish_reason is None:
            remarks.append("Stopped.")
        elif turn.finish_reason == "length":
            remarks.append("Cut off: as long as --max-tokens or the context allows.")
        elif not turn.text:
            remarks.append("The model said nothing.")
        for remark in remarks:
            self.screen.note(remark)
        self.screen.note(performance_line(turn))
        if self.spaced:
            self.screen.note("")
