from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from bench.exact.compare import Difference, Missing, differences
from bench.load import Answer
from bench.tiny.model import TinyModel, make
from tests.bench.test_throughput import started
from tests.bench.tiny.server import Answers, WalkServer, honest

RIGHT = Answer(("one two", "three"), ("stop", "length"), 9, 5, done=True)
PAIR = [("a", "b")]
Alter = Callable[[Answers, bool], Answers]
Serve = Callable[[Alter], Awaitable[str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def serve(model: TinyModel) -> AsyncIterator[Serve]:
    """Starts a server whose answers are altered; gives its base URL."""
    async with AsyncExitStack() as stack:

        async def start(alter: Alter) -> str:
            server = TestServer(WalkServer(model, alter).app)
            await server.start_server()
            stack.push_async_callback(server.close)
            return str(server.make_url("/v1"))

        yield start


async def exact(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `python -m bench.exact`."""
    child = await started(*arguments, "--requests", "60", module="bench.exact")
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


def kinds(one: Answer | Missing, other: Answer | Missing) -> list[tuple[str, str]]:
    found = differences(7, {"a": one, "b": other}, PAIR)
    assert {difference.request for difference in found} <= {7}
    return [(difference.kind, difference.between) for difference in found]


def test_equal_answers_have_no_differences() -> None:
    assert differences(0, {"a": RIGHT, "b": replace(RIGHT)}, PAIR) == []


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("text", replace(RIGHT, texts=("one twa", "three"))),
        ("text", replace(RIGHT, texts=("one two", "thre"))),
        ("replacement characters", replace(RIGHT, texts=("one two\ufffd", "three"))),
        ("finish reasons", replace(RIGHT, finish_reasons=("stop", "stop"))),
        ("prompt tokens", replace(RIGHT, prompt_tokens=6)),
        ("completion tokens", replace(RIGHT, completion_tokens=None)),
    ],
)
def test_each_planted_difference_is_found_whoever_has_it(kind: str, wrong: Answer) -> None:
    assert kinds(RIGHT, wrong) == [(kind, "a / b")]
    assert kinds(wrong, RIGHT) == [(kind, "a / b")]


def test_every_choice_is_compared_and_every_difference_told() -> None:
    wrong = replace(RIGHT, texts=("x", "y"), completion_tokens=8)

    assert [kind for kind, _ in kinds(RIGHT, wrong)] == ["text", "text", "completion tokens"]


def test_a_text_difference_shows_where_the_texts_part() -> None:
    (found,) = differences(0, {"a": RIGHT, "b": replace(RIGHT, texts=("one 2", "three"))}, PAIR)

    assert found.detail == "choice 0, from character 4: 'two' / '2'"


def test_a_missing_answer_is_told_once_and_not_compared() -> None:
    found = differences(3, {"a": RIGHT, "b": Missing("HTTP 500"), "c": RIGHT}, [*PAIR, ("a", "c")])

    assert found == [Difference(3, "no answer", "b", "HTTP 500")]


def test_a_server_that_was_not_asked_is_not_compared() -> None:
    assert differences(0, {"a": RIGHT}, PAIR) == []


async def test_servers_that_answer_alike_exit_0_with_what_was_covered(
    serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "exact.json"
    one, other = await serve(honest), await serve(honest)

    code, out, err = await exact(
        *("--server", f"a={one.replace('://', '://s3cret@')}", "--server", f"b={other}"),
        *("--json", str(file)),
    )

    assert code == 0, out + err
    assert "stop that spans tokens" in out
    assert "s3cret" not in out + err + file.read_text("utf-8")
    found = json.loads(file.read_text("utf-8"))
    assert found["differences"] == []
    assert found["coverage"]["requests"] == 60
    assert found["compared"]["a streamed / a whole"] == 60
    assert 0 < found["compared"]["a whole / b whole"] < 60
    assert 0 < found["compared"]["b streamed / foretold"] < found["compared"]["b whole / foretold"]


async def test_a_server_whose_streams_lose_a_character_exits_1(
    serve: Serve, tmp_path: Path
) -> None:
    def losing(answers: Answers, stream: bool) -> Answers:
        return [replace(one, text=one.text[:-1]) if stream else one for one in answers]

    file = tmp_path / "exact.json"

    code, out, _ = await exact("--server", f"a={await serve(losing)}", "--json", str(file))

    assert code == 1
    assert "a streamed / a whole" in out
    found = json.loads(file.read_text("utf-8"))
    betweens = {difference["between"] for difference in found["differences"]}
    assert betweens == {"a streamed / a whole", "a streamed / foretold"}
    assert {"text"} == {difference["kind"] for difference in found["differences"]}
    assert all(difference["body"]["model"] == "tiny" for difference in found["differences"])


async def test_a_server_that_counts_wrongly_everywhere_is_found_by_the_walk(
    serve: Serve,
) -> None:
    def generous(answers: Answers, _stream: bool) -> Answers:
        return [replace(one, completion_tokens=one.completion_tokens + 1) for one in answers]

    code, out, _ = await exact("--server", f"a={await serve(generous)}")

    assert code == 1
    assert "completion tokens" in out


async def test_choices_that_are_missing_are_no_answer(serve: Serve) -> None:
    code, out, _ = await exact("--server", f"a={await serve(lambda found, _: found[:1])}")

    assert code == 1
    assert "1 choices, asked for" in out


@pytest.mark.parametrize(
    "wrong",
    [
        ("--server", "a=http://h/v1", "--server", "b=http://i/v1", "--server", "c=http://j/v1"),
        ("--server", "a=http://h/v1", "--server", "a=http://i/v1"),
        ("--server", "a=http://127.0.0.1:9/v1"),
        ("--other-streamed", "2"),
        ("--json", "/nowhere/exact.json"),
    ],
)
async def test_wrong_use_exits_2(wrong: tuple[str, ...]) -> None:
    code, _, err = await exact(*wrong)

    assert code == 2
    assert "Traceback" not in err
