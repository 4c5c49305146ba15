"""The text that calibrates, and its way into token sequences."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.quality.text import is_for_evaluation
from engine.quantize import QuantizeError, SettingsError, default_calibration, read_calibration
from engine.quantize.calibration import Document, calibrates
from engine.quantize.tokens import token_sequences


class Words:
    """A tokenizer of one token a word."""

    chat_template: str | None = "template"

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}

    def apply_chat_template(self, messages: Any, **_: Any) -> list[int]:
        return [0] + [len(word) for one in messages for word in one["content"].split()]


class WithoutTemplate(Words):
    chat_template = None


def written(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_the_default_text_is_the_same_every_time() -> None:
    first, second = default_calibration(), default_calibration()
    assert first.documents == second.documents
    assert first.digest == second.digest
    assert len(first.documents) > 100


def test_no_module_that_calibrates_is_one_that_judges() -> None:
    modules = [name for name in sys.stdlib_module_names if not name.startswith("_")]
    assert [name for name in modules if calibrates(name) == is_for_evaluation(name)] == []


def test_the_default_text_can_be_conversations() -> None:
    plain, chats = default_calibration(), default_calibration(chat=True)
    assert len(plain.documents) == len(chats.documents)
    chat = chats.documents[0]
    assert not isinstance(chat, str)
    assert [one["role"] for one in chat] == ["user", "assistant"]
    assert chat[1]["content"] == plain.documents[0]


def test_lines_of_a_file_are_texts_or_conversations(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    file = written(tmp_path / "text.jsonl", {"text": "one two"}, {"messages": chat, "id": 1})
    found = read_calibration(file)
    assert found.documents == ("one two", chat)
    assert found.source == str(file)


def test_any_other_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one\n\ntwo")
    assert read_calibration(tmp_path / "text.txt").documents == ("one\n\ntwo",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ('{"prompt": "Hi"}', 'line 2: expected {"text"'),
        ('{"messages": []}', "line 2: expected"),
        ('{"messages": [{"role": "robot", "content": "Hi"}]}', "line 2: expected"),
        ('{"messages": [{"role": "user", "content": null}]}', "line 2: expected"),
    ],
)
def test_a_line_that_can_not_be_used_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "fine"}\n' + line)
    with pytest.raises(SettingsError) as caught:
        read_calibration(file)
    assert said in str(caught.value)
    assert "--calibration" in str(caught.value)


def test_a_file_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(SettingsError, match="holds no text"):
        read_calibration(tmp_path / "empty.txt")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_calibration(tmp_path / "none.txt")


def test_sequences_are_the_documents_end_to_end_and_equally_long() -> None:
    documents: list[Document] = [
        "a bb ccc",
        [{"role": "user", "content": "dddd eeeee"}],
        "ffffff ggggggg",
    ]
    assert token_sequences(documents, Words(), 3, 3) == [[1, 2, 3], [0, 4, 5]]


def test_no_more_sequences_are_made_than_asked_for() -> None:
    assert token_sequences(["a bb ccc dddd"], Words(), 1, 2) == [[1, 2]]


def test_too_little_text_is_refused_with_its_size() -> None:
    with pytest.raises(QuantizeError, match="2 tokens, fewer than one sequence of 8"):
        token_sequences(["a b"], Words(), 4, 8)


def test_conversations_need_a_chat_template() -> None:
    with pytest.raises(QuantizeError, match="no chat template"):
        token_sequences([[{"role": "user", "content": "Hi"}]], WithoutTemplate(), 1, 1)
