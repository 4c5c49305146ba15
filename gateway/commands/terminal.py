"""What `gateway chat` shows: prompts, progress and figures on stderr, answers on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine.base import EngineInfo, StartPhase

if TYPE_CHECKING:
    from gateway.commands.conversation import Turn

HELP = """\
  /reset   forget the conversation so far
  /stats   totals of this session
  /help    this list
  /quit    leave (also Ctrl-D)
  Ctrl-C   stop the answer; at the prompt: leave"""


class Screen:
    """Quiet text on stderr, styled where that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)

    def error(self, text: str) -> None:
        self._console.print(f"error: {text}", style="red", markup=False)

    def read_prompt(self) -> str:
        """One line typed by a person. Raises EOFError, KeyboardInterrupt."""
        # With readline, not echoed by us: its editing and history, and its idea of the width.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        if sys.stdout.isatty():
            styled = self._console.color_system is not None and not self._console.no_color
            return input("\001\x1b[1m\002>\001\x1b[0m\002 " if styled else "> ")
        self._console.print("> ", end="")
        return input()

    @contextlib.contextmanager
    def starting(self, name: str) -> Iterator[Callable[[StartPhase | str], None]]:
        """A spinner while a model loads; yields where the engine reports its progress."""
        columns = (SpinnerColumn(), TextColumn("[dim]{task.description}"), TimeElapsedColumn())
        with Progress(
            *columns,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as progress:
            task = progress.add_task(f"Loading {name}", total=None)

            def report(what: StartPhase | str) -> None:
                if isinstance(what, str):
                    progress.update(task, description=f"Loading {name}: {what}")

            yield report


class AnswerOutput:
    """Answers on stdout: as they come, or with `as_json` one object a turn."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._terminal = sys.stdout.isatty()

    def piece(self, text: str) -> None:
        if self._json:
            return
        sys.stdout.write(harmless(text) if self._terminal else text)
        sys.stdout.flush()

    def end(self, turn: Turn) -> None:
        """Finish the turn's output; no answer leaves nothing behind."""
        if self._json:
            sys.stdout.write(json.dumps(as_record(turn), ensure_ascii=False) + "\n")
        elif turn.text and not turn.text.endswith("\n"):
            sys.stdout.write("\n")
        sys.stdout.flush()


def harmless(text: str) -> str:
    """`text` without the control characters that would steer a terminal."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def ready_line(info: EngineInfo, name: str, phases: Sequence[StartPhase], seconds: float) -> str:
    """What was loaded, and how long it took."""
    kind = f"{info.dtype} {info.quantization}" if info.quantization else info.dtype
    spent: dict[str, float] = {}
    for phase in phases:
        # "warm-up 32x128" and its like are one part.
        part = phase.name.split()[0]
        spent[part] = spent.get(part, 0.0) + phase.seconds
    parts = [f"{part} {took:.1f} s" for part, took in spent.items() if took >= 0.05]
    detail = f": {', '.join(parts)}" if parts else ""
    return (
        f"{name} · {kind} on {info.device} · context {info.max_model_len:,} tokens · "
        f"ready in {seconds:.1f} s{detail}"
    )


def performance_line(turn: Turn) -> str:
    """One turn's figures; what is not known is left out."""
    parts = []
    if turn.prompt_tokens is not None and turn.completion_tokens is not None:
        cached = f" ({turn.cached_tokens} cached)" if turn.cached_tokens else ""
        parts.append(
            f"{turn.prompt_tokens} prompt{cached} + {turn.completion_tokens} answer tokens"
        )
    else:
        parts.append("token counts not reported")
    if turn.first_token_s is not None:
        parts.append(f"first token {turn.first_token_s:.3f} s")
    if turn.tokens_per_second is not None:
        parts.append(f"{turn.tokens_per_second:.1f} tokens/s")
    if turn.total_tokens_per_second is not None:
        parts.append(f"{turn.total_tokens_per_second:.1f} tokens/s in total")
    parts.append(f"{turn.elapsed_s:.2f} s")
    return " · ".join(parts)


def as_record(turn: Turn) -> dict[str, Any]:
    """One turn for machines; times in seconds, null where unknown."""
    return {
        "answer": turn.text,
        "finish_reason": turn.finish_reason,
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
        "cached_tokens": turn.cached_tokens,
        "time_to_first_token_s": _rounded(turn.first_token_s),
        "tokens_per_second": _rounded(turn.tokens_per_second),
        "total_tokens_per_second": _rounded(turn.total_tokens_per_second),
        "elapsed_s": _rounded(turn.elapsed_s),
    }


def summary_line(turns: Iterable[Turn]) -> str:
    """Totals of a session; empty where nothing was asked."""
    made = list(turns)
    if not made:
        return ""
    prompt = sum(turn.prompt_tokens or 0 for turn in made)
    answer = sum(turn.completion_tokens or 0 for turn in made)
    seconds = sum(turn.elapsed_s for turn in made)
    rate = f" · {(prompt + answer) / seconds:.1f} tokens/s in total" if seconds > 0 else ""
    turns_text = "1 turn" if len(made) == 1 else f"{len(made)} turns"
    return f"{turns_text} · {prompt} prompt + {answer} answer tokens · {seconds:.2f} s{rate}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


@dataclass(slots=True)
class HeldOutput:
    """A file with what libraries and engine processes wrote."""

    path: str

    def tail(self, lines: int = 15) -> str:
        with open(self.path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:]).rstrip()

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)


@contextlib.contextmanager
def descriptors_held() -> Iterator[HeldOutput]:
    """Within, everything written to descriptors 1 and 2 goes to a file; Python's own stdout and
    stderr still reach the user.

    Processes started within keep writing there, so an engine can't write over an answer.
    """
    fd, path = tempfile.mkstemp(prefix="gateway-chat-", suffix=".log")
    saved = [os.dup(1), os.dup(2)]
    streams = sys.stdout, sys.stderr
    for stream in streams:
        stream.flush()
    own = [os.fdopen(os.dup(n), "w", encoding="utf-8", errors="replace") for n in saved]
    try:
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        sys.stdout, sys.stderr = own
        yield HeldOutput(path)
    finally:
        sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for stream in own:
            stream.close()
        os.close(fd)
