"""How many threads an engine computes with on a CPU that others use as well."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from engine.cpu_threads import Books, SharedCpu, read_books

STEP_S = 0.1


class Machine:
    """Eight cores, or as many as are said, of which others want some; what the kernel says of
    them to an engine that has nothing but steps to do."""

    def __init__(self, cores: int = 8) -> None:
        self.cores = cores
        self.others = 0.0
        self.threads = cores
        self.raised_at: list[float] = []
        self.now = self.idle = 0.0
        self.waited = {"main": 0.0}
        self.cpu = SharedCpu(cores, self.apply, self.books, lambda: self.now)

    def apply(self, threads: int) -> None:
        if threads > self.threads:
            self.raised_at.append(self.now)
        self.threads = threads

    def books(self) -> Books:
        return Books(self.now, dict(self.waited), self.idle)

    def run(self, seconds: float, *, pause: float = 0.0) -> None:
        end = self.now + seconds
        while self.now < end:
            with self.cpu.step():
                free = self.cores - self.others - self.threads
                self.waited["main"] += max(0.0, -free) * STEP_S
                self.idle += max(0.0, free) * STEP_S
                self.now += STEP_S
            self.now += pause


@pytest.mark.parametrize(
    ("cores", "others", "threads"),
    [
        pytest.param(8, 0.0, 8, id="an engine by itself uses every core"),
        pytest.param(8, 1.0, 7, id="a core that another program takes is left to it"),
        pytest.param(8, 5.0, 3, id="several cores are"),
        pytest.param(2, 0.2, 2, id="a fifth of a core costs no thread"),
        pytest.param(2, 16.0, 1, id="one thread is left however busy the machine is"),
    ],
)
def test_an_engine_has_as_many_threads_as_find_a_core(
    cores: int, others: float, threads: int
) -> None:
    machine = Machine(cores)
    machine.others = others
    machine.run(60)
    assert machine.threads == threads


def test_cores_are_taken_again_when_the_others_have_ended() -> None:
    machine = Machine()
    machine.others = 5.0
    machine.run(5)
    machine.others = 0.0
    machine.run(5)
    assert machine.threads == 8


def test_a_thread_that_was_taken_in_vain_is_tried_again_later_each_time() -> None:
    machine = Machine(cores=2)
    for _ in range(1200):
        machine.others = 0.2 if machine.threads == 1 else 0.9
        machine.run(STEP_S)
    gaps = [b - a for a, b in zip(machine.raised_at, machine.raised_at[1:], strict=False)]
    assert len(gaps) >= 4
    assert gaps == sorted(gaps)
    assert gaps[-1] > 3 * gaps[0]


def test_what_happens_between_the_engines_steps_is_not_judged() -> None:
    machine = Machine()
    machine.others = 5.0
    machine.run(60, pause=1.0)
    assert machine.threads == 8


def test_after_a_pause_an_engine_begins_anew_with_every_core() -> None:
    machine = Machine()
    machine.others = 5.0
    machine.run(1)
    assert machine.threads == 3
    machine.now += 10.0
    machine.run(STEP_S)
    assert machine.threads == 8


@pytest.mark.parametrize("error", [FileNotFoundError, ValueError, IndexError])
def test_threads_stay_as_they_are_where_the_kernel_keeps_no_such_books(
    error: type[Exception],
) -> None:
    def none() -> Books:
        raise error

    set_to: list[int] = []
    cpu = SharedCpu(4, set_to.append, none)
    for _ in range(3):
        with cpu.step():
            pass
    assert set_to == []


def test_a_thread_that_has_ended_takes_what_it_waited_with_it() -> None:
    machine = Machine()
    machine.waited["ended"] = 50.0
    machine.run(1)
    del machine.waited["ended"]
    machine.run(5)
    assert machine.threads == 8


def test_the_kernel_tells_of_threads_that_find_no_core() -> None:
    cores = len(os.sched_getaffinity(0))
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)  # without the interpreter's lock

    threads = [threading.Thread(target=compute) for _ in range(2 * cores)]
    before = now = read_books()
    for thread in threads:
        thread.start()
    try:
        while sum(now.waited.values()) - sum(before.waited.values()) < 0.2:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
            now = read_books()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert 0 <= now.idle - before.idle <= cores * (now.at - before.at) + 0.1
