"""Text completions over a socket."""

from __future__ import annotations

import json

from tests.gateway.conftest import MODEL, LiveGateway
from tests.gateway.test_chat import events

PATH = "/v1/completions"


async def test_sixteen_tokens_are_the_default(gateway: LiveGateway) -> None:
    _, answer = await gateway.post(PATH, {"model": MODEL, "prompt": "Once", "ignore_eos": True})
    assert answer["object"] == "text_completion"
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_several_prompts_are_completed_n_times_each_in_order(gateway: LiveGateway) -> None:
    body = {"model": MODEL, "prompt": ["a", "bb"], "n": 2, "max_tokens": 3, "ignore_eos": True}
    _, answer = await gateway.post(PATH, body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 12
    counts = [(await gateway.post("/tokenize", {"prompt": p}))[1]["count"] for p in ("a", "bb")]
    assert answer["usage"]["prompt_tokens"] == sum(counts)


async def test_a_stream_of_several_prompts_finishes_each_choice_once(gateway: LiveGateway) -> None:
    body = {"model": MODEL, "prompt": ["a", "b", "c"], "max_tokens": 5, "ignore_eos": True}
    *chunks, done = await events(gateway, body, PATH)
    assert done == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    ended = [choice["index"] for choice in choices if choice["finish_reason"]]
    assert sorted(ended) == [0, 1, 2]


async def test_token_ids_are_a_prompt_of_exactly_their_number(gateway: LiveGateway) -> None:
    _, tokens = await gateway.post("/tokenize", {"prompt": "hello world"})
    body = {"model": MODEL, "prompt": tokens["tokens"], "max_tokens": 1}
    _, answer = await gateway.post(PATH, body)
    assert answer["usage"]["prompt_tokens"] == tokens["count"]


async def test_detokenize_undoes_tokenize(gateway: LiveGateway) -> None:
    text = "héllo wörld 🙂"
    _, tokens = await gateway.post("/tokenize", {"prompt": text, "add_special_tokens": False})
    _, back = await gateway.post("/detokenize", {"tokens": tokens["tokens"]})
    assert back["prompt"] == text


async def test_the_openai_sdk_completes(gateway: LiveGateway) -> None:
    answer = await gateway.openai.completions.create(model=MODEL, prompt="Once", max_tokens=4)
    assert answer.choices[0].text
    models = [model.id async for model in gateway.openai.models.list()]
    assert models == [MODEL]
    assert (await gateway.openai.models.retrieve(MODEL)).id == MODEL
