"""Two gateways, in processes of their own, share limits through a real store."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

BUDGET = 20_000
SLICE = 0.05

# Reserves until nothing is left; says what it has used, or is killed before it can.
PROGRAM = """
import asyncio, json, random, sys
from gateway.config import LimitsConfig
from gateway.errors import APIError
from gateway.limits import Limiter, Reservation, shared_limits
from gateway.store.database import Database
from gateway.tenants import Account, Budget, Limits

async def main(share, state, budget, slice_, killed):
    database = Database(state)
    config = LimitsConfig(share=share, slice=slice_, lease_s=1.0)
    limiter = Limiter(config, shared=shared_limits(config, database))
    await limiter.start()
    account = Account("team:t", Limits(tpm=10**9, budgets=(Budget("tokens", budget, "total"),)))
    print("ready", flush=True)
    sys.stdin.readline()
    used, refused = 0, 0

    async def caller(seed):
        nonlocal used, refused
        random_ = random.Random(seed)
        while refused < 200:
            tokens = random_.randint(1, 120)
            try:
                found = limiter.reserve((account,), tokens, 0)
                if not isinstance(found, Reservation):
                    found = await found
            except APIError as error:
                assert error.status == 429, error
                refused += 1
                await asyncio.sleep(0.01)
                continue
            await asyncio.sleep(0)
            spent = random_.randint(0, tokens)
            used += spent
            found.settle(spent, 0)
            if killed and used > budget // 4:
                print(json.dumps(used), flush=True)
                await asyncio.sleep(60)

    await asyncio.gather(*(caller(seed) for seed in range(50)))
    await limiter.close()
    await database.close()
    print(json.dumps(used), flush=True)

share, state, budget, slice_, killed = sys.argv[1:]
asyncio.run(main(share, state, int(budget), float(slice_), killed == "killed"))
"""


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """What is shared through, and the URL of the state database."""
    if request.param == "postgresql":
        return "state", request.getfixturevalue("postgres_url")
    state = f"sqlite:///{tmp_path}/state.db"
    if request.param == "redis":
        return request.getfixturevalue("redis_url"), state
    return "state", state


Process = asyncio.subprocess.Process
Spawn = Callable[..., Awaitable[Process]]


@pytest.fixture
async def spawn(store: tuple[str, str]) -> AsyncIterator[Spawn]:
    """Start a gateway that waits to be told to go."""
    processes: list[Process] = []

    async def start(fate: str = "lives") -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            *(*store, str(BUDGET), str(SLICE), fate),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        processes.append(process)
        assert await line(process) == "ready"
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def go(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")


async def test_two_processes_use_a_budget_up_and_no_more(spawn: Spawn) -> None:
    both = [await spawn(), await spawn()]
    for process in both:
        go(process)
    used = [json.loads(await line(process)) for process in both]
    assert [await process.wait() for process in both] == [0, 0]
    # Who gets how much is the machine's doing. What one of them still held when the other gave up
    # is all that can be left.
    assert BUDGET * (1 - SLICE) - 120 <= sum(used) <= BUDGET


async def test_what_a_killed_process_held_comes_back(spawn: Spawn) -> None:
    killed, other = await spawn("killed"), await spawn()
    go(killed)
    used = json.loads(await line(killed))
    killed.kill()
    await killed.wait()
    go(other)
    used += json.loads(await line(other))
    assert await other.wait() == 0
    # What it had reserved, and not yet settled or told of, stays used.
    assert used <= BUDGET * (1 + SLICE)
    assert used >= BUDGET - 50 * 120 - BUDGET * SLICE
