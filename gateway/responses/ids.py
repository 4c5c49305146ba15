"""Ids of responses and of their items. An item's id holds its response's, so that it can be found
by a reference to it."""

from __future__ import annotations

import re
import secrets

_ITEM = re.compile(r"[a-z]+_([0-9a-f]{48})[0-9a-f]{4}")


def new_response_id() -> str:
    """An unguessable id."""
    return "resp_" + secrets.token_hex(24)


def item_id(prefix: str, response_id: str, place: int) -> str:
    """The id of a response's item; `place` counts all that the response made."""
    return f"{prefix}_{response_id.removeprefix('resp_')}{place:04x}"


def response_of(item: str) -> str | None:
    """The response that made the item with this id; None where it wasn't one of ours."""
    found = _ITEM.fullmatch(item)
    return f"resp_{found[1]}" if found is not None else None
