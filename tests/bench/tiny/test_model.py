from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.tiny.model import END, TinyModel, make

CONTENT = "what is the color of the sea"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make(tmp_path_factory.mktemp("tiny"))


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_the_same_seed_makes_the_same_checkpoint(model: TinyModel, tmp_path: Path) -> None:
    again = make(tmp_path)

    assert files(again.path) == files(model.path)
    assert again.successors == model.successors


def test_another_seed_gives_other_answers(model: TinyModel, tmp_path: Path) -> None:
    other = make(tmp_path, seed=1)

    assert other.answer(other.prompt(CONTENT), 20) != model.answer(model.prompt(CONTENT), 20)


def test_greedy_answers_are_what_transformers_generates(model: TinyModel) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model.path)
    messages = [{"role": "user", "content": CONTENT}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    llama = AutoModelForCausalLM.from_pretrained(model.path)

    whole_cycle = len(model.successors)
    generated = llama.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=whole_cycle,
        do_sample=False,
        eos_token_id=None,
    )[0, len(prompt) :].tolist()

    assert prompt == model.prompt(CONTENT)
    text, count = model.answer(prompt, whole_cycle)
    assert count == len(generated) == whole_cycle
    decoded = tokenizer.decode(generated, skip_special_tokens=True)
    assert decoded.rstrip("\N{REPLACEMENT CHARACTER}") == text
    for length in range(1, 200):
        beginning = tokenizer.decode(generated[:length], skip_special_tokens=True)
        assert model.answer(prompt, length)[0] == beginning.rstrip("\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("character", ["😀", "🎉", "漢", "字", "e\N{COMBINING ACUTE ACCENT}"])
def test_the_cycle_says_every_character_that_is_spread_over_tokens(
    model: TinyModel, character: str
) -> None:
    text, _ = model.answer(model.prompt(CONTENT), len(model.successors))

    assert character in text
    assert len(model.tokenizer.encode(character, add_special_tokens=False).ids) > 1


def test_the_cycle_passes_the_end_of_sequence(model: TinyModel) -> None:
    assert END in model.successors
    assert set(model.successors) == set(model.successors.values())
