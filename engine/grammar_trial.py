"""Tries grammars out, each in a process of its own: `engine.grammar` runs this file.

Reads one line of settings, then one line for each grammar, and answers each with a line; all are
JSON. A trial is a fork, so that what hangs, grows or crashes costs no new start; how it ended is
then the answer. This process ends with its input, so with the program that started it, a trial at
the latest when its time is up. Imports nothing of the engine, which would take seconds more.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import xgrammar

# A thread of the engine has as much at least; what fits here can't overflow there.
STACK_BYTES = 1 << 20
WALKS, STEPS = 3, 64
# Every so often a walk takes a token that ends what it is in, or it would never leave a string.
CLOSE_EVERY = 4
CLOSING = ('"', "}", "]", ",", ":")


class Refusal(Exception):  # noqa: N818
    """Why a grammar can't be used."""


class Trial:
    """Compiles and steps through grammars as the engine will."""

    def __init__(self, settings: dict[str, Any]) -> None:
        vocabulary = xgrammar.TokenizerInfo.deserialize_json(settings["vocabulary"])
        # A second thread would only make a CPU's time pass twice as fast.
        self._compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1, cache_enabled=False)
        self._mask = xgrammar.allocate_token_bitmask(1, vocabulary.vocab_size)
        self._size: int = vocabulary.vocab_size
        self._stops = list(vocabulary.stop_token_ids)
        self._compact: bool = settings["compact"]
        self._step_s: float = settings["step_s"]
        self._closing = np.zeros(self._size, dtype=bool)
        for token, text in enumerate(vocabulary.decoded_vocab):
            self._closing[token] = text.decode("latin-1").startswith(CLOSING)

    def attempt(self, kind: str, text: str) -> None:
        """Raises Refusal; RuntimeError and MemoryError as xgrammar does."""
        if kind == "json_schema":
            compiled = self._compiler.compile_json_schema(
                text,
                any_whitespace=not self._compact,
                separators=(",", ":") if self._compact else None,
            )
        else:
            compiled = self._compiler.compile_structural_tag(text)
        for seed in range(WALKS):
            self._walk(compiled, random.Random(seed), may_be_empty=kind != "json_schema")

    def _walk(self, compiled: Any, chance: random.Random, *, may_be_empty: bool) -> None:
        matcher = xgrammar.GrammarMatcher(compiled, override_stop_tokens=self._stops)
        for step in range(STEPS):
            begun = time.thread_time()
            matcher.fill_next_token_bitmask(self._mask, 0)
            spent = time.thread_time() - begun
            token = self._choose(chance, step)
            if token is None:
                if matcher.is_completed():
                    if step == 0 and not may_be_empty:
                        raise Refusal("no JSON at all satisfies it")
                    return
                raise Refusal("nothing satisfies it: it comes to a point where no text fits")
            begun = time.thread_time()
            matcher.accept_token(token)
            spent += time.thread_time() - begun
            if spent > self._step_s:
                raise Refusal(
                    "it is too ambiguous: finding what may come next takes "
                    f"{spent * 1000:.0f} ms, {self._step_s * 1000:.0f} ms are allowed"
                )

    def _choose(self, chance: random.Random, step: int) -> int | None:
        """An allowed token that doesn't end the text, or None where there is none."""
        bits = np.unpackbits(self._mask.numpy().view(np.uint8), bitorder="little")[: self._size]
        allowed = bits.astype(bool)
        allowed[self._stops] = False
        closing = allowed & self._closing
        if step % CLOSE_EVERY == CLOSE_EVERY - 1 and closing.any():
            allowed = closing
        tokens = np.flatnonzero(allowed)
        return int(tokens[chance.randrange(len(tokens))]) if len(tokens) else None


def main() -> None:
    # A terminal's Ctrl-C goes to every process; what it means is for the server to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.stdin.buffer.readline())
    trial = Trial(settings)
    threading.stack_size(STACK_BYTES)
    print("{}", flush=True)
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            # In a thread, as only there the size of the stack is known.
            attempt = threading.Thread(target=_attempt, args=(trial, line, settings))
            attempt.start()
            attempt.join()
            os._exit(1)
        _, status = os.waitpid(child, 0)
        if status != 0:
            print(json.dumps({"ended": os.waitstatus_to_exitcode(status)}), flush=True)


def _attempt(trial: Trial, line: bytes, settings: dict[str, Any]) -> None:
    """Answers and ends the process."""
    _limit_memory(settings["memory_bytes"])
    # Neither signal is caught: they end the process whatever it is doing.
    signal.setitimer(signal.ITIMER_PROF, settings["cpu_s"])
    signal.setitimer(signal.ITIMER_REAL, settings["wall_s"])
    answer = json.dumps(_answer(trial, settings, *json.loads(line)))
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(answer, flush=True)
    os._exit(0)


def _answer(trial: Trial, settings: dict[str, Any], kind: str, text: str) -> dict[str, str]:
    try:
        trial.attempt(kind, text)
    except Refusal as refusal:
        return {"refused": str(refusal)}
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error):
            limit = settings["memory_bytes"] >> 20
            return {"refused": f"it takes more than {limit} MiB of memory to compile; simplify it"}
        return {"refused": _said(str(error))}
    return {}


def _said(error: str) -> str:
    """xgrammar's message without the place in its source, and without the schema."""
    message = error.split("The JSON string is:")[0].strip()
    if message.startswith("["):
        message = message.partition("] ")[2].partition(": ")[2]
    return message.strip()[:300] or "xgrammar can't make a grammar of it"


def _limit_memory(more: int) -> None:
    status = Path("/proc/self/status").read_text()
    (used,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + more,) * 2)


if __name__ == "__main__":
    main()
