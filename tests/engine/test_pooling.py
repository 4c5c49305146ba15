"""A real model that embeds, and one that scores pairs, in vLLM."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Sequence

import pytest
import torch
from prometheus_client import generate_latest
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from engine import vllm_pooling
from engine.base import ContextLengthError, GenerateRequest, InvalidPromptError, SamplingOptions
from engine.pooling import Embedder
from engine.streaming import generate
from tests.engines import CONFIGS, Engines, minilm

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

TEXTS = [
    "Paris is the capital of France.",
    "What is the capital of France?",
    "Ünïcode, too: 你好",
    "a " * 254,
]


async def embedded(
    embedder: Embedder, texts: Sequence[str], dimensions: int | None = None
) -> list[list[float]]:
    prompts = [await embedder.render(text) for text in texts]
    vectors = await embedder.embed("test", prompts, dimensions)
    return [array("f", vector).tolist() for vector in vectors]


async def test_vectors_are_those_of_sentence_transformers(engines: Engines) -> None:
    """Which are the mean over the tokens' last hidden states, made one long."""
    embedder = await engines.use_embedder("embedder")
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    model = AutoModel.from_pretrained(minilm(), dtype=torch.float32)
    for text, vector in zip(TEXTS, await embedded(embedder, TEXTS), strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        expected = torch.nn.functional.normalize(hidden.mean(1), dim=1)[0]
        assert len(vector) == embedder.pooling.dimensions == 384
        assert torch.allclose(torch.tensor(vector), expected, atol=1e-5)


async def test_a_prompt_may_fill_the_context_and_is_counted_exactly(engines: Engines) -> None:
    embedder = await engines.use_embedder("embedder")
    assert len((await embedder.render(TEXTS[3])).token_ids) == embedder.info.max_model_len == 256
    with pytest.raises(ContextLengthError):
        await embedder.render("a " * 255)
    with pytest.raises(InvalidPromptError):
        await embedder.render([10**6])
    with pytest.raises(InvalidPromptError):
        await embedder.render([])
    with pytest.raises(InvalidPromptError):
        await embedder.render("\ud83d")


async def test_token_ids_are_embedded_as_they_are(engines: Engines) -> None:
    embedder = await engines.use_embedder("embedder")
    prompt = await embedder.render(TEXTS[0])
    again = await embedder.render(list(prompt.token_ids))
    one, two = await embedder.embed("test", [prompt, again])
    assert one == two


async def test_shorter_vectors_are_the_beginning_made_one_long(engines: Engines) -> None:
    embedder = await engines.use_embedder("embedder")
    (whole,) = await embedded(embedder, TEXTS[:1])
    (short,) = await embedded(embedder, TEXTS[:1], dimensions=64)
    length = math.hypot(*whole[:64])
    assert short == pytest.approx([value / length for value in whole[:64]], abs=1e-5)
    with pytest.raises(InvalidPromptError) as error:
        await embedded(embedder, TEXTS[:1], dimensions=385)
    assert error.value.param == "dimensions"


async def test_many_texts_at_once_come_back_in_their_order(engines: Engines) -> None:
    embedder = await engines.use_embedder("embedder")
    texts = [f"The number {number}" for number in range(40)]
    together = await embedded(embedder, texts)
    for place in (0, 17, 39):
        (alone,) = await embedded(embedder, texts[place : place + 1])
        assert together[place] == pytest.approx(alone, abs=1e-5)
    assert embedder.stats().running == 0


async def test_an_embedders_scores_are_cosines_and_find_the_answer(engines: Engines) -> None:
    embedder = await engines.use_embedder("embedder")
    scores = await embedder.score("test", [(TEXTS[1], TEXTS[0]), (TEXTS[1], "I like bananas.")])
    one, two = await embedded(embedder, TEXTS[:2])
    assert scores.values[0] == pytest.approx(
        sum(a * b for a, b in zip(one, two, strict=True)), abs=1e-5
    )
    assert scores.values[0] > 0.7 > 0.3 > scores.values[1]
    read = [await embedder.render(text) for text in (*TEXTS[:2], "I like bananas.")]
    assert scores.prompt_tokens == sum(len(prompt.token_ids) for prompt in read)


async def test_a_call_that_is_cancelled_leaves_nothing_in_the_engine(engines: Engines) -> None:
    embedder = await engines.use_embedder("embedder")
    prompts = [await embedder.render(TEXTS[3])] * 200
    call = asyncio.create_task(embedder.embed("cancelled", prompts))
    while not embedder.stats().running:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(embedder.drain(), 5)
    # The same identifiers may be used again.
    assert len(await embedder.embed("cancelled", prompts[:4])) == 4


async def test_what_was_read_is_told_as_the_meter_counts_it(engines: Engines) -> None:
    embedder = await engines.use_embedder("embedder")
    before, read = embedder.stats().prompt_tokens_total, list[int]()
    prompts = [await embedder.render(text) for text in TEXTS]
    await embedder.embed("test", prompts, None, read.append)
    assert sorted(read) == sorted(len(prompt.token_ids) for prompt in prompts)
    scores = await embedder.score("test", [(TEXTS[0], TEXTS[1])], None, read.append)
    assert sum(read[len(prompts) :]) == scores.prompt_tokens
    assert sum(read) == embedder.stats().prompt_tokens_total - before


async def test_what_was_read_until_it_is_cancelled_is_told(engines: Engines) -> None:
    embedder = await engines.use_embedder("embedder")
    before, read, some = embedder.stats().prompt_tokens_total, list[int](), asyncio.Event()

    def count(tokens: int) -> None:
        read.append(tokens)
        some.set()

    prompts = [await embedder.render(TEXTS[3])] * 200
    call = asyncio.create_task(embedder.embed("cancelled", prompts, None, count))
    await asyncio.wait_for(some.wait(), 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(embedder.drain(), 5)
    assert 0 < len(read) < len(prompts)
    assert sum(read) == embedder.stats().prompt_tokens_total - before


async def test_a_cross_encoders_scores_are_those_of_transformers(engines: Engines) -> None:
    encoder = await engines.use_embedder("cross-encoder")
    path = engines.path("cross-encoder")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    pairs = [(TEXTS[1], TEXTS[0]), (TEXTS[1], "I like bananas."), (TEXTS[0], TEXTS[1])]
    read: list[int] = []
    scores = await encoder.score("test", pairs, None, read.append)
    tokens = 0
    for pair, value in zip(pairs, scores.values, strict=True):
        encoded = tokenizer(*pair, return_tensors="pt")
        tokens += encoded["input_ids"].shape[1]
        with torch.no_grad():
            expected = torch.sigmoid(model(**encoded).logits)[0, 0]
        assert value == pytest.approx(float(expected), abs=1e-4)
    assert scores.prompt_tokens == tokens == sum(read)
    assert len(set(scores.values)) == 3
    with pytest.raises(InvalidPromptError, match="makes no embeddings"):
        await embedded(encoder, TEXTS[:1])
    with pytest.raises(ContextLengthError):
        await encoder.score("test", [("a " * 200, "b " * 200)])


async def test_two_engines_in_one_process_keep_their_series_apart(engines: Engines) -> None:
    chat = await engines.use("smollm2")
    embedder = await vllm_pooling.start(CONFIGS["embedder"], str(minilm()), name="second")
    try:
        sampling = SamplingOptions(max_tokens=2, ignore_eos=True)
        request = GenerateRequest("beside", await chat.render("Hello"), sampling)
        assert [delta async for delta in generate(chat, request)]
        await embedded(embedder, TEXTS[:2])
        lines = generate_latest().decode().splitlines()
        for model in ("smollm2-135m-instruct", "second"):
            assert f'vllm:num_requests_running{{engine="0",model_name="{model}"}} 0.0' in lines
    finally:
        await embedder.close()
    text = generate_latest().decode()
    assert 'model_name="second"' not in text
    assert 'model_name="smollm2-135m-instruct"' in text
