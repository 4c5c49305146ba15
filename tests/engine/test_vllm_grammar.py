"""Structured output of a real engine, and that no schema keeps it from answering others."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from engine.base import (
    EngineBusyError,
    EngineGenerateError,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    Structure,
)
from engine.streaming import generate
from engine.vllm_engine import VLLMEngine
from tests.engines import Engines

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine]

_ids = (f"grammar-{number}" for number in itertools.count())
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["ä", "b"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
STRING = {"type": "string"}
BOMBS: dict[str, Any] = {
    "nested counts": {"type": "string", "pattern": "((.{0,100}){0,100}){0,100}"},
    "nested counts that are expanded": {"type": "string", "pattern": "^(.{0,11}){0,11}$"},
    "large nested counts": {"type": "string", "pattern": "(x{1,1000}){1,1000}"},
    "ambiguous branches": {"anyOf": [{"type": "string", "maxLength": 300 + i} for i in range(50)]},
    "depth": {
        "const": [[[[[[[[]]]]]]]] * 10,
        "items": json.loads('{"items":' * 40 + "{}" + "}" * 40),
    },
    "a least length": {"type": "string", "minLength": 10**9},
    "a huge enum": {"enum": [str(i) for i in range(5000)]},
    "itself": {"$ref": "#"},
    "itself, required": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "nothing": False,
    "nothing, by pattern": {"type": "string", "pattern": r"[^\s\S]"},
    "a choice of thousands": {
        "properties": {f"p{i}": STRING for i in range(4000)},
        "type": "object",
        "minProperties": 2000,
        "additionalProperties": False,
    },
    "classes of characters": {"type": "string", "pattern": r"^\p{L}+$"},
}


def schema(content: object) -> Structure:
    return Structure("json_schema", json.dumps(content))


async def texts(engine: VLLMEngine, structure: Structure | None, **options: Any) -> list[str]:
    prompt = Prompt([1, 2, 30, 40, 50])
    sampling = SamplingOptions(structure=structure, **{"max_tokens": 48, **options})
    found = [""] * sampling.n
    async for delta in generate(engine, GenerateRequest(next(_ids), prompt, sampling)):
        found[delta.index] += delta.text
    return found


@pytest.mark.parametrize("name", ["smollm2", "public"])
async def test_a_completion_has_the_form_that_was_asked_for(engines: Engines, name: str) -> None:
    engine = await engines.use(name)
    await engine.check_structure(schema(PERSON))
    answers = await texts(
        engine, schema(PERSON), n=3, seed=5, logit_bias={2: 100.0, 28: -100.0}, stop=("\n",)
    )
    for answer in answers:
        found = json.loads(answer)
        assert list(found) == ["name", "age", "tags"]
        assert 0 <= found["age"] <= 99
        assert answer == json.dumps(found, separators=(",", ":"), ensure_ascii=False)


async def test_a_schema_of_any_value_and_unicode_patterns_work(engines: Engines) -> None:
    engine = await engines.use("smollm2")
    smileys = {"type": "string", "pattern": "^[🙂-🙏äß]{1,3}$"}
    for content in ({}, {"type": "boolean"}, smileys):
        await engine.check_structure(schema(content))
        (answer,) = await texts(engine, schema(content))
        assert answer
    assert 3 <= len(answer) <= 5
    (answer,) = await texts(engine, Structure("json_object"), temperature=0.0)
    assert answer.startswith("{")


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_refused_and_the_engine_answers_meanwhile(
    engines: Engines, name: str
) -> None:
    engine = await engines.use("smollm2")
    checked = asyncio.create_task(engine.check_structure(schema(BOMBS[name])))
    assert await texts(engine, None, max_tokens=4, ignore_eos=True)
    # On a machine with more to do, what takes long may come to its end by the clock.
    with pytest.raises((InvalidPromptError, EngineBusyError)):
        await checked


async def test_a_flood_of_schemas_is_bounded_and_the_engine_answers_afterwards(
    engines: Engines,
) -> None:
    engine = await engines.use("smollm2")

    async def ask(number: int) -> None:
        structure = schema({"const": number})
        await engine.check_structure(structure)
        assert await texts(engine, structure) == [str(number)]

    results = await asyncio.gather(*[ask(n) for n in range(1000)], return_exceptions=True)
    assert {type(result) for result in results} == {type(None), EngineBusyError}
    await ask(1)


async def test_what_reaches_the_core_all_the_same_fails_alone(engines: Engines) -> None:
    engine = await engines.use("smollm2")
    endless = texts(engine, schema({"$ref": "#"}))
    broken = texts(engine, schema({"type": "string", "pattern": "("}))
    first, second, fine = await asyncio.gather(
        endless, broken, texts(engine, schema(PERSON)), return_exceptions=True
    )
    assert isinstance(first, EngineGenerateError)
    assert isinstance(second, (EngineGenerateError, InvalidPromptError))
    assert isinstance(fine, list)
    assert json.loads(fine[0])


@pytest.mark.parametrize(
    "options", [{"min_tokens": 5}, {"ignore_eos": True}, {"stop_token_ids": (5,)}]
)
async def test_options_that_contradict_a_grammar_are_refused(
    engines: Engines, options: dict[str, Any]
) -> None:
    engine = await engines.use("smollm2")
    with pytest.raises(InvalidPromptError):
        await texts(engine, schema(PERSON), **options)
