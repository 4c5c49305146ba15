"""However a request ends, it is told so once, nothing it held stays, and the books are right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.base import Prompt
from engine.config import EngineConfig
from engine.simulated_call import Call
from engine.simulated_pooling import SimulatedEmbedder
from gateway.errors import UnavailableError
from gateway.pipeline import Pipeline
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.several import ADMIN, ADMIN_KEYS, make_adapter
from tests.gateway.test_accounts import rows
from tests.gateway.test_engine_deaths import EVERY_ENGINE, Mortal, stream
from tests.gateway.test_hangups import LONG, request_bytes


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_place_inside_of_the_engine_without_a_seat_is_no_stall(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **{
            "engine.max_num_seqs": 1,
            "admission.margin": 1,
            "engine.simulated.step_ms": 5,
            "admission.stall_timeout_s": 0.3,
        }
    )
    answers = await asyncio.gather(*(gateway.chat(max_tokens=300, ignore_eos=True) for _ in "ab"))
    assert [status for status, _ in answers] == [200, 200], answers


async def test_a_request_that_stood_still_is_not_given_to_the_same_engine_again(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **{"engine.simulated.stall_after_tokens": 0, "admission.stall_timeout_s": 0.3}
    )
    engine = gateway.engine
    status, answer = await gateway.chat()
    assert (status, answer["error"]["code"]) == (503, "engine_stalled")
    assert vars(engine)["_requests"] == 1


async def test_a_hang_up_at_the_moment_of_an_engines_death_counts(
    start_gateway: StartGateway,
) -> None:
    mortal = Mortal(10**9)
    gateway = await start_gateway(start=mortal, **EVERY_ENGINE)
    waiting = asyncio.create_task(stream(gateway))
    await until(lambda: mortal.generated > 5)
    (generation,) = gateway.services.pipeline._live
    mortal.started[0]._die("now")
    generation.interrupt("disconnect")
    await until(lambda: not gateway.services.admission.inside)
    assert len(mortal.started) == 1 or not mortal.started[1].stats().generation_tokens_total
    waiting.cancel()


@pytest.mark.parametrize("fields", [{}, {"seed": 3}])
async def test_a_first_token_that_comes_with_the_engines_death_is_counted(
    start_gateway: StartGateway, fields: Any
) -> None:
    mortal = Mortal(1)
    gateway = await start_gateway(start=mortal, **EVERY_ENGINE)
    await stream(gateway, **fields)
    await gateway.idle()
    found = await rows(gateway)
    assert sum(row.completion_tokens for row in found) == mortal.generated
    assert sum(row.prompt_tokens for row in found) == mortal.read


async def test_who_waits_for_an_adapter_that_is_withdrawn_is_served(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    make_adapter(tmp_path / "one")
    gateway = await start_gateway(
        **{
            "auth.admin_keys": ADMIN_KEYS,
            "engine.max_adapters": 2,
            "engine.adapter_root": str(tmp_path),
            "engine.max_num_seqs": 1,
            "admission.margin": 0,
            "engine.simulated.step_ms": 5,
        }
    )
    status, answer = await gateway.post(
        "/admin/v1/adapters", {"name": "one", "path": "one", "base": MODEL}, headers=ADMIN
    )
    assert status == 200, answer
    tasks = [
        asyncio.create_task(gateway.chat(model="one", max_tokens=60, ignore_eos=True))
        for _ in range(3)
    ]
    await until(lambda: gateway.services.admission.queued == 2)
    async with gateway.http.delete(f"{gateway.url}/admin/v1/adapters/one", headers=ADMIN) as gone:
        assert gone.status == 200, await gone.text()
    answers = await asyncio.gather(*tasks)
    assert [status for status, _ in answers] == [200] * 3, answers


class MortalEmbedder:
    def __init__(self) -> None:
        self.started: list[SimulatedEmbedder] = []

    async def __call__(self, config: EngineConfig, report: Any = None, name: Any = None) -> Any:
        self.started.append(SimulatedEmbedder(config))
        return self.started[-1]


async def test_inputs_that_wait_are_embedded_by_the_next_engine(
    start_gateway: StartGateway,
) -> None:
    mortal = MortalEmbedder()
    gateway = await start_gateway(
        start=mortal,
        **EVERY_ENGINE,
        **{
            "engine.runner": "pooling",
            "engine.max_num_seqs": 1,
            "admission.margin": 0,
        },
        **{"engine.simulated.prefill_ms_per_token": 50},
    )
    body = {"model": MODEL, "input": "abcdefgh"}
    tasks = [asyncio.create_task(gateway.post("/v1/embeddings", body)) for _ in range(4)]
    await until(lambda: gateway.services.admission.queued == 3)
    mortal.started[0]._die("now")
    answers = await asyncio.gather(*tasks)
    assert [status for status, _ in answers[1:]] == [200] * 3, answers


async def sums(gateway: LiveGateway) -> tuple[float, float, float]:
    """Prompt tokens: of the ledger's rows, of the gateway, of its engines."""
    async with gateway.http.get(gateway.url + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    counted, engines = (
        sum(float(line.split()[-1]) for line in lines if line.startswith(name))
        for name in ("gateway_prompt_tokens_total", "gateway_engine_prompt_tokens_total")
    )
    return sum(row.prompt_tokens for row in await rows(gateway)), counted, engines


LONG_TEXT = "x" * 400


@pytest.mark.parametrize(
    ("path", "short", "long", "read"),
    [
        ("/v1/embeddings", {"input": "Hi"}, {"input": [LONG_TEXT, "Hi"]}, 3),
        (
            "/v1/rerank",
            {"query": "Hi", "documents": ["abc"]},
            {"query": "Hi", "documents": [LONG_TEXT]},
            7,
        ),
    ],
)
async def test_inputs_count_once_the_engine_has_read_them(
    start_gateway: StartGateway, path: str, short: Any, long: Any, read: int
) -> None:
    slow = {"engine.runner": "pooling", "engine.simulated.prefill_ms_per_token": 10}
    gateway = await start_gateway(**slow, **{"engine.simulated.step_ms": 0})
    embedder = gateway.model(MODEL)
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes({"model": MODEL, **long}, path))
        await until(lambda: embedder.stats().running)
        writer.transport.abort()
        await gateway.idle()
    status, answer = await gateway.post(path, {"model": MODEL, **short})
    assert (status, answer["usage"]["prompt_tokens"]) == (200, read)
    assert await sums(gateway) == (read, read, read)
    outcomes = [row.outcome for row in await rows(gateway)]
    assert outcomes == ["cancelled", "cancelled", "cancelled", "completed"]


