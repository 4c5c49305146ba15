"""The proof that a structure can't hurt the engine: it is compiled and stepped through first, in a
process that may be killed.

A grammar's masks are computed in the engine's own process, between two steps, for everybody. What
takes seconds there stops all requests and can't be aborted, and a crash of xgrammar ends the
engine. The process is started for the first structure (two seconds, 260 MB of which most are
shared libraries), as most servers never see one; it tries one grammar after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cachetools import LRUCache

from engine.base import EngineBusyError, EngineGenerateError, InvalidPromptError, Structure
from engine.structure import check_structure

MAX_WAITING: Final = 64
MAX_VERDICTS: Final = 4096
MEMORY_BYTES: Final = 1 << 30
# Of the engine's time, for each token. Ordinary schemas take a tenth to one millisecond, but the
# end of a string of limited length up to 25.
STEP_S: Final = 0.2
# How much longer than its CPU time a trial may last on a busy machine.
WALL_FACTOR: Final = 4.0
START_S: Final = 60.0
# For the trials before it; what is left of them is refused with "try again".
PATIENCE_S: Final = 20.0
RETRY_S: Final = 2.0
_CRASHES: Final = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT)
_PROGRAM: Final = Path(__file__).with_name("grammar_trial.py")
_BUSY: Final = "Too many new schemas are being compiled; try again in a moment."


class GrammarChecker:
    """Remembers its verdicts. Belongs to one event loop.

    `vocabulary` gives xgrammar's TokenizerInfo as JSON; it is called once, in a thread. `cpu_s` is
    the CPU time one grammar may take to compile and try; `compact`: without optional whitespace.
    """

    def __init__(self, vocabulary: Callable[[], str], *, cpu_s: float, compact: bool) -> None:
        self._vocabulary = vocabulary
        self._cpu_s = cpu_s
        self._wall_s = cpu_s * WALL_FACTOR
        self._compact = compact
        self._settings: bytes | None = None
        # None: it can be used; else why not.
        self._verdicts: LRUCache[bytes, str | None] = LRUCache(MAX_VERDICTS)
        self._trials: dict[bytes, _Trial] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._closed = False

    async def check(self, structure: Structure) -> None:
        """Return where a request may have this structure.

        Raises InvalidPromptError where it may not, EngineBusyError where too many others are being
        tried or it took too long to get to it, EngineGenerateError where nothing can be tried.
        """
        if structure.kind == "json_object":
            return  # Nothing in it is the client's.
        key = hashlib.sha256(
            f"{structure.kind}\n{structure.text}".encode(errors="surrogatepass")
        ).digest()
        if key not in self._verdicts:
            check_structure(structure)
            await self._join(key, structure)
        reason = self._verdicts[key]
        if reason is not None:
            raise InvalidPromptError(f"Invalid schema: {reason}.", structure.param)

    async def close(self) -> None:
        """Idempotent. Whoever waits is told EngineBusyError."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._stop()

    async def _join(self, key: bytes, structure: Structure) -> None:
        """Wait for the one trial of this structure, whoever asked for it first."""
        trial = self._trials.get(key)
        if trial is None:
            if self._closed or len(self._trials) >= MAX_WAITING:
                raise EngineBusyError(_BUSY, RETRY_S)
            task = asyncio.create_task(self._decide(key, structure))
            self._tasks.add(task)
            task.add_done_callback(self._over)
            trial = self._trials[key] = _Trial(task)
        trial.waiters += 1
        try:
            async with asyncio.timeout(self._wall_s + PATIENCE_S):
                await asyncio.wait([trial.task])
        except TimeoutError:
            raise EngineBusyError(_BUSY, RETRY_S) from None
        finally:
            trial.waiters -= 1
            if not trial.waiters:
                del self._trials[key]
                if not trial.running:
                    trial.task.cancel()
        if trial.task.cancelled():
            raise EngineBusyError(_BUSY, RETRY_S)
        trial.task.result()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Looked at here, as nobody else may be left to.

    async def _decide(self, key: bytes, structure: Structure) -> None:
        async with self._turn:
            # From here on it is brought to its end: others may ask the same.
            self._trials[key].running = True
            if key not in self._verdicts:
                self._verdicts[key] = await self._try(structure)

    async def _try(self, structure: Structure) -> str | None:
        answered = False
        try:
            process = await self._running()
            line = json.dumps([structure.kind, structure.text]).encode() + b"\n"
            answer = await asyncio.wait_for(_exchange(process, line), self._wall_s + 1.0)
            answered = answer is not None
        except TimeoutError:
            answer = None
        finally:
            if not answered:
                await self._stop()
        if answer is None:
            raise EngineBusyError(_BUSY, RETRY_S)
        return self._verdict(answer)

    def _verdict(self, answer: dict[str, Any]) -> str | None:
        """Raises EngineBusyError where the answer says nothing about the grammar."""
        if "ended" not in answer:
            refused: str | None = answer.get("refused")
            return refused
        if answer["ended"] == -signal.SIGPROF:
            return f"it takes longer than {self._cpu_s:g} s to compile; simplify it"
        if answer["ended"] in _CRASHES:
            return "it can't be compiled: it nests too deeply or needs too much memory"
        raise EngineBusyError(_BUSY, RETRY_S)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self._stop()
        if self._settings is None:
            self._settings = await asyncio.to_thread(self._setup)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Or the engine's modules would hide others of the same names.
            "-P",
            "-W",
            "ignore",
            str(_PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        ready = await asyncio.wait_for(_exchange(self._process, self._settings), START_S)
        if ready is None:
            raise EngineGenerateError("The process that tries grammars out doesn't start.")
        return self._process

    def _setup(self) -> bytes:
        settings = {
            "vocabulary": self._vocabulary(),
            "compact": self._compact,
            "step_s": STEP_S,
            "cpu_s": self._cpu_s,
            "wall_s": self._wall_s,
            "memory_bytes": MEMORY_BYTES,
        }
        return json.dumps(settings).encode() + b"\n"

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the trial that may be running
        # Closes the pipes as well, once both have been read to their end.
        await asyncio.shield(process.communicate())


class _Trial:
    """One structure that is being tried, and how many requests wait for the result."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.waiters = 0
        self.running = False


async def _exchange(process: asyncio.subprocess.Process, line: bytes) -> dict[str, Any] | None:
    """The answer to one line; None where the process has ended instead."""
    if process.stdin is None or process.stdout is None:
        return None
    try:
        process.stdin.write(line)
        await process.stdin.drain()
        answer = await process.stdout.readline()
    except ConnectionError:
        return None
    return dict(json.loads(answer)) if answer.endswith(b"\n") else None
