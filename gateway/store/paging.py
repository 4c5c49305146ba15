"""Lists, a page at a time, from where the client's last page ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Table, func, literal, select, tuple_

from gateway.errors import InvalidRequestError

# A page ends early rather than be larger; it has one object at least.
PAGE_BYTES = 16 * 1024 * 1024

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class Slice:
    """What a client asks of a list: `limit` objects that follow the one with the id `after`."""

    limit: int = 20
    order: Order = "asc"
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list's objects, as JSON, and whether there are more behind them."""

    ids: Sequence[str] = ()
    bodies: Sequence[bytes] = ()
    has_more: bool = False


def fetch_page(
    connection: Connection,
    table: Table,
    part: Slice,
    *,
    order_by: Sequence[ColumnElement[Any]],
    scope: ColumnElement[bool],
    only: Sequence[ColumnElement[bool]] = (),
) -> Page:
    """The page of `table`'s rows in `scope` that satisfy `only`. `part.after` may name any row in
    `scope`, deleted or not. `order_by` tells rows apart. Raises InvalidRequestError."""
    found = select(table.c.seq, table.c.id, func.length(table.c.body)).where(
        scope, table.c.body.is_not(None), *only
    )
    if part.after is not None:
        position = select(*order_by).where(scope, table.c.id == part.after)
        at = connection.execute(position).first()
        if at is None:
            raise unknown_cursor(part.after)
        here = tuple_(*map(literal, at))
        here_on = tuple_(*order_by) > here if part.order == "asc" else tuple_(*order_by) < here
        found = found.where(here_on)
    if part.order == "desc":
        order_by = [column.desc() for column in order_by]
    rows = connection.execute(found.order_by(*order_by).limit(part.limit + 1)).all()
    fitting = _fitting([size for _, _, size in rows[: part.limit]])
    taken = rows[:fitting]
    wanted = select(table.c.seq, table.c.body).where(table.c.seq.in_([row[0] for row in taken]))
    bodies = {seq: body for seq, body in connection.execute(wanted) if body is not None}
    taken = [row for row in taken if row[0] in bodies]  # the rest was deleted just now
    return Page([row[1] for row in taken], [bodies[row[0]] for row in taken], len(rows) > fitting)


def slice_page(ids: Sequence[str], bodies: Sequence[bytes], part: Slice) -> Page:
    """The same of a list that is in memory. Raises InvalidRequestError."""
    pairs = list(zip(ids, bodies, strict=True))
    if part.order == "desc":
        pairs.reverse()
    if part.after is not None:
        places = [place for place, (found, _) in enumerate(pairs) if found == part.after]
        if not places:
            raise unknown_cursor(part.after)
        pairs = pairs[places[0] + 1 :]
    taken = pairs[: part.limit]
    return Page([i for i, _ in taken], [body for _, body in taken], len(pairs) > len(taken))


def unknown_cursor(after: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid 'after': there is no object with the id '{after[:128]}' in this list.",
        code="invalid_value",
        param="after",
    )


def _fitting(sizes: Sequence[int]) -> int:
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > PAGE_BYTES:
            return count
    return len(sizes)