async def test_inputs_of_which_an_engine_died_do_not_count(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        **{"engine.runner": "pooling", "engine.simulated.die_after_tokens": 10}
    )
    body = {"model": MODEL, "input": "Hi"}
    answers = [await gateway.post("/v1/embeddings", {**body, "input": "x" * n}) for n in (4, 400)]
    assert [status for status, _ in answers] == [200, 503]
    assert [row.prompt_tokens for row in await rows(gateway)] == [5, 0]


async def test_inputs_whose_engine_has_gone_at_their_turn_were_not_begun(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway(**{"engine.runner": "pooling"})
    embedder = gateway.model(MODEL)
    assert isinstance(embedder, SimulatedEmbedder)
    render = embedder.render

    async def render_and_die(source: Any) -> Prompt:
        prompt = await render(source)
        embedder._die("now")
        return prompt

    monkeypatch.setattr(embedder, "render", render_and_die)
    status, answer = await gateway.post("/v1/embeddings", {"model": MODEL, "input": "Hi"})
    assert (status, answer["error"]["code"]) == (503, "engine_restarting")
    (row,) = await rows(gateway)
    assert (row.outcome, row.status, row.prompt_tokens) == ("rejected", 503, 0)


async def failing(*_: Any, **__: Any) -> None:
    raise UnavailableError("full", code="storage_unavailable", retry_after_s=1)


async def test_an_answer_that_could_not_be_kept_is_not_complete(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.services.store.responses, "create", failing)
    status, _ = await gateway.post("/v1/responses", {"model": MODEL, "input": "Hi"})
    (row,) = await rows(gateway)
    assert (row.outcome, row.status) == ("failed", status), row


async def test_a_background_response_that_could_not_be_begun_is_rejected(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.services.store.responses, "create", failing)
    status, _ = await gateway.post(
        "/v1/responses", {"model": MODEL, "input": "Hi", "background": True}
    )
    (row,) = await rows(gateway)
    assert status == 503
    assert (row.outcome, row.status) == ("rejected", status), row


async def test_prompts_that_were_not_read_are_not_in_the_metrics(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**{"engine.simulated.prefill_ms_per_token": 10_000})
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes({**LONG, "stream": True}))
    await until(lambda: gateway.engine.stats().running)
    writer.transport.abort()
    await gateway.idle()
    async with gateway.http.get(gateway.url + "/metrics") as answer:
        text = await answer.text()
    (line,) = [x for x in text.splitlines() if x.startswith("gateway_prompt_tokens_total")]
    assert float(line.split()[-1]) == gateway.engine.stats().prompt_tokens_total


