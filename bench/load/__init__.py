"""Loads a server with many streams from one thread, and reads the answers afterwards.

`run` sends requests and gives a `Result`, `run_aside` does so beside an event loop; each
`Outcome` in it knows its timing, its answer and what is wrong with that.
"""

from bench.load.answer import Answer, Expected, UnreadableAnswerError
from bench.load.aside import run_aside
from bench.load.generator import Result, run
from bench.load.outcome import Outcome, Request, Timing
from bench.load.urls import key_of, without_key

__all__ = [
    "Answer",
    "Expected",
    "Outcome",
    "Request",
    "Result",
    "Timing",
    "UnreadableAnswerError",
    "key_of",
    "run",
    "run_aside",
    "without_key",
]
