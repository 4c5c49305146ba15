"""What is asked of a server, before it is addressed to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request. `fields` carry the prompt, `prompt_tokens` are those of it, where they are
    known (None: what the server's usage says is believed), `output_tokens` those asked for (None:
    as many as the settings say).

    `at_s` is when it is due, in seconds from the start, for prompts that know it. `on_answer` is
    given the text of the answer, if it comes.
    """

    fields: Mapping[str, Any]
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    at_s: float | None = None
    on_answer: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts without end, or until those of a file are used up.

    `begin(warmup)` starts from the first one, each time alike; `warmup` of them are not measured.
    `layout` is `system+user`, `user`, `text`, or `recorded` for those of a file; `counted_by` names
    the counter. `notes` are said of it in the report.
    """

    begin: Callable[[int], Iterator[Prompt]]
    layout: str
    counted_by: str
    dataset: str = "random"
    notes: tuple[str, ...] = ()
