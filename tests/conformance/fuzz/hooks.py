"""What schemathesis loads: requests made likelier to reach the engine, and every case recorded.

It runs in the clients' own environment. `FUZZ_PLAN` names a file of JSON, a `hooks.Plan`'s fields;
a line of JSON is appended to `record` for every answer and every failure.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import schemathesis  # type: ignore[import-not-found]  # of another environment

Json = dict[str, Any]

MAX_TOKENS: Final = 16
_MAX_CHOICES: Final = 4
_MOST_REMEMBERED: Final = 64
# As many are kept for what reads them.
_KEPT_FROM_DELETION: Final = 8
# Shares of requests: those that stay as they were generated, and valid ones that say something
# simple, with only so many of their other fields.
_LEFT_ALONE: Final = 0.2
_SIMPLE: Final = 0.6
_FIELDS: Final = 0.5
_STORED: Final = 0.5

_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
# Of any length once: the others name other things in a hundred ways that don't exist.
_LIMIT_OF: Final = {
    "/chat/completions": "max_completion_tokens",
    "/completions": "max_tokens",
    "/messages": "max_tokens",
    "/responses": "max_output_tokens",
}
_SIMPLE_INPUT: Final[dict[str, Json]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "What is 2+2?"}]},
    "/messages": {"messages": [{"role": "user", "content": "What is 2+2?"}]},
    "/messages/count_tokens": {"messages": [{"role": "user", "content": "What is 2+2?"}]},
    "/completions": {"prompt": "Once upon a time"},
    "/embeddings": {"input": "Once upon a time"},
    "/rerank": {"query": "river", "documents": ["The Rhine", "A stone"]},
    "/score": {"text_1": "river", "text_2": "The Rhine"},
    "/responses": {"input": "What is 2+2?"},
    "/responses/input_tokens": {"input": "What is 2+2?"},
    "/conversations": {"items": [{"role": "user", "content": "What is 2+2?"}]},
    "/conversations/{conversation_id}/items": {
        "items": [{"role": "user", "content": "What is 2+2?"}]
    },
    "/tokenize": {"prompt": "Once upon a time"},
}
_EMBEDS: Final = ("/embeddings", "/rerank", "/score")
_REMEMBERED: Final = {
    "chat.completion": "completion_id",
    "response": "response_id",
    "conversation": "conversation_id",
}


@dataclass(frozen=True)
class Plan:
    """`served` maps an operation ("POST /v1/responses") to the fields it takes, whatever the
    description that is tried says."""

    seed: int
    model: str
    embedding_model: str
    record: str
    served: dict[str, list[str]]


class Fuzz:
    """What is remembered of answers, and changes requests."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._ids: defaultdict[str, list[str]] = defaultdict(list)
        self._items: list[tuple[str, str]] = []

    def change(self, case: Any) -> None:
        path = _path(case)
        if self._random.random() >= _LEFT_ALONE:
            self._put_ids(case)
        if isinstance(case.body, dict):
            valid = case.meta is None or case.meta.generation.mode.value == "positive"
            chosen = valid and case.meta is not None and case.meta.phase.name.value == "fuzzing"
            body = dict(case.body)
            if valid and self._random.random() < _SIMPLE:
                body = self._simple(body, path, case.operation.method, thinned=chosen)
            case.body = self._changed(body, path, case.operation.method)

    def remember(self, case: Any, status: int, body: Any) -> None:
        """The ids of what there is now."""
        if status != 200 or not isinstance(body, dict):
            return
        named = case.path_parameters or {}
        if case.operation.method.upper() == "DELETE" or body.get("deleted"):
            self._forget(named)
            return
        kind = _REMEMBERED.get(body.get("object", ""))
        if kind:
            self._keep(self._ids[kind], body["id"])
        if "conversation_id" in named and body.get("object") == "list":
            for item in body["data"]:
                self._keep(self._items, (named["conversation_id"], item["id"]))

    def _keep(self, where: list[Any], one: Any) -> None:
        if one not in where:
            where.append(one)
            del where[:-_MOST_REMEMBERED]

    def _forget(self, named: Json) -> None:
        if "item_id" in named:
            self._items = [one for one in self._items if one[1] != named["item_id"]]
            return
        for kind, value in named.items():
            self._ids[kind] = [one for one in self._ids[kind] if one != value]
        gone = named.get("conversation_id")
        self._items = [one for one in self._items if one[0] != gone]

    def _put_ids(self, case: Any) -> None:
        named = dict(case.path_parameters or {})
        if "item_id" in named and self._items:
            named["conversation_id"], named["item_id"] = self._random.choice(self._items)
        elif "model" in named:
            named["model"] = self._plan.model
        spared = _KEPT_FROM_DELETION if case.operation.method.upper() == "DELETE" else 0
        for kind in named:
            known = self._ids[kind][spared:]
            if kind != "item_id" and known and "item_id" not in named:
                named[kind] = self._random.choice(known)
        if named:
            case.path_parameters = named

    def _takes(self, path: str, method: str) -> list[str]:
        served = self._plan.served
        return served.get(f"{method.upper()} /v1{path}") or served.get(
            f"{method.upper()} {path}", []
        )

    def _simple(self, body: Json, path: str, method: str, *, thinned: bool) -> Json:
        takes, said = self._takes(path, method), _SIMPLE_INPUT.get(path, {})
        if not said:
            return body
        kept = {name: value for name, value in body.items() if name in takes}
        if thinned:
            kept = {key: kept[key] for key in kept if self._random.random() < _FIELDS}
        return kept | said

    def _changed(self, body: Json, path: str, method: str) -> Json:
        takes = self._takes(path, method)
        if self._random.random() >= _LEFT_ALONE:
            if "model" in takes and isinstance(body.get("model", ""), str):
                model = self._plan.embedding_model if path in _EMBEDS else self._plan.model
                body["model"] = model
            if "store" in takes:
                body["store"] = self._random.random() < _STORED
            self._refer(body)
        return self._bounded(body, path)

    def _refer(self, body: Json) -> None:
        """To what exists, where it refers at all."""
        for field, kind in (
            ("previous_response_id", "response_id"),
            ("conversation", "conversation_id"),
        ):
            if isinstance(body.get(field), str):
                known = self._ids[kind]
                body[field] = self._random.choice(known) if known else None
        if isinstance(body.get("conversation"), str):
            body.pop("previous_response_id", None)

    def _bounded(self, body: Json, path: str) -> Json:
        """Few tokens, so that cases are many."""
        for name in (*_LIMITS, "n", "best_of"):
            most = MAX_TOKENS if name in _LIMITS else _MAX_CHOICES
            if type(body.get(name)) is int and most < body[name]:
                body[name] = most
        limit = _LIMIT_OF.get(path)
        if limit and all(body.get(name) is None for name in _LIMITS):
            body[limit] = MAX_TOKENS
        return body


