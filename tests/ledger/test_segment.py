"""What was written to a segment is read again, whatever the crash left behind it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.segment import (
    BEGIN,
    END,
    FRAME_BYTES,
    HEADER_BYTES,
    Segment,
    UnreadableError,
    frames,
)

SIZE = 4096

frame_lists = st.lists(
    st.tuples(st.sampled_from([BEGIN, END]), st.binary(max_size=60)), max_size=12
)


def filled(path: Path, written: list[tuple[int, bytes]]) -> Segment:
    segment = Segment(path, SIZE)
    for kind, payload in written:
        segment.append(kind, payload)
    return segment


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("segments")


@given(before=frame_lists, after=frame_lists, cut=st.integers(0, SIZE))
def test_a_crash_at_any_byte_loses_only_what_was_being_written(
    place: Path, before: list[tuple[int, bytes]], after: list[tuple[int, bytes]], cut: int
) -> None:
    segment = filled(place / "torn", before)
    segment.restart()
    for kind, payload in after:
        segment.append(kind, payload)
    old = filled(place / "old", before)
    whole, under = segment.path.read_bytes(), old.path.read_bytes()
    cut = max(cut, HEADER_BYTES)
    torn = whole[:cut] + under[cut:]  # what lay there before shows through
    complete, end = 0, HEADER_BYTES
    for _, payload in after:
        end += FRAME_BYTES + len(payload)
        complete += end <= cut
    found = list(frames(torn))
    segment.remove()
    old.remove()
    assert found[:complete] == after[:complete]
    assert len(found) <= len(after)
    # Bytes that happen to lie there already are as good as written.
    assert found == after[: len(found)]


@given(written=frame_lists, at=st.integers(0, SIZE - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_taken_for_something_else(
    place: Path, written: list[tuple[int, bytes]], at: int, bit: int
) -> None:
    segment = filled(place / "flipped", written)
    content = bytearray(segment.path.read_bytes())
    segment.remove()
    content[at] ^= 1 << bit
    found: list[tuple[int, bytes]] = []
    with suppress(UnreadableError):
        found = list(frames(bytes(content)))
    assert found == written[: len(found)]


def test_what_an_earlier_filling_left_is_not_read(tmp_path: Path) -> None:
    segment = filled(tmp_path / "one", [(END, b"x" * 20)] * 50)
    segment.restart()
    segment.append(END, b"y" * 20)
    assert list(frames(segment.path.read_bytes())) == [(END, b"y" * 20)]
    segment.remove()


def test_a_segment_takes_its_whole_size_at_once_and_is_private(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "one", 1 << 20)
    found = os.stat(segment.path)
    assert found.st_size == 1 << 20
    assert found.st_blocks * 512 >= 1 << 20
    assert found.st_mode & 0o077 == 0
    segment.remove()
    assert not segment.path.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * SIZE, b"gwle" + b"\0" * SIZE, b"gwledg01"])
def test_a_header_that_a_crash_cut_short_holds_nothing(content: bytes) -> None:
    assert list(frames(content)) == []


@pytest.mark.parametrize("content", [b"gwledg02" + b"\0" * SIZE, b"\1" + os.urandom(SIZE)])
def test_what_this_version_has_not_written_is_told_from_nothing(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        list(frames(content))
