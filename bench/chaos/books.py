"""Do the books add up: what clients saw, what the ledger says and what the engines counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from bench.chaos.exchange import Seen
from bench.chaos.findings import Found

# How the engines' own counts are shown, over all engines that a gateway has had.
PROMPT_SERIES: Final = "gateway_engine_prompt_tokens_total"
COMPLETION_SERIES: Final = "gateway_engine_generation_tokens_total"
_BEGUN: Final = "gateway_http_requests_total /v1/"


class Row(msgspec.Struct, frozen=True):
    """What is looked at of a line of the ledger."""

    request_id: str
    outcome: str
    status: int
    prompt_tokens: int
    completion_tokens: int
    code: str | None = None


def engine_tokens(series: Mapping[str, float]) -> tuple[int, int] | None:
    """Prompt and completion tokens of all engines; None where they aren't shown."""
    if PROMPT_SERIES not in series or COMPLETION_SERIES not in series:
        return None
    return int(series[PROMPT_SERIES]), int(series[COMPLETION_SERIES])


def tokens(rows: Sequence[Row]) -> tuple[int, int]:
    """Prompt and completion tokens of the ledger."""
    return sum(row.prompt_tokens for row in rows), sum(row.completion_tokens for row in rows)


def check_rows(found: Found, seen: Sequence[Seen], rows: Sequence[Row]) -> None:
    """One row for each request, which says of it what its client saw.

    A client that hung up before the head came doesn't know its request's id, and can't be sure that
    the server has read it: of those there may be a row each.
    """
    times = Counter(row.request_id for row in rows)
    found.none_of((one for one, count in times.items() if count > 1), "ids with several rows")
    known = [one.request_id for one in seen if one.request_id]
    by_id = {row.request_id: row for row in rows}
    found.none_of((one for one in known if one not in by_id), "requests without a row")
    nameless = len(rows) - len(by_id.keys() & set(known))
    headless = len(seen) - len(known)
    found.require(
        nameless <= headless, f"{nameless} rows of nobody, but only {headless} had no answer"
    )
    pairs = [(one, by_id[one.request_id]) for one in seen if one.request_id in by_id]
    found.none_of(
        (one.request_id for one, row in pairs if one.answered and row.outcome != "completed"),
        "whole answers whose row isn't completed",
    )
    found.none_of(
        (
            f"{one.request_id}: {one.usage} told, {(row.prompt_tokens, row.completion_tokens)} kept"
            for one, row in pairs
            if one.answered and one.usage != (row.prompt_tokens, row.completion_tokens)
        ),
        "whole answers whose row has other tokens",
    )
    found.none_of(
        (
            f"{one.request_id}: {one.status}, row {row.outcome} {row.status}"
            for one, row in pairs
            if one.status >= 400 and (row.status != one.status or row.outcome == "completed")
        ),
        "refusals whose row says something else",
    )
    found.none_of(
        (row.request_id for row in rows if row.outcome == "rejected" and any(tokens([row]))),
        "refused requests with tokens",
    )


def check_begun(found: Found, rows: Sequence[Row], series: Mapping[str, float]) -> None:
    """The server has a row for each request that it has begun to read: it counts those apart."""
    begun = int(sum(value for name, value in series.items() if name.startswith(_BEGUN)))
    found.figures["requests_begun"] = begun
    found.require(begun == len(rows), f"{begun} requests were begun, {len(rows)} have rows")


def check_sums(
    found: Found, rows: Sequence[Row], summed: tuple[int, int], engine: tuple[int, int] | None
) -> None:
    """The rows, the sums that an administrator is told, and the engines' counts are the same."""
    own = tokens(rows)
    found.figures["tokens"] = {"ledger": own, "usage": summed, "engines": engine}
    found.require(own == summed, f"rows sum to {own}, but /admin/v1/usage says {summed}")
    if engine is None:
        found.violations.append(f"the engines' counts aren't shown ({PROMPT_SERIES}): not compared")
    else:
        found.require(own == engine, f"the ledger has {own} tokens, the engines counted {engine}")


def check_answers(found: Found, seen: Sequence[Seen]) -> None:
    """Right answers, and no end where there was none."""
    found.none_of((one.request_id for one in seen if one.altered), "answers with the wrong text")
    found.none_of(
        (one.request_id for one in seen if one.whole and one.error), "errors that end as answers"
    )
    found.none_of(
        (
            f"{one.request_id} {one.status} {one.error}"
            for one in seen
            if one.ask.wrong
            and not one.cut
            and not 400 <= one.status < 500
            # While no engine serves, that is said first.
            and one.status != 503
        ),
        "wrong requests that weren't refused as such",
    )
