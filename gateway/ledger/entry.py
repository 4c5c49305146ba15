"""What is written down of a request, and its form in the journal."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Outcome = Literal["completed", "cancelled", "interrupted", "rejected", "failed", "lost"]
"""completed: answered in whole. cancelled: its client hung up. interrupted: a shutdown ended it.
rejected: refused before an engine began. failed: an engine or this program failed. lost: this
program died while an engine was at it, so that what it used after its prompt isn't known."""

Row: TypeAlias = tuple[Any, ...]
"""The values of `COLUMNS`."""

MAX_TEXT = 256
MAX_PAYLOAD = 8192


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """One request, filled in on its way.

    `at` is when it came, in seconds since the epoch; `cost` is in nano-units of currency. Tokens
    are what the engine read and produced, whoever received them. `status` is the HTTP status that
    the client was told, or would have been had its stream not begun; 0: none, or not known.
    `begun` and `recorded` are the ledger's own: whether an engine was given it, whether it is
    written down.

    The journal names the fields, and a journal may be older or newer than its reader: new fields
    need defaults.
    """

    request_id: str
    caller: str
    endpoint: str
    at: float
    key_id: str | None = None
    team: str | None = None
    model: str | None = None
    outcome: Outcome = "failed"
    status: int = 0
    code: str | None = None
    finish: str | None = None
    streamed: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0
    queue_s: float | None = None
    ttft_s: float | None = None
    total_s: float = 0.0
    begun: bool = False
    recorded: bool = False


COLUMNS = Entry.__struct_fields__[:-2]

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Entry)
_as_tuple = msgspec.structs.astuple


def row(entry: Entry) -> Row:
    return _as_tuple(entry)[:-2]


def encode(entry: Entry) -> bytes:
    """`entry` as JSON. What the database could not take, or a client made too long, is changed in
    `entry` too, so that journal and row agree."""
    try:
        payload = _encode(entry)
        if len(payload) <= MAX_PAYLOAD and b"\\u0000" not in payload:
            return payload
    except UnicodeEncodeError:  # half a surrogate pair
        pass
    _clean(entry)
    return _encode(entry)


def decode(payload: bytes) -> Entry:
    """Raises msgspec.ValidationError and msgspec.DecodeError."""
    return _decoder.decode(payload)


def _clean(entry: Entry) -> None:
    for name in COLUMNS:
        value = getattr(entry, name)
        if isinstance(value, str):
            text = value[:MAX_TEXT].encode("utf-8", "replace").decode()
            setattr(entry, name, text.replace("\0", "\ufffd"))
