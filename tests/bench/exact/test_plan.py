from __future__ import annotations

import json

import pytest

from bench.exact.answers import foretold
from bench.exact.plan import Case, plan
from bench.tiny.model import END, SPECIAL, TinyModel, make
from bench.tiny.walk import Foretold, foretell, walk


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def cases(model: TinyModel) -> list[Case]:
    return plan(model, "m", 600, 0)


def told(model: TinyModel, start: int, count: int, *stop: str, min_tokens: int = 0) -> Foretold:
    return foretell(model, start, max_tokens=count, min_tokens=min_tokens, ending={END}, stop=stop)


def before(model: TinyModel, character: str) -> tuple[int, int]:
    """The token whose walk begins with a character, and over how many tokens that is spread."""
    return next(
        (token, count)
        for token in model.successors
        for count in (2, 3)
        if model.tokenizer.decode(walk(model, token, count)) == character
    )


def test_a_request_depends_on_its_number_and_the_seed_alone(
    model: TinyModel, cases: list[Case]
) -> None:
    assert plan(model, "m", 20, 0) == cases[:20]
    assert plan(model, "m", 20, 1) != cases[:20]


def test_a_plan_covers_what_a_fast_path_can_get_wrong(model: TinyModel, cases: list[Case]) -> None:
    bodies = [case.body for case in cases]
    known = [found for case in cases if (found := foretold(model, case)) is not None]

    assert {case.body["temperature"] for case in cases} == {0, 1, 2}
    assert {case.choices for case in cases} >= {1, 2, 3}
    assert {len(case.stops) for case in cases} == {0, 1, 2, 3, 4}
    assert {"stop_token_ids", "min_tokens", "messages", "prompt"} <= set().union(*bodies)
    assert {type(body["stop"]) for body in bodies if "stop" in body} == {str, list}
    assert any(isinstance(body.get("prompt"), list) for body in bodies)
    assert {found.finish_reason for found in known} == {"stop", "length"}
    assert any(found.stop_spans for found in known)
    assert any(found.spread for found in known)
    assert any("😀" in json.dumps(body, ensure_ascii=False) for body in bodies)


def test_limits_and_prompt_lengths_stay_within_what_was_asked(model: TinyModel) -> None:
    for case in plan(model, "m", 200, 3, max_tokens=7, max_words=5):
        assert 1 <= case.max_tokens <= 7
        assert 0 <= case.body.get("min_tokens", 0) <= case.max_tokens
        prompt = case.body["messages"][0]["content"] if case.chat else case.body["prompt"]
        for one in prompt if case.choices > case.body.get("n", 1) else [prompt]:
            assert len(one.split(" ") if isinstance(one, str) else one) <= 5


def test_prompts_of_token_ids_end_in_whole_text(model: TinyModel, cases: list[Case]) -> None:
    for case in cases:
        prompt = case.body.get("prompt")
        if isinstance(prompt, list) and isinstance(prompt[0], int):
            assert min(prompt[:-1], default=len(SPECIAL)) >= len(SPECIAL)
            assert "\N{REPLACEMENT CHARACTER}" not in model.tokenizer.decode(prompt[-1:])


def test_nothing_is_foretold_of_sampled_answers(model: TinyModel, cases: list[Case]) -> None:
    assert all(case.greedy for case in cases if foretold(model, case) is not None)


def test_only_several_greedy_choices_are_kept_from_vllm(cases: list[Case]) -> None:
    refused = [case for case in cases if not case.vllm_takes_it]

    assert refused
    assert all(case.greedy and case.body["n"] > 1 for case in refused)


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_is_sent_with_its_mode_alone_added(cases: list[Case], stream: bool) -> None:
    sent = json.loads(cases[0].encoded(stream=stream))

    assert sent.pop("stream", False) is stream
    assert sent.pop("stream_options", {}) == ({"include_usage": True} if stream else {})
    assert sent == cases[0].body


def test_without_stops_the_walk_is_the_models_answer(model: TinyModel) -> None:
    prompt = model.prompt("what is the color of the sea")

    found = foretell(model, prompt[-1], max_tokens=200, min_tokens=0, ending=(), stop=())

    assert (found.text, found.completion_tokens) == model.answer(prompt, 200)
    assert found.finish_reason == "length"


def test_the_end_of_sequence_counts_but_is_not_text(model: TinyModel) -> None:
    backwards = {following: token for token, following in model.successors.items()}
    start = backwards[backwards[END]]

    found = told(model, start, 5)

    expected = model.tokenizer.decode(walk(model, start, 1))
    assert (found.text, found.completion_tokens, found.finish_reason) == (expected, 2, "stop")


def test_a_stop_ends_at_the_token_that_completes_it(model: TinyModel) -> None:
    start = model.prompt("the sea")[-1]
    first, second = (model.tokenizer.decode([token]) for token in walk(model, start, 2))

    spanning = told(model, start, 9, first[-1:] + second[:1])
    inside = told(model, start, 9, second)

    assert spanning == Foretold(first[:-1], 2, "stop", stop_spans=True, spread=0)
    assert inside == Foretold(first, 2, "stop", stop_spans=False, spread=0)


def test_of_two_stops_the_one_complete_first_wins_then_the_first_listed(model: TinyModel) -> None:
    start = model.prompt("the sea")[-1]
    text = told(model, start, 3).text

    assert told(model, start, 9, text[:3], text[1:2]).text == text[:1]
    assert told(model, start, 9, text[:2], text[1:2]).text == ""
    assert told(model, start, 9, text[1:2], text[:2]).text == text[:1]


def test_a_stop_counts_only_after_the_least_tokens(model: TinyModel) -> None:
    start = model.prompt("the sea")[-1]
    text = told(model, start, 1).text

    assert told(model, start, 9, text, min_tokens=1).completion_tokens > 1
    assert told(model, start, 9, text, min_tokens=0).completion_tokens == 1


@pytest.mark.parametrize("character", ["😀", "🎉", "漢", "字"])
def test_a_character_is_text_with_its_last_token(model: TinyModel, character: str) -> None:
    start, tokens = before(model, character)

    assert told(model, start, tokens - 1) == Foretold(
        "", tokens - 1, "length", stop_spans=False, spread=0
    )
    assert told(model, start, tokens) == Foretold(
        character, tokens, "length", stop_spans=False, spread=1
    )
    assert told(model, start, 9, character) == Foretold(
        "", tokens, "stop", stop_spans=False, spread=1
    )
