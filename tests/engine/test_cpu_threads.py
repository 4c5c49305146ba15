"""How many threads an engine computes with on a CPU that others use as well."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from engine.config import EngineConfig
from engine.cpu_threads import Books, SharedCpu, read_books
from engine.vllm_environment import engine_processes, threads_adapt

STEP_S = 0.1


class Machine:
    """So many cores, of which other programs want some; an engine's threads get what is left, or
    their share of all where that is more."""

    def __init__(self, cores: int = 8) -> None:
        self.cores = cores
        self.others = 0.0
        self.threads = cores
        self.now = self.idle = self.used = 0.0
        self.changes = 0
        self.cpu = SharedCpu(cores, self.apply, self.books, lambda: self.now)

    def apply(self, threads: int) -> None:
        self.threads = threads
        self.changes += 1

    def books(self) -> Books:
        return Books(self.now, self.idle, self.used)

    def step(self, tokens: int = 1, sequences: int = 1) -> int:
        """With how many threads it is computed."""
        self.cpu.step(tokens, sequences)
        free = max(0.0, self.cores - self.others)
        share = self.cores * self.threads / (self.threads + self.others)
        used = min(self.threads, max(free, share))
        self.used += used * STEP_S
        self.idle += max(0.0, self.cores - self.others - used) * STEP_S
        self.now += STEP_S
        return self.threads

    def run(self, seconds: float, *, pause: float = 0.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()
            self.idle += max(0.0, self.cores - self.others) * pause
            self.now += pause


@pytest.mark.parametrize("pause", [0.0, 0.3, 5.0])
@pytest.mark.parametrize(
    ("cores", "others", "threads"),
    [
        pytest.param(8, 0.0, 8, id="an engine by itself uses every core"),
        pytest.param(8, 1.0, 7, id="a core that another program takes is left to it"),
        pytest.param(8, 5.0, 3, id="several cores are"),
        pytest.param(2, 0.2, 2, id="a fifth of a core costs no thread"),
        pytest.param(2, 1.0, 1, id="one of two is left"),
        pytest.param(2, 16.0, 1, id="one thread is left however busy the machine is"),
    ],
)
def test_an_engine_has_as_many_threads_as_find_a_core(
    cores: int, others: float, threads: int, pause: float
) -> None:
    machine = Machine(cores)
    machine.others = others
    machine.run(60, pause=pause)
    assert machine.step() == threads
    assert machine.changes <= 4


def test_cores_are_taken_again_when_the_others_have_ended() -> None:
    machine = Machine()
    machine.others = 5.0
    machine.run(5)
    machine.others = 0.0
    machine.run(1.2)
    assert machine.step() == 8


def test_noise_around_what_takes_a_thread_changes_nothing() -> None:
    machine = Machine(cores=2)
    machine.others = 0.4
    machine.run(5)
    changes = machine.changes
    for number in range(100):
        machine.others = 0.3 + 0.02 * (number % 3)
        machine.run(STEP_S)
    assert machine.changes == changes


def test_a_step_of_a_new_size_has_all_threads_once() -> None:
    machine = Machine(cores=2)
    machine.others = 1.0
    machine.run(5)
    assert [machine.step(tokens=4, sequences=1) for _ in range(2)] == [2, 1]
    assert [machine.step(tokens=4, sequences=4) for _ in range(2)] == [2, 1]
    assert machine.step(tokens=1, sequences=4) == 1


def test_a_size_is_new_again_after_as_many_others_as_are_kept() -> None:
    machine = Machine(cores=2)
    machine.others = 1.0
    machine.run(5)
    for tokens in range(100, 132):
        machine.step(tokens)
    assert machine.step(131) == 1
    assert machine.step(1) == 2


@pytest.mark.parametrize("error", [FileNotFoundError, ValueError])
def test_threads_stay_as_they_are_where_the_kernel_keeps_no_books(error: type[Exception]) -> None:
    def none() -> Books:
        raise error

    set_to: list[int] = []
    cpu = SharedCpu(4, set_to.append, none)
    for _ in range(3):
        cpu.step(1, 1)
    assert set_to == []


def test_the_kernel_tells_what_this_process_and_nobody_has_used() -> None:
    cores = len(os.sched_getaffinity(0))
    before = now = read_books()
    deadline = time.monotonic() + 60
    while now.used - before.used < 0.3 and time.monotonic() < deadline:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
        now = read_books()
    assert now.used - before.used >= 0.3
    took = now.at - before.at
    # The kernel counts idle time in hundredths of a second for each core.
    assert -0.1 <= now.idle - before.idle <= cores * took - (now.used - before.used) + 0.1


@pytest.mark.parametrize(
    ("config", "environ"),
    [(EngineConfig(cpu_threads=1), {}), (EngineConfig(), {"OMP_NUM_THREADS": "2"})],
)
def test_a_number_of_threads_that_is_given_stays(
    config: EngineConfig, environ: dict[str, str]
) -> None:
    assert not threads_adapt(config, environ)


@pytest.mark.parametrize(("adapts", "spins"), [(True, 20_000), (False, 500)])
def test_threads_spin_for_long_only_where_there_can_be_fewer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str], *, adapts: bool, spins: int
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    processes = engine_processes(
        EngineConfig(), str(tmp_path), cpu=True, in_process=True, adapts=adapts
    )
    with processes:
        assert os.environ["GOMP_SPINCOUNT"] == str(spins)
    assert "GOMP_SPINCOUNT" not in os.environ
