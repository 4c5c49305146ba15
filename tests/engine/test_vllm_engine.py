"""What only a real engine can show: models, precision, caches, failures of its processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine import vllm_engine, vllm_shape, vllm_start
from engine.base import (
    ChatMessage,
    Conversation,
    EngineDeadError,
    EngineStartError,
    GenerateRequest,
    InvalidPromptError,
    Prompt,
    SamplingOptions,
    StartPhase,
    TokenDelta,
)
from engine.config import EngineConfig
from engine.streaming import generate
from engine.vllm_engine import VLLMEngine
from engine.vllm_environment import available_cores, threads_adapt
from tests.engines import CONFIGS, EXTRA_EOS, Engines

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.engine]

_ids = (f"vllm-{number}" for number in itertools.count())
Checkpoint = Callable[[str], Path]


async def run(engine: VLLMEngine, prompt: Prompt, **options: Any) -> list[TokenDelta]:
    sampling = SamplingOptions(**{"temperature": 0.0, "max_tokens": 24, **options})
    return [d async for d in generate(engine, GenerateRequest(next(_ids), prompt, sampling))]


async def ask(engine: VLLMEngine, question: str) -> str:
    prompt = await engine.render(Conversation([ChatMessage("user", question)]))
    return "".join(delta.text for delta in await run(engine, prompt))


def tokens_of(deltas: list[TokenDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def processes() -> list[psutil.Process]:
    """The engine's processes, children of this one."""
    found = []
    for child in multiprocessing.active_children():
        process = psutil.Process(child.pid)
        found += [process, *process.children(recursive=True)]
    return found


async def test_smollm2_knows_the_capital_of_japan_and_two_plus_two(engines: Engines) -> None:
    engine = await engines.use("smollm2")
    assert "Tokyo" in await ask(engine, "What is the capital of Japan?")
    assert "4" in await ask(engine, "What is 2+2?")


async def test_it_says_what_it_serves(engines: Engines, checkpoint: Checkpoint) -> None:
    info = (await engines.use("smollm2")).info
    assert (info.architecture, info.dtype, info.quantization) == (
        "LlamaForCausalLM",
        "bfloat16",
        None,
    )
    assert info.max_model_len == 1024
    assert info.max_num_seqs == 8
    assert info.kv_cache_tokens is not None
    assert info.kv_cache_tokens >= info.max_model_len
    assert (
        info.vocab_size
        == json.loads((checkpoint("smollm2") / "config.json").read_text())["vocab_size"]
    )


async def test_prompts_are_rendered_as_transformers_renders_them(
    engines: Engines, checkpoint: Checkpoint
) -> None:
    from transformers import AutoTokenizer

    engine = await engines.use("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("smollm2"))
    for turns in (
        [("user", "Hello 🙂")],
        [("system", "Be brief."), ("user", "a\nb"), ("assistant", "c"), ("user", " d ")],
    ):
        wanted = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns],
            add_generation_prompt=True,
            return_dict=False,
        )
        messages = [ChatMessage(role, content) for role, content in turns]  # type: ignore[arg-type]
        assert list((await engine.render(Conversation(messages))).token_ids) == wanted
    assert list((await engine.render("Once upon")).token_ids) == tokenizer.encode("Once upon")


async def test_a_repeated_prompt_comes_from_the_prefix_cache(engines: Engines) -> None:
    engine = await engines.use("smollm2")
    prompt = Prompt([1000 + 7 * i for i in range(200)])
    first = await run(engine, prompt, max_tokens=2)
    again = await run(engine, prompt, max_tokens=2)
    assert {delta.cached_tokens for delta in first} == {0}
    (cached,) = {delta.cached_tokens for delta in again}
    # Whole blocks, and never the whole prompt: its last token has to be computed.
    assert cached == 192
    assert tokens_of(first) == tokens_of(again)


async def test_of_tokens_that_tie_the_same_is_the_likeliest_every_time(engines: Engines) -> None:
    engine = await engines.use("smollm2")
    question = ChatMessage("user", "Invent a two-word band name.")  # its answer has several ties
    prompt = await engine.render(Conversation([question]))
    await run(engine, prompt)  # from now on the prompt's cache is the same
    greedy = tokens_of(await run(engine, prompt))
    for _ in range(4):
        assert tokens_of(await run(engine, prompt, temperature=1.0, top_k=1)) == greedy
    several = await run(engine, prompt, n=4)
    assert [tokens_of([d for d in several if d.index == n]) for n in range(4)] == [greedy] * 4


async def test_a_prompt_longer_than_a_step_is_read_in_chunks(engines: Engines) -> None:
    engine = await engines.use("smollm2")
    limit = CONFIGS["smollm2"].max_num_batched_tokens
    assert limit is not None
    question = "ignore this line please\n" * 150 + "What is the capital of Japan?"
    prompt = await engine.render(Conversation([ChatMessage("user", question)]))
    assert len(prompt.token_ids) > 2 * limit
    assert len(tokens_of(await run(engine, prompt, max_tokens=5, ignore_eos=True))) == 5


