"""Grammars tried out in a process of their own, with a vocabulary of single bytes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import xgrammar

from engine import grammar
from engine.base import EngineBusyError, EngineGenerateError, InvalidPromptError, Structure
from engine.grammar import GrammarChecker

VOCABULARY = xgrammar.TokenizerInfo(
    [bytes([byte]) for byte in range(256)] + [b"</s>"],
    xgrammar.VocabType.RAW,
    vocab_size=257,
    stop_token_ids=[256],
).serialize_json()
# Takes xgrammar 0.2.8 many seconds: which of them are there is a choice of 2^n.
SLOW = {
    "type": "object",
    "properties": {f"p{i}": {"type": "null"} for i in range(4_000)},
    "minProperties": 2_000,
    "additionalProperties": False,
}
DEEP = {
    "$ref": "#/$defs/d0",
    "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(6000)},
}
DEEP["$defs"]["d6000"] = {"type": "null"}  # type: ignore[index]


pytestmark = pytest.mark.asyncio(loop_scope="module")
_numbers = itertools.count()


def structure(schema: object, kind: Any = "json_schema") -> Structure:
    return Structure(kind, json.dumps(schema))


def fresh() -> Structure:
    """A schema nobody has seen."""
    return structure({"const": next(_numbers)})


async def refusal(checker: GrammarChecker, schema: object) -> str:
    with pytest.raises(InvalidPromptError) as refused:
        await checker.check(structure(schema))
    assert refused.value.param == "response_format"
    return str(refused.value)


def children() -> list[psutil.Process]:
    """The processes that try grammars out, without their trials."""
    found = psutil.Process().children()
    return [p for p in found if any("grammar_trial" in part for part in p.cmdline())]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checker() -> AsyncIterator[GrammarChecker]:
    """Its process starts once, which takes seconds."""
    one = GrammarChecker(lambda: VOCABULARY, cpu_s=60.0, compact=True)
    yield one
    await one.close()


@pytest_asyncio.fixture(loop_scope="module")
async def other(checker: GrammarChecker) -> AsyncIterator[GrammarChecker]:
    """To be broken."""
    one = GrammarChecker(lambda: VOCABULARY, cpu_s=60.0, compact=True)
    yield one
    await one.close()


async def test_what_can_be_a_grammar_passes(checker: GrammarChecker) -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}
    recursive = {"$ref": "#/$defs/n", "$defs": {"n": node}}
    for schema in (True, {}, {"type": "string", "maxLength": 20}, recursive):
        await checker.check(structure(schema))
    content = {"type": "json_schema", "json_schema": {"type": "integer"}}
    tag = {"type": "tag", "begin": "<f>", "content": content, "end": "</f>"}
    await checker.check(structure({"type": "structural_tag", "format": tag}, "structural_tag"))


async def test_any_json_object_and_what_breaks_a_limit_need_no_process() -> None:
    before = children()
    idle = GrammarChecker(lambda: VOCABULARY, cpu_s=60.0, compact=True)
    await idle.check(Structure("json_object"))
    assert "without end" in await refusal(idle, {"$ref": "#"})
    assert children() == before
    await idle.close()


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (False, "cannot accept any value"),
        ({"type": "string", "pattern": r"\p{L}"}, "not supported"),
        ({"type": "string", "pattern": r"[^\s\S]"}, "no text fits"),
        ({"type": "number", "minimum": 1e-300, "maximum": 1e-299}, "no JSON at all"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum greater than maximum"),
        ({"type": "structural_tag", "format": {"type": "rot13"}}, "Invalid schema"),
    ],
)
async def test_what_cannot_be_a_grammar_is_refused_with_xgrammars_reason(
    checker: GrammarChecker, schema: object, said: str
) -> None:
    tag = isinstance(schema, dict) and schema["type"] == "structural_tag"
    with pytest.raises(InvalidPromptError, match=said):
        await checker.check(structure(schema, "structural_tag" if tag else "json_schema"))


async def test_a_crash_of_the_compiler_refuses_only_what_caused_it(checker: GrammarChecker) -> None:
    assert "nests too deeply" in await refusal(checker, DEEP)
    await checker.check(fresh())


async def test_a_schema_that_takes_too_long_is_refused_and_its_verdict_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammar, "WALL_FACTOR", 1000.0)
    checker = GrammarChecker(lambda: VOCABULARY, cpu_s=0.5, compact=True)
    assert "longer than 0.5 s" in await refusal(checker, SLOW)
    await checker.check(fresh())
    # Without a process there is only memory.
    await checker.close()
    assert "longer than 0.5 s" in await refusal(checker, SLOW)


async def test_a_schema_that_takes_too_much_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, other: GrammarChecker
) -> None:
    monkeypatch.setattr(grammar, "MEMORY_BYTES", 4 << 20)
    await other.check(fresh())
    many = {"enum": ["x" * 100 + str(i) for i in range(1000)]}
    assert "memory" in await refusal(other, many)
    await other.check(fresh())


async def test_a_flood_of_schemas_is_cut_off_and_those_let_in_are_answered(
    monkeypatch: pytest.MonkeyPatch, checker: GrammarChecker
) -> None:
    monkeypatch.setattr(grammar, "MAX_WAITING", 3)
    asked = [checker.check(fresh()) for i in range(200)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    busy = [result for result in results if isinstance(result, EngineBusyError)]
    assert len(busy) == 197
    assert all(error.retry_after_s > 0 for error in busy)
    assert results[:3] == [None] * 3
    await checker.check(fresh())


async def test_the_same_schema_is_tried_once_whoever_asks(
    monkeypatch: pytest.MonkeyPatch, checker: GrammarChecker
) -> None:
    monkeypatch.setattr(grammar, "MAX_WAITING", 1)
    asked = fresh()
    await asyncio.gather(*[checker.check(asked) for _ in range(50)])


async def test_who_gives_up_waiting_leaves_the_queue(
    monkeypatch: pytest.MonkeyPatch, checker: GrammarChecker
) -> None:
    monkeypatch.setattr(grammar, "MAX_WAITING", 2)
    waiting = [asyncio.create_task(checker.check(fresh())) for i in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(EngineBusyError):
        await checker.check(fresh())
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await checker.check(fresh())


async def test_a_killed_process_is_started_again_and_closing_ends_it_and_what_waits(
    other: GrammarChecker,
) -> None:
    before = children()
    await other.check(fresh())
    for child in children():
        if child not in before:
            child.kill()
    with contextlib.suppress(EngineBusyError):  # Its end may not be known yet.
        await other.check(fresh())
    await other.check(fresh())
    waiting = [asyncio.create_task(other.check(asked)) for asked in (structure(SLOW), fresh())]
    while not any(child.children() for child in children()):
        await asyncio.sleep(0.01)
    await other.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [EngineBusyError] * 2
    assert children() == before
    with pytest.raises(EngineBusyError):
        await other.check(fresh())


async def test_a_vocabulary_that_cannot_be_read_is_the_servers_fault() -> None:
    broken = GrammarChecker(lambda: "{}", cpu_s=60.0, compact=True)
    with pytest.raises(EngineGenerateError):
        await broken.check(fresh())
    await broken.close()


ORPHAN = """
import asyncio, sys
from engine.base import Structure
from engine.grammar import GrammarChecker

async def main():
    checker = GrammarChecker(lambda: sys.stdin.readline(), cpu_s=60.0, compact=True)
    await checker.check(Structure("json_schema", "true"))
    print(checker._process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_the_process_ends_with_a_server_that_is_killed() -> None:
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop
        [sys.executable, "-c", ORPHAN],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(VOCABULARY + "\n")
        server.stdin.flush()
        process = psutil.Process(int(server.stdout.readline()))
        os.kill(server.pid, signal.SIGKILL)
    process.wait(60)