def _path(case: Any) -> str:
    path: str = case.operation.path
    return path.removeprefix("/v1")


def _read_plan() -> Plan:
    return Plan(**json.loads(Path(os.environ["FUZZ_PLAN"]).read_text()))


_plan = _read_plan()
_fuzz = Fuzz(_plan)
_record = Path(_plan.record).open("a", buffering=1)  # noqa: SIM115 - until the process ends


def _write(case: Any, **facts: Any) -> None:
    line = {"operation": case.operation.label, "case": case.id, **facts}
    _record.write(json.dumps(line) + "\n")


def before_call(_context: Any, case: Any, _kwargs: Json) -> None:
    _fuzz.change(case)


def after_call(_context: Any, case: Any, response: Any) -> None:
    _write(case, status=response.status_code)
    try:
        body = response.json()
    except ValueError:
        return
    _fuzz.remember(case, response.status_code, body)


def after_network_error(_context: Any, case: Any, _request: Any) -> None:
    _write(case, status=0)


def filter_failure(_context: Any, failure: Any, case: Any, response: Any) -> bool:
    told = " ".join(f"{failure.title}: {failure.message}".split())
    _write(case, failure=told[:2000], of=response.status_code, curl=case.as_curl_command()[:4000])
    return True


for each in (before_call, after_call, after_network_error, filter_failure):
    schemathesis.hook(each)
