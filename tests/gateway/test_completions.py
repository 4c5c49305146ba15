"""Text completions over a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.base import Prompt, TokenDelta, TokenLogprob
from gateway import rendering
from gateway.answers import Heading
from gateway.answers.text import TextAnswer, TextForm
from gateway.call import Usage
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


async def test_an_echo_has_the_prompt_in_front_of_each_choice(gateway: LiveGateway) -> None:
    answer = await gateway.openai.completions.create(
        model=MODEL, prompt=["One", "Two"], echo=True, n=2, max_tokens=3
    )
    assert [choice.text for choice in answer.choices] == ["OneThe", "OneThe", "TwoThe", "TwoThe"]
    whole, streamed = "OneThe", ""
    async for chunk in await gateway.openai.completions.create(
        model=MODEL, prompt="One", echo=True, max_tokens=3, stream=True
    ):
        streamed += chunk.choices[0].text
    assert streamed == whole


async def test_an_echo_of_no_tokens_is_the_scored_prompt_alone(gateway: LiveGateway) -> None:
    answer = await gateway.openai.completions.create(
        model=MODEL, prompt="One", echo=True, max_tokens=0, logprobs=1
    )
    (choice,) = answer.choices
    assert choice.text == "One"
    assert choice.finish_reason == "length"
    assert choice.logprobs
    # The simulated engine's prompts begin with a control token, which has no text.
    assert choice.logprobs.tokens == ["", "O", "n", "e"]
    assert choice.logprobs.token_logprobs == [None, 0.0, 0.0, 0.0]
    assert choice.logprobs.text_offset == [0, 0, 1, 2]
    assert answer.usage
    assert answer.usage.completion_tokens == 0


async def test_the_chosen_token_is_always_among_the_likeliest(gateway: LiveGateway) -> None:
    answer = await gateway.openai.completions.create(
        model=MODEL, prompt="One", max_tokens=2, logprobs=0
    )
    assert answer.choices[0].logprobs
    assert answer.choices[0].logprobs.top_logprobs == [{"T": 0.0}, {"h": 0.0}]


@pytest.mark.parametrize("echo", [False, True])
async def test_offsets_count_from_the_prompts_beginning_streamed_and_whole(
    gateway: LiveGateway, echo: bool
) -> None:
    fields: Any = {"model": MODEL, "prompt": "Né", "echo": echo, "max_tokens": 4, "logprobs": 1}
    answer = await gateway.openai.completions.create(**fields)
    whole = answer.choices[0].logprobs
    assert whole
    assert whole.text_offset
    assert whole.text_offset[-4:] == [2, 3, 4, 5]
    told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "text_offset": []}
    async for chunk in await gateway.openai.completions.create(**fields, stream=True):
        logprobs = chunk.choices[0].logprobs
        for name, values in told.items():
            values += getattr(logprobs, name) if logprobs else []
    assert told == {name: getattr(whole, name) for name in told}


async def test_token_prompts_are_echoed_as_text(gateway: LiveGateway) -> None:
    answer = await gateway.openai.completions.create(
        model=MODEL, prompt=[79, 110, 101], echo=True, max_tokens=1
    )
    assert answer.choices[0].text == "OneT"


async def test_the_best_of_several_are_told_and_all_are_counted(gateway: LiveGateway) -> None:
    answer = await gateway.openai.completions.create(
        model=MODEL, prompt=["One", "Two"], best_of=3, max_tokens=4
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.logprobs for choice in answer.choices] == [None, None]
    assert answer.usage
    assert answer.usage.completion_tokens == 2 * 3 * 4


def test_a_completion_that_says_nothing_is_not_the_best() -> None:
    def scored(text: str, *logprobs: float) -> TokenDelta:
        scores = [TokenLogprob(5, text, text.encode(), one) for one in logprobs]
        return TokenDelta(0, text, [5], "stop", logprobs=scores)

    answer = TextAnswer(Heading("cmpl-1", MODEL, "fp"), TextForm(n=2, best_of=3))
    answer.begin([Prompt([1], "One")])
    made = [scored(""), scored("unlikely", -9.0), scored("likely", -0.5)]
    told = json.loads(answer.whole(made, Usage(1, 3, 0)))
    assert [choice["text"] for choice in told["choices"]] == ["likely", "unlikely"]


@pytest.mark.parametrize(
    ("fields", "scores"),
    [
        ({"prompt": "One", "n": 3}, 3 * 5 * 2),
        ({"prompt": ["One", "Three"]}, 2 * 5 * 2),
        ({"prompt": "One", "n": 3, "echo": True}, 3 * (4 + 5) * 2),
        ({"prompt": ["One", "Three"], "echo": True}, (4 + 5 + 6 + 5) * 2),
        ({"prompt": "One", "echo": True, "max_tokens": 0}, (4 + 1) * 2),
    ],
)
async def test_log_probabilities_are_bounded_over_all_prompts_and_choices(
    gateway: LiveGateway, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], scores: int
) -> None:
    body = {"model": MODEL, "max_tokens": 5, "logprobs": 1, **fields}
    monkeypatch.setattr(rendering, "MAX_SCORES", scores)
    status, _ = await gateway.post(PATH, body)
    assert status == 200
    monkeypatch.setattr(rendering, "MAX_SCORES", scores - 1)
    status, answer = await gateway.post(PATH, body)
    assert (status, answer["error"]["param"]) == (400, "logprobs")
    assert f"may be {scores} in all, and {scores - 1} are allowed" in answer["error"]["message"]
