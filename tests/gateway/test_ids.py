"""Ids: no two alike, unguessable, in the forms that clients know."""

import re

import pytest

from gateway.ids import new_id, new_request_id


def test_no_two_requests_have_the_same_id_however_many_there_are() -> None:
    # More than are drawn from the kernel at once, whatever lengths they have between them.
    ids = [make() for _ in range(2_000) for make in (new_request_id, lambda: new_id("chatcmpl"))]
    assert len(set(ids)) == len(ids)
    randomness = [each[-20:] for each in ids]
    assert len(set(randomness)) == len(ids)


def test_request_ids_sort_by_the_time_at_which_they_were_made() -> None:
    first = new_request_id()
    assert re.fullmatch(r"req_[0-9a-f]{32}", first)
    assert first[:16] <= new_request_id()[:16]


@pytest.mark.parametrize(
    ("prefix", "form"),
    [("chatcmpl", r"chatcmpl-[0-9a-f]{32}"), ("msg_", r"msg_[0-9a-f]{32}")],
)
def test_an_answers_id_has_its_prefix_and_128_random_bits(prefix: str, form: str) -> None:
    assert re.fullmatch(form, new_id(prefix))
