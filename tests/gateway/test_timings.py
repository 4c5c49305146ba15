"""Where an answer's time goes, as `Server-Timing` tells it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.raw import RawAnswer, request, send
from tests.gateway.test_edge_headers import PAGE, SHORT, chat
from tests.gateway.test_engine_deaths import EVERY_ENGINE, Mortal

# Of a request to the simulated engine, in the order in which they begin.
BEFORE_TOKENS = ["auth", "parse", "queue", "render", "prefill"]
WHOLE = [*BEFORE_TOKENS, "decode", "detokenize", "frame"]
STREAMED = {*WHOLE, "send"}
METRIC = re.compile(r"([a-z]+);dur=(\d+\.\d{3})")
COMMENT = ": server-timing "
# Each figure is rounded to a microsecond.
ROUNDING_MS = 0.01
KEY = "k" * 32


def metrics(told: str) -> dict[str, float]:
    """Milliseconds by stage; whatever else is told is an error."""
    found = [METRIC.fullmatch(one) for one in told.split(", ")]
    assert all(found), told
    return {one[1]: float(one[2]) for one in found if one is not None}


def stages(told: str) -> list[str]:
    """The names of the stages, which have to add up to the total."""
    found = metrics(told)
    total = found.pop("total")
    assert sum(found.values()) == pytest.approx(total, abs=ROUNDING_MS)
    return list(found)


def of(answer: RawAnswer) -> str:
    return answer.headers["server-timing"]


def events(answer: RawAnswer) -> list[str]:
    """What stands between a stream's blank lines."""
    *found, rest = answer.body.decode().split("\n\n")
    assert rest == ""
    return found


def comments(answer: RawAnswer) -> list[str]:
    return [one.removeprefix(COMMENT) for one in events(answer) if one.startswith(":")]


@pytest.fixture
async def timed(start_gateway: StartGateway) -> LiveGateway:
    return await start_gateway(**{"server.server_timing": True})


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_is_told_unless_it_is_configured(gateway: LiveGateway, stream: bool) -> None:
    answer = await send(gateway, chat(stream=stream))
    assert answer.status == 200
    assert "server-timing" not in answer.headers
    assert b"server-timing" not in answer.body


async def test_a_whole_answer_tells_every_stage(timed: LiveGateway) -> None:
    assert stages(of(await send(timed, chat()))) == WHOLE


async def test_a_stream_tells_with_its_headers_what_was_before_them_and_all_at_its_end(
    timed: LiveGateway,
) -> None:
    answer = await send(timed, chat(stream=True))
    (comment,) = comments(answer)
    assert stages(of(answer)) == [*BEFORE_TOKENS, "decode"]
    assert set(stages(comment)) == STREAMED
    early, late = metrics(of(answer)), metrics(comment)
    assert [early[stage] for stage in BEFORE_TOKENS] == [late[stage] for stage in BEFORE_TOKENS]
    assert early["total"] <= late["total"]


async def test_a_streams_comment_stands_right_before_its_last_events(timed: LiveGateway) -> None:
    answer = await send(timed, chat(stream=True, stream_options={"include_usage": True}))
    told = events(answer)
    assert [one.startswith(":") for one in told[-3:]] == [True, False, False]
    assert told[-1] == "data: [DONE]"


async def test_the_time_of_the_engines_steps_is_told_as_theirs(start_gateway: StartGateway) -> None:
    slow = {"engine.simulated.step_ms": 20, "engine.simulated.prefill_ms_per_token": 2}
    gateway = await start_gateway(**{"server.server_timing": True, **slow})
    whole = metrics(of(await send(gateway, chat(max_tokens=4))))
    (comment,) = comments(await send(gateway, chat(max_tokens=4, stream=True)))
    for told in (whole, metrics(comment)):
        assert told["prefill"] > 20
        assert told["decode"] > 40


async def test_prompts_that_are_texts_are_tokenized_and_not_rendered(timed: LiveGateway) -> None:
    body = json.dumps({"model": MODEL, "prompt": ["one", "two"], "max_tokens": 2}).encode()
    answer = await send(timed, request("POST", "/v1/completions", body=body))
    assert answer.status == 200
    assert stages(of(answer)) == ["tokenize" if one == "render" else one for one in WHOLE]


