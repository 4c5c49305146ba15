from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.quality.text import is_for_evaluation, standard_library
from bench.quality.windows import cut, text_tokens
from tests.bench.quality.conftest import Serve
from tests.bench.quality.known import BOS, Known, content, measured, quality


async def test_perplexity_is_that_of_the_models_probabilities(
    serve: Serve, words: Path, tmp_path: Path
) -> None:
    url = await serve(Known())
    markdown = tmp_path / "table.md"

    record = await measured(
        url,
        tmp_path / "r.json",
        *("--perplexity", "--text", words, "--length", "20", "--markdown", markdown),
    )

    found = record["perplexity"]
    ids = [len(word) for word in content(words).split()]
    scored = [token for n, token in enumerate(ids) if n % 20]
    assert found["tokens"] == len(scored) == 380
    assert found["value"] == pytest.approx(math.exp(sum(scored) / 4 / len(scored)))
    assert found["low"] < found["value"] < found["high"]
    assert [window["tokens"] for window in found["windows"]] == [19] * 20
    assert found["identity"]["text_sha256"] == sha256(content(words).encode()).hexdigest()
    assert f"| perplexity | {found['value']:.3f} |" in content(markdown)
    assert record["answers"] is None
    assert record["tasks"] is None


async def test_windows_begin_as_prompts_do(serve: Serve, words: Path, tmp_path: Path) -> None:
    known = Known(prefix=(BOS,))
    url = await serve(known)

    record = await measured(
        url, tmp_path / "r.json", "--perplexity", "--text", words, "--length", "11"
    )

    assert {body["prompt"][0] for body in known.bodies} == {BOS}
    assert {len(body["prompt"]) for body in known.bodies} == {11}
    assert record["perplexity"]["tokens"] == 400


def test_the_text_is_of_the_half_that_calibrates_nothing() -> None:
    text = standard_library()

    assert is_for_evaluation("typing")
    assert not is_for_evaluation("logging")
    assert "Special type indicating an unconstrained type." in text.content
    assert "Logging package for Python" not in text.content
    assert "".join(text.pieces()) == text.content


@given(
    total=st.integers(0, 60),
    prefix=st.integers(0, 2),
    room=st.integers(2, 12),
    overlap=st.integers(0, 11),
)
def test_every_token_with_context_is_scored_once(
    total: int, prefix: int, room: int, overlap: int
) -> None:
    stride = room - overlap % room
    tokens = list(range(100, 100 + total))
    shape = {"length": prefix + room, "stride": stride, "count": 100}

    windows = cut(tokens, [BOS] * prefix, **shape)

    scored = [token for window in windows for token in window.scored]
    reached = text_tokens(prefix, **{**shape, "count": len(windows)}) if windows else 0
    assert scored == sorted(set(scored))
    # Without a prefix a window's first token has no context, unless windows overlap.
    bare = {100 + n * stride for n in range(len(windows) if stride == room else 1)}
    assert set(tokens[:reached]) - set(scored) == (set() if prefix or not windows else bare)
    assert all(len(window.tokens) == prefix + room for window in windows)
    assert total - reached < max(stride, room)


PERPLEXITY = ("--perplexity", "--length", "20")


async def test_the_same_model_allows_no_conclusion(
    serve: Serve, words: Path, tmp_path: Path
) -> None:
    url, first = await serve(Known()), tmp_path / "first.json"
    await measured(url, first, *PERPLEXITY, "--text", words)
    noisy = await serve(Known(shift=lambda tokens: 0.05 if sum(tokens) % 2 else -0.05))

    same, other = [
        await measured(at, tmp_path / "r.json", *PERPLEXITY, "--text", words, "--baseline", first)
        for at in (url, noisy)
    ]

    assert same["baseline"]["perplexity"]["ratio"] == 1
    assert same["baseline"]["perplexity"]["verdict"] == "no conclusion"
    assert other["baseline"]["perplexity"]["ratio"] != 1
    assert other["baseline"]["perplexity"]["verdict"] == "no conclusion"


async def test_a_worse_model_is_found_worse_and_a_better_one_better(
    serve: Serve, words: Path, tmp_path: Path
) -> None:
    good, bad = await serve(Known()), await serve(Known(shift=lambda _tokens: -0.1))
    first = tmp_path / "first.json"
    await measured(good, first, *PERPLEXITY, "--text", words)
    second = tmp_path / "second.json"

    worse = await measured(bad, second, *PERPLEXITY, "--text", words, "--baseline", first)
    better = await measured(
        good, tmp_path / "r.json", *PERPLEXITY, "--text", words, "--baseline", second
    )

    assert worse["baseline"]["perplexity"]["verdict"] == "worse"
    assert worse["baseline"]["perplexity"]["ratio"] == pytest.approx(math.exp(0.1))
    assert better["baseline"]["perplexity"]["verdict"] == "better"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("text", "another text"),
        ("tokenizer", "other tokens"),
        ("length", "--length 20"),
        ("windows", "--windows 20"),
    ],
)
async def test_what_is_not_comparable_is_refused_before_it_is_measured(
    serve: Serve, words: Path, tmp_path: Path, change: str, said: str
) -> None:
    first = tmp_path / "first.json"
    await measured(await serve(Known()), first, *PERPLEXITY, "--text", words)
    other = tmp_path / "other.txt"
    other.write_text(content(words) + " end")
    known = Known(token=lambda word: len(word) + (change == "tokenizer"))
    arguments = {
        "text": ("--text", other),
        "tokenizer": ("--text", words),
        "length": ("--text", words, "--length", "10"),
        "windows": ("--text", words, "--windows", "5"),
    }[change]

    code, out, err = await quality(
        *("--base-url", await serve(known), *PERPLEXITY, *arguments, "--baseline", first)
    )

    assert (code, out) == (2, "")
    assert said in err
    assert not known.bodies


@pytest.mark.parametrize(
    ("known", "arguments", "said"),
    [
        (Known(), ("--length", "300"), "a smaller --length"),
        (Known(max_model_len=20), ("--length", "20"), "give 19 or less"),
        (Known(), ("--length", "20", "--stride", "21"), "--stride 21 leaves gaps"),
        (Known(echoes=False), ("--length", "20"), "`echo` with `logprobs`"),
        (Known(shift=lambda _tokens: -math.inf), ("--length", "20"), "-inf"),
    ],
)
async def test_what_gives_no_perplexity_is_explained(
    serve: Serve, words: Path, known: Known, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = await quality(
        "--base-url", await serve(known), "--perplexity", "--text", words, *arguments
    )

    assert (code, out) == (2, "")
    assert said in err