async def test_an_engine_that_can_not_be_closed_is_replaced_all_the_same(
    start_gateway: StartGateway,
) -> None:
    mortal = Mortal(10)
    gateway = await start_gateway(start=mortal, **EVERY_ENGINE)
    engine = mortal.started[0]
    real = engine.close

    async def broken() -> None:
        engine.close = real  # type: ignore[method-assign]
        raise RuntimeError("a socket is in the way")

    engine.close = broken  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        assert (await stream(gateway))[2]


@pytest.mark.parametrize("timed", [False, True])
async def test_a_stream_whose_tokens_cant_be_told_ends_with_an_error_and_is_counted(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, timed: bool
) -> None:
    gateway = await start_gateway(**{"server.server_timing": timed})
    take = Call.take

    def broken(call: Call) -> Any:
        if call.produced > 5:
            raise RuntimeError("no such token")
        return take(call)

    monkeypatch.setattr(Call, "take", broken)
    _, error, ended = await stream(gateway)
    assert (error, ended) == ("engine_error", False)
    await gateway.idle()
    (row,) = await rows(gateway)
    assert row.outcome == "failed"
    assert row.completion_tokens == gateway.engine.stats().generation_tokens_total > 5


async def test_a_whole_answer_that_cant_be_told_is_an_error_and_is_counted(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_call: Call) -> Any:
        raise RuntimeError("no such token")

    monkeypatch.setattr(Call, "take", broken)
    status, _ = await gateway.chat(max_tokens=5, ignore_eos=True)
    assert status == 500
    await gateway.idle()
    (row,) = await rows(gateway)
    assert (row.outcome, row.completion_tokens) == ("failed", 5)


class Unending:
    """A prompt that is never read to its end."""

    def __init__(self, gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.given_up = asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(gateway.engine, "render", self._render)

    async def _render(self, _source: Any, _on_text: Any = None) -> Prompt:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.set()
        raise AssertionError


async def test_a_hang_up_while_its_prompt_is_read_frees_its_place(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Unending(gateway, monkeypatch)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request_bytes(LONG))
    async with asyncio.timeout(5):
        await prompt.begun.wait()
        writer.transport.abort()
        await prompt.given_up.wait()
    await gateway.idle()
    assert [row.outcome for row in await rows(gateway)] == ["cancelled"]


async def test_a_prompt_whose_client_has_gone_before_is_not_read(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Unending(gateway, monkeypatch)
    admit = Pipeline.admit

    def gone(pipeline: Pipeline, call: Any) -> Any:
        generation = admit(pipeline, call)
        generation.interrupt("disconnect")
        return generation

    monkeypatch.setattr(Pipeline, "admit", gone)
    with pytest.raises(aiohttp.ClientError):
        await gateway.chat()
    assert not prompt.begun.is_set()
    await gateway.idle()


async def test_a_deadline_ends_the_reading_of_a_prompt(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Unending(gateway, monkeypatch)
    status, answer = await gateway.post(
        "/v1/chat/completions", LONG, headers={"x-request-timeout": "0.1"}
    )
    assert (status, answer["error"]["code"]) == (408, "request_timeout")
    assert prompt.given_up.is_set()
    await gateway.idle()


async def test_a_shutdown_ends_the_reading_of_a_prompt(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Unending(gateway, monkeypatch)
    answering = asyncio.create_task(gateway.chat())
    await prompt.begun.wait()
    gateway.services.pipeline.interrupt_all()
    gateway.services.pipeline.interrupt_all()
    status, answer = await answering
    assert (status, answer["error"]["code"]) == (503, "server_draining")
    assert prompt.given_up.is_set()
    await gateway.idle()
