"""What the suites write is read as it is meant, and judged by the list of expected failures."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.conformance.expectations import Expectations, ExpectationsError
from tests.conformance.outcomes import Outcome, read_junit, read_llmprobe
from tests.conformance.suites import SUITES

PYTEST = """<testsuites><testsuite name="pytest">
  <testcase classname="test_chat" name="test_a[x]" />
  <testcase classname="test_chat.TestChat" name="test_b"><failure message="no">trace</failure>
  </testcase>
  <testcase classname="test_chat" name="test_c"><error message="set-up">trace</error></testcase>
  <testcase classname="test_chat" name="test_d"><skipped message="no images" /></testcase>
</testsuite></testsuites>"""
NODE = """<testsuites>
  <testsuite name="chat"><testcase name="streams. And stops" classname="test"/></testsuite>
  <testcase name="alone" classname="test"><failure message="1 !== 2">trace</failure></testcase>
</testsuites>"""


def test_pytests_results_are_read(tmp_path: Path) -> None:
    (tmp_path / "results").write_text(PYTEST)
    assert read_junit(tmp_path / "results") == [
        Outcome("test_chat::test_a[x]", "passed"),
        Outcome("test_chat::TestChat::test_b", "failed", "no"),
        Outcome("test_chat::test_c", "failed", "set-up"),
        Outcome("test_chat::test_d", "skipped", "no images"),
    ]


def test_nodes_results_are_read(tmp_path: Path) -> None:
    (tmp_path / "results").write_text(NODE)
    assert read_junit(tmp_path / "results") == [
        Outcome("chat::streams. And stops", "passed"),
        Outcome("alone", "failed", "1 !== 2"),
    ]


def test_llmprobes_results_are_read_whole_or_of_one_surface(tmp_path: Path) -> None:
    probes = [
        {"id": "chat-basic", "surface": "chat", "outcome": "pass", "failures": []},
        {"id": "chat-n", "surface": "chat", "outcome": "fail", "failures": [{"message": "one"}]},
        {"id": "audio", "surface": "audio", "outcome": "unsupported", "reason": "none"},
        {"id": "gone", "surface": "audio", "outcome": "unreachable", "reason": "refused"},
    ]
    (tmp_path / "results").write_text(json.dumps({"conformance": {"results": probes}}))
    assert read_llmprobe(tmp_path / "results") == [
        Outcome("chat-basic", "passed"),
        Outcome("chat-n", "failed", "one"),
        Outcome("audio", "skipped", "none"),
        Outcome("gone", "failed", "refused"),
    ]
    assert [one.name for one in read_llmprobe(tmp_path / "results", "audio")] == ["audio", "gone"]


def test_an_expected_failure_is_no_failure_and_its_lack_is_one() -> None:
    expectations = Expectations({"suite": {"test_a": "too small", "test_b[x]": "too small"}})
    judged = expectations.judge(
        "suite",
        "client 1.0",
        1.0,
        [
            Outcome("test_a[x]", "failed", "trace"),
            Outcome("test_a[y]", "passed"),
            Outcome("test_b[x]", "skipped", "no images"),
            Outcome("test_b[y]", "failed", "trace"),
        ],
    )
    assert [one.state for one in judged.outcomes] == [
        "expected",
        "unexpected",
        "skipped",
        "failed",
    ]
    assert judged.outcomes[0].detail == "too small"
    assert not judged.good


def test_a_suite_is_good_when_all_is_as_expected_and_there_was_something() -> None:
    expectations = Expectations({"suite": {"test_a": "too small"}})
    outcomes = [Outcome("test_a", "failed"), Outcome("test_b", "passed")]
    assert expectations.judge("suite", "client 1.0", 1.0, outcomes).good
    assert not expectations.judge("suite", "client 1.0", 1.0, []).good


def test_a_list_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    (tmp_path / "expected.toml").write_text("[suite]\ntest = 1")
    with pytest.raises(ExpectationsError, match=r"expected\.toml"):
        Expectations.read(tmp_path / "expected.toml")


def test_every_expected_failure_is_a_suites() -> None:
    listed = tomllib.loads((Path(__file__).parent / "expected.toml").read_text())
    assert listed.keys() <= SUITES.keys()
    assert all(reason for reasons in listed.values() for reason in reasons.values())