async def test_a_grammar_is_a_stage_of_its_own(timed: LiveGateway) -> None:
    answer = await send(timed, chat(response_format={"type": "json_object"}, max_tokens=20))
    assert "grammar" in stages(of(answer))


@pytest.mark.parametrize("stream", [False, True])
async def test_storing_an_answer_is_a_stage_of_its_own(timed: LiveGateway, stream: bool) -> None:
    answer = await send(timed, chat(store=True, stream=stream))
    told = comments(answer)[0] if stream else of(answer)
    assert "store" in stages(told)


async def test_messages_tell_it_too(timed: LiveGateway) -> None:
    fields = {name: SHORT[name] for name in ("model", "messages", "max_tokens")}
    body = json.dumps({**fields, "stream": True}).encode()
    answer = await send(timed, request("POST", "/v1/messages", body=body))
    assert answer.status == 200
    (comment,) = comments(answer)
    assert set(stages(comment)) == STREAMED
    assert events(answer)[-1].startswith("event: message_stop\n")


async def test_a_client_library_reads_the_same_stream_with_and_without(
    gateway: LiveGateway, timed: LiveGateway
) -> None:
    async def chunks(server: LiveGateway) -> list[Any]:
        made = await server.openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
        return [one.model_dump(exclude={"id", "created"}) async for one in made]

    told = await chunks(timed)
    assert told[-1]["usage"]["completion_tokens"] == 8
    assert told == await chunks(gateway)


@pytest.mark.parametrize(
    ("sent", "status", "known"),
    [
        (chat(), 401, ["auth"]),
        (chat(f"authorization: Bearer {KEY}", max_tokens=0), 400, ["auth", "parse"]),
        (chat(f"authorization: Bearer {KEY}", model="nope"), 404, ["auth", "parse"]),
        (
            chat(f"authorization: Bearer {KEY}", max_tokens=9999),
            400,
            ["auth", "parse", "queue", "render"],
        ),
    ],
)
async def test_an_error_tells_what_was_before_it(
    start_gateway: StartGateway, sent: bytes, status: int, known: list[str]
) -> None:
    keys = [{"name": "alice", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]
    gateway = await start_gateway(**{"server.server_timing": True, "auth.api_keys": keys})
    answer = await send(gateway, sent)
    assert answer.status == status
    assert stages(of(answer)) == known


async def test_a_stream_that_fails_tells_it_before_its_error(start_gateway: StartGateway) -> None:
    failing = {"server.server_timing": True, "engine.simulated.fail_every": 1}
    gateway = await start_gateway(**failing)
    answer = await send(gateway, chat(stream=True, max_tokens=20))
    comment, error = events(answer)[-2:]
    assert set(stages(comment.removeprefix(COMMENT))) == set(WHOLE)
    assert error.startswith('data: {"error":')


async def test_an_answer_that_outlives_its_engine_still_adds_up(
    start_gateway: StartGateway,
) -> None:
    settings = {"server.server_timing": True, **EVERY_ENGINE}
    gateway = await start_gateway(start=Mortal(30), **settings)
    answer = await send(gateway, chat(max_tokens=60))
    assert answer.status == 200
    assert stages(of(answer)) == WHOLE


async def test_only_the_endpoints_that_generate_tell_it(timed: LiveGateway) -> None:
    answer = await send(timed, request("GET", "/v1/models"))
    assert answer.status == 200
    assert "server-timing" not in answer.headers


async def test_an_allowed_page_may_read_it(start_gateway: StartGateway) -> None:
    settings = {"server.server_timing": True, "server.cors.allow_origins": [PAGE]}
    gateway = await start_gateway(**settings)
    answer = await send(gateway, chat(f"origin: {PAGE}"))
    assert stages(of(answer)) == WHOLE
    assert "server-timing" in answer.headers["access-control-expose-headers"].split(", ")