async def test_a_short_prompt_is_read_while_a_long_one_is(engines: Engines) -> None:
    engine = await engines.use("smollm2")
    ended: list[str] = []

    async def complete(name: str, tokens: int, max_tokens: int) -> None:
        prompt = Prompt([2000 + 11 * i for i in range(tokens)])
        await run(engine, prompt, max_tokens=max_tokens, ignore_eos=True)
        ended.append(name)

    # Not quite four steps' worth of tokens: the rest of the fourth has room for the short one.
    await asyncio.gather(complete("long", 1000, 1), complete("short", 8, 2))
    assert ended == ["short", "long"]


async def test_vllms_own_metrics_name_the_model_as_configured(engines: Engines) -> None:
    from prometheus_client import generate_latest

    engine = await engines.use("smollm2")
    await run(engine, Prompt([5, 6, 7]), max_tokens=1)
    text = generate_latest().decode()
    assert 'vllm:num_requests_running{engine="0",model_name="smollm2-135m-instruct"}' in text


async def test_without_a_chat_template_prompts_work_and_chats_are_refused(
    without_template: Path,
) -> None:
    vllm_start.import_vllm()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.tokenizers import get_tokenizer

    from engine.vllm_render import PromptRenderer

    settings = AsyncEngineArgs(model=str(without_template)).create_model_config()
    renderer = PromptRenderer(get_tokenizer(without_template), settings)
    assert (await renderer.render("Once upon")).token_ids
    with pytest.raises(InvalidPromptError, match="no chat template") as refused:
        await renderer.render(Conversation([ChatMessage("user", "Hello")]))
    assert refused.value.param == "messages"


