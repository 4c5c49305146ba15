from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bench.sse import StreamScan


def event(value: object, *, compact: bool = True, newline: str = "\n") -> bytes:
    text = json.dumps(value, separators=(",", ":") if compact else (", ", ": "))
    return f"data: {text}{newline}{newline}".encode()


def chat(text: str | None, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}], **more}


STREAM = b"".join(
    [
        b": a comment\n\n",
        event({"choices": [{"delta": {"role": "assistant", "content": ""}}], "usage": None}),
        event(chat("one")),
        event(chat('he said "usage":{} and [DONE]'), compact=False, newline="\r\n"),
        event({"choices": [{"index": 0, "text": "two"}], "usage": None}),
        event({"choices": [{"delta": {"reasoning_content": "three"}}]}),
        event({"choices": [{"delta": {}, "finish_reason": "length"}]}),
        event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}),
        b"data: [DONE]\n\n",
    ]
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_cut_into_any_reads_says_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    scan = StreamScan()
    for start, end in pairwise(edges):
        scan.feed(STREAM[start:end], now=float(end))

    assert len(scan.content_times) == 4
    assert scan.content_times == sorted(scan.content_times)
    assert scan.usage == {"prompt_tokens": 5, "completion_tokens": 4}
    assert scan.done
    assert scan.error is None


def test_a_chunk_has_the_time_of_the_read_that_completed_it() -> None:
    scan = StreamScan()
    whole = event(chat("hello"))
    scan.feed(whole[:20], now=1.0)
    scan.feed(whole[20:] + event(chat("again")), now=2.0)
    scan.feed(event(chat("later")), now=3.0)

    assert scan.content_times == [2.0, 2.0, 3.0]


def test_usage_in_the_same_chunk_as_text_is_read() -> None:
    scan = StreamScan()
    scan.feed(event(chat("x", usage={"prompt_tokens": 1, "completion_tokens": 2})), now=0.0)

    assert scan.usage == {"prompt_tokens": 1, "completion_tokens": 2}
    assert len(scan.content_times) == 1


@given(st.text())
def test_no_text_of_a_model_is_taken_for_usage_an_error_or_the_end(text: str) -> None:
    scan = StreamScan()
    for wording in (text, f'{text}"usage": {{"prompt_tokens": 1}}', f'"error":{{}} {text} [DONE]'):
        scan.feed(event(chat(wording)), now=0.0)

    assert (scan.usage, scan.error, scan.done) == (None, None, False)


def test_an_error_event_is_kept_and_a_null_error_is_none() -> None:
    scan, quiet = StreamScan(), StreamScan()
    quiet.feed(event({"choices": [], "error": None}), now=0.0)
    scan.feed(event({"error": {"message": "engine died"}}, compact=False), now=0.0)

    assert quiet.error is None
    assert "engine died" in str(scan.error)


def test_broken_json_around_usage_is_an_error() -> None:
    scan = StreamScan()
    scan.feed(b'data: {"usage":{"prompt_tokens"\n\n', now=0.0)

    assert scan.error is not None
    assert "not JSON" in scan.error
