"""The disk with the database is full for a while: requests are refused, none is forgotten."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Final

from bench.chaos.books import check_answers, check_begun, check_rows, check_sums, engine_tokens
from bench.chaos.crowd import crowd
from bench.chaos.exchange import Ask, Seen, seen_as
from bench.chaos.findings import Found
from bench.chaos.load import used
from bench.chaos.server import Gateway, Place, running
from bench.chaos.traffic import Traffic
from bench.errors import BenchError

REFUSAL: Final = "storage_unavailable"
_MIB: Final = 1024 * 1024
_DISK: Final = 48 * _MIB
_HEALED_S: Final = 30.0
_WRONG: Final = 5


async def disk(
    place: Place,
    *,
    concurrency: int,
    seconds: float,
    seed: int,
    told: Callable[[int, int], None],
) -> Found:
    """It has to be noticed within `seconds` of load; `told` is given how many of them have passed.
    Raises BenchError."""
    found, seen = Found("disk"), list[Seen]()
    traffic = Traffic(place.model, seed)
    with _small_disk(place.directory / "disk") as state:
        gateway = place.configured("disk-gateway", {}, state)
        async with running(gateway) as client:
            seen.append(await client.ask(traffic.short()))
            begun, refused = perf_counter(), list[float]()

            def note(one: Seen) -> None:
                seen.append(one)
                told(round(perf_counter() - begun), round(seconds))
                if one.error == REFUSAL:
                    refused.append(perf_counter() - begun)

            def enough() -> bool:
                return len(refused) >= 4 * concurrency or perf_counter() - begun > seconds

            with _full(gateway, state):
                await crowd(client, _quick(traffic), concurrency, note, enough)
                found.require(bool(refused), f"no {REFUSAL} after {seconds:g} s on a full disk")
                await _still_refused(found, gateway, traffic, seen)
            healed = await _healed(found, gateway, traffic, seen)
            await gateway.until_idle(client)
            series, summed = await gateway.metrics(client), await used(gateway)
            rows = await gateway.rows()
        found.require(gateway.integrity() == "ok", f"integrity_check: {gateway.integrity()}")
    check_rows(found, seen, rows)
    check_begun(found, rows, series)
    check_answers(found, seen)
    check_sums(found, rows, summed, engine_tokens(series))
    _check_refusals(found, seen)
    found.figures |= {
        "by": "tmpfs" if _mounts() else "RLIMIT_FSIZE",
        "seen": seen_as(seen),
        "rows": len(rows),
        "answered_on_the_full_disk": sum(one.answered for one in seen) - 2,
        "refused_after_s": round(min(refused), 2) if refused else None,
        "healed_after_s": healed,
    }
    return found


def _check_refusals(found: Found, seen: list[Seen]) -> None:
    found.none_of(
        (
            f"{one.request_id} {one.status} {one.error or one.cut}"
            for one in seen
            if not (one.answered or (one.ask.wrong and 400 <= one.status < 500))
            and (one.status, one.error) != (503, REFUSAL)
        ),
        f"neither answered nor refused with 503 {REFUSAL}",
    )


async def _still_refused(
    found: Found, gateway: Gateway, traffic: Traffic, seen: list[Seen]
) -> None:
    """Not answered while nothing has changed, and alive."""
    async with gateway.client() as client:
        await asyncio.sleep(3)
        one = await client.ask(traffic.short())
        status, _ = await client.get("/healthz")
    seen.append(one)
    found.require(one.error == REFUSAL, f"on a full disk: {one.status} {one.error}")
    found.require(status == 200, f"/healthz on a full disk: {status}")


async def _healed(
    found: Found, gateway: Gateway, traffic: Traffic, seen: list[Seen]
) -> float | None:
    """Seconds until a request is answered again."""
    begun = perf_counter()
    async with gateway.client() as client:
        while (passed := perf_counter() - begun) < _HEALED_S:
            one = await client.ask(traffic.short())
            seen.append(one)
            if one.answered:
                return round(passed, 2)
            await asyncio.sleep(0.1)
    found.violations.append(f"not answered {_HEALED_S:g} s after there was room again")
    return None


def _quick(traffic: Traffic) -> Iterator[Ask]:
    """Most need no engine, only a row: the journal has room for thousands."""
    while True:
        yield traffic.short()
        yield from (traffic.wrong() for _ in range(_WRONG))


def _mounts() -> bool:
    return os.geteuid() == 0


@contextmanager
def _small_disk(at: Path) -> Iterator[Path]:
    """A directory on a small disk of its own where this user may mount one."""
    at.mkdir()
    if not _mounts():
        yield at
        return
    mount = ("mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(at))
    if subprocess.run(mount, check=False).returncode:
        raise BenchError(f"can't mount a tmpfs at {at}")
    try:
        yield at
    finally:
        subprocess.run(("umount", str(at)), check=False)


def _full(gateway: Gateway, state: Path) -> AbstractContextManager[None]:
    return _filled(state) if _mounts() else _limited(gateway)


@contextmanager
def _filled(state: Path) -> Iterator[None]:
    """Not a byte is free."""
    filler = state / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def _limited(gateway: Gateway) -> Iterator[None]:
    """No file of the gateway may grow beyond a page."""
    _, hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (hard, hard))