async def test_a_mistral_applies_its_window_and_equals_transformers(
    engines: Engines, checkpoint: Checkpoint
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    engine = await engines.use("mistral")
    assert (engine.info.architecture, engine.info.dtype) == ("MistralForCausalLM", "float32")
    near = [300 + 11 * i for i in range(200)]
    far, other_far = [5000 + 13 * i for i in range(300)], [20000 + 17 * i for i in range(300)]
    got = tokens_of(await run(engine, Prompt(far + near), max_tokens=16, ignore_eos=True))
    # One layer with a window of 64 can't see what lies 200 tokens back.
    same = tokens_of(await run(engine, Prompt(other_far + near), max_tokens=16, ignore_eos=True))
    assert got == same
    model = AutoModelForCausalLM.from_pretrained(checkpoint("mistral"), dtype=torch.float32)
    assert got == _greedy(model, far + near, 16)
    model.config.sliding_window = None
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    assert _greedy(model, far + near, 16) != _greedy(model, other_far + near, 16)


def _greedy(model: Any, tokens: list[int], count: int) -> list[int]:
    import torch

    tokens = list(tokens)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[-count:]


async def test_the_checkpoints_further_end_tokens_end_an_answer(engines: Engines) -> None:
    engine = await engines.use("mistral")
    forced: dict[str, Any] = {"logit_bias": {EXTRA_EOS: 100.0}, "max_tokens": 5}
    ended = await run(engine, Prompt([5, 6, 7]), **forced)
    assert tokens_of(ended) == [EXTRA_EOS]
    assert ended[-1].finish_reason == "stop"
    ignored = await run(engine, Prompt([5, 6, 7]), ignore_eos=True, **forced)
    assert tokens_of(ignored) == [EXTRA_EOS] * 5


async def test_a_start_times_its_phases_and_its_warm_up_is_not_counted(engines: Engines) -> None:
    engine = await engines.use("mistral")
    names = [phase.name for phase in engine.start_phases]
    assert names[:2] == ["import", "load"]
    assert names[-1].startswith("warm-up 4x")
    assert all(phase.seconds >= 0 for phase in engine.start_phases)
    deltas = await run(engine, Prompt([9] * 40), max_tokens=1)
    assert deltas[0].cached_tokens == 0


async def test_an_awq_checkpoint_loads_as_such_and_knows_the_capital_of_japan(
    engines: Engines,
) -> None:
    engine = await engines.use("awq")
    assert engine.info.quantization is not None
    assert "awq" in engine.info.quantization
    assert "Tokyo" in await ask(engine, "What is the capital of Japan?")


async def test_what_cannot_be_loaded_says_why_and_leaves_nothing(
    engines: Engines, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engines.stop()
    preloaded = os.environ.get("LD_PRELOAD")
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint("mistral"), broken)
    (broken / "config.json").write_text("{}")
    config = CONFIGS["mistral"]
    with pytest.raises(EngineStartError, match="model_type"):
        await vllm_engine.start(config, str(broken))
    with pytest.raises(EngineStartError, match="quantization"):
        await vllm_engine.start(
            EngineConfig(quantization="rot13", compile="off"), str(checkpoint("mistral"))
        )
    # This one fails inside the engine's process.
    small = config.model_copy(update={"kv_cache_gib": 1e-4})
    with pytest.raises(EngineStartError, match="raise kv_cache_gib"):
        await vllm_engine.start(small, str(checkpoint("mistral")))
    # So does a compiler that is there, but can't compile.
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    compiled = config.model_copy(update={"compile": "auto"})
    with pytest.raises(EngineStartError, match=r"engine\.compile"):
        await vllm_engine.start(compiled, str(checkpoint("mistral")))
    assert processes() == []
    assert os.environ.get("LD_PRELOAD") == preloaded


async def test_a_cancelled_start_leaves_nothing(engines: Engines, checkpoint: Checkpoint) -> None:
    await engines.stop()
    loading = asyncio.Event()

    def report(phase: StartPhase | str) -> None:
        if phase == "load":
            loading.set()

    start = asyncio.create_task(
        vllm_engine.start(CONFIGS["mistral"], str(checkpoint("mistral")), report=report)
    )
    await loading.wait()
    async with asyncio.timeout(60):
        while not processes():
            await asyncio.sleep(0.05)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert processes() == []


@pytest.mark.parametrize("name", ["tiny", "tiny-public"])
async def test_a_killed_engine_fails_what_runs_and_can_still_be_closed(
    engines: Engines, name: str
) -> None:
    engine = await engines.use(name)
    prompt = await engine.render("Once upon a time")
    request = GenerateRequest(
        next(_ids), prompt, SamplingOptions(max_tokens=900, ignore_eos=True, n=2)
    )
    deltas = generate(engine, request)
    await anext(deltas)
    for process in processes():
        process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(10):
        with pytest.raises(EngineDeadError):
            async for _ in deltas:
                pass
        await engine.died()
        assert not engine.alive
        with pytest.raises(EngineDeadError):
            await engine.check_health()
        with pytest.raises(EngineDeadError):
            await run(engine, prompt)
        await engine.drain()
        await engine.close()
        await engine.close()
    assert processes() == []
    # Prompts are read all the same, also such as are read in a thread: for the next engine.
    text = "Once upon a time. " * 150
    assert await engine.detokenize((await engine.render(text)).token_ids) == text


async def test_a_loop_that_was_late_by_many_steps_loses_no_token(engines: Engines) -> None:
    engine = await engines.use("smollm2")
    prompt = await engine.render("Once upon a time")
    before = engine.stats().generation_tokens_total
    runs = [run(engine, prompt, max_tokens=64, ignore_eos=True) for _ in range(4)]
    tasks = [asyncio.ensure_future(one) for one in runs]
    while engine.stats().generation_tokens_total == before:
        await asyncio.sleep(0.01)
    time.sleep(1.5)  # noqa: ASYNC251
    async with asyncio.timeout(30):
        for deltas in await asyncio.gather(*tasks):
            assert len(tokens_of(deltas)) == 64
            assert deltas[-1].finish_reason == "length"


async def test_a_core_that_others_use_is_left_to_them_until_they_have_ended(
    engines: Engines,
) -> None:
    cores = available_cores()
    if cores < 2 or not threads_adapt(CONFIGS["smollm2"]):
        pytest.skip("its threads are given, or there is one anyway")
    engine = await engines.use("smollm2")
    (core,) = multiprocessing.active_children()
    process = psutil.Process(core.pid)
    assert await computing(engine, process, cores) == cores
    with others_busy():
        assert await computing(engine, process, 1) == 1
    assert await computing(engine, process, cores) == cores


@contextmanager
def others_busy() -> Iterator[None]:
    """Other programs keep every core busy."""
    count = len(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


async def computing(engine: VLLMEngine, process: psutil.Process, wanted: int) -> int:
    """How many threads an answer is computed with, once it is so many, or after a minute."""
    prompt = await engine.render("Once upon a time")
    deadline, found = time.monotonic() + 60, 0
    while found != wanted and time.monotonic() < deadline:
        before = {thread.id: thread.user_time for thread in process.threads()}
        begun = time.monotonic()
        await run(engine, prompt, max_tokens=64, ignore_eos=True)
        least = (time.monotonic() - begun) / 20
        found = sum(t.user_time - before.get(t.id, 0) > least for t in process.threads())
    return found


async def test_a_vllm_of_another_shape_is_used_by_its_public_interface(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await engines.stop()
    monkeypatch.setattr(vllm_shape, "_SCHEDULER", ("num_waiting_reqs", "no_such_figure"))
    path = engines.path("smollm2")
    engine = await vllm_engine.start(CONFIGS["smollm2"], str(path))
    try:
        assert "SchedulerStats has no no_such_figure" in caplog.text
        assert "Paris" in await ask(engine, "What is the capital of France?")
    finally:
        await engine.close()


async def test_what_is_no_vllm_at_all_is_told_as_a_reason() -> None:
    assert "internals have changed" in str(vllm_shape.mismatch(object()))
