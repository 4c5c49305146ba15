"""`/admin/v1/keys`, `/teams` and `/audit`: what may be asked. The command line says the same.

A field that is left out keeps what there was, or what is usual; null is what is usual.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gateway.protocol.lists import MAX_ID, ListQuery
from gateway.protocol.parse import WireModel
from gateway.tenants import NANOS, Budget, Limits, Priority, Scopes, Window

MAX_BUDGETS = 8
MAX_SCOPES = 256
MIN_WEIGHT = 0.001
MAX_WEIGHT = 1000
MAX_COST = 10**9
MAX_GRACE_S = 30 * 86_400
LAST_TIME = 253_402_300_799  # the end of the year 9999


def _invalid(expected: str) -> PydanticCustomError:
    """Told with the place in the body it is about."""
    return PydanticCustomError("not_expected", "{expected}", {"expected": expected})


def _told_apart(name: str) -> str:
    if name != name.strip() or not name.isprintable():
        raise _invalid("a name has printable characters, and no space at its ends")
    if name.startswith(("key_", "team_")):
        raise _invalid("a name doesn't begin with 'key_' or 'team_', as ids do")
    return name


def _no_word(name: str) -> str:
    if name.lower() in ("none", "all"):
        raise _invalid("a team isn't called 'none' or 'all', which are words of the command line")
    return name


def _path(path: str) -> str:
    trimmed = path.removesuffix("/")
    # Requests' paths have neither by the time they are compared.
    odd = any(char in "?#%*\\" or char.isspace() for char in path)
    if odd or not path.startswith("/") or {"", ".", ".."} & set(trimmed.split("/")[1:]):
        raise _invalid(
            "an endpoint is a path, such as '/v1/chat/completions', without '%', '*', '?', '#', "
            "'//' and '..'; all that is below it goes with it"
        )
    return trimmed or "/"


def _decimal(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError as error:
        kind = error.errors(include_url=False)[0]["type"]
        if kind.startswith("decimal") or kind == "finite_number":
            raise _invalid("expected a number with at most 9 decimals, such as 25 or 0.5") from None
        raise


_Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_told_apart)]
_TeamName = Annotated[_Name, AfterValidator(_no_word)]
_Id = Annotated[str, StringConstraints(max_length=MAX_ID)]
_Model = Annotated[str, Field(min_length=1, max_length=128)]
_Path = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_path)]
_Count = Annotated[int, Field(ge=1, le=10**12)]
_Time = Annotated[int, Field(ge=0, le=LAST_TIME, description="seconds since the epoch")]
# Service is counted in parts of the weight: one next to nothing makes numbers no longer finite.
_Weight = Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT)]
_Amount = Annotated[
    Decimal,
    # What wraps a field is given what Python made of the JSON, which has no decimals.
    Field(gt=0, le=10**15, decimal_places=9, strict=False),
    WrapValidator(_decimal),
]


class BudgetFields(WireModel):
    """At most `amount` in each `window` of the UTC calendar: tokens, or cost in units of your
    currency."""

    unit: Literal["tokens", "cost"]
    amount: _Amount
    window: Window = "month"

    @model_validator(mode="after")
    def _fits_its_unit(self) -> BudgetFields:
        if self.unit == "tokens" and self.amount != int(self.amount):
            raise _invalid("a budget of tokens is a whole number of them")
        if self.unit == "cost" and self.amount > MAX_COST:
            raise _invalid(f"a budget of cost is at most {MAX_COST}")
        return self

    def budget(self) -> Budget:
        if self.unit == "tokens":
            return Budget("tokens", int(self.amount), self.window)
        return Budget("currency", int(self.amount * NANOS), self.window)


class LimitFields(WireModel):
    """Limits; null: none. `rpm` and `tpm` are requests and tokens per minute."""

    rpm: _Count | None = None
    tpm: _Count | None = None
    max_concurrent: _Count | None = None
    budgets: Annotated[list[BudgetFields], Field(max_length=MAX_BUDGETS, fail_fast=True)] | None = (
        None
    )

    @model_validator(mode="after")
    def _budgets_differ(self) -> LimitFields:
        kinds = [(budget.unit, budget.window) for budget in self.budgets or ()]
        if len(set(kinds)) < len(kinds):
            raise ValueError("'budgets' has two of the same unit and window")
        return self

    def limits(self, before: Limits) -> Limits:
        """`before`, with what is given here."""
        given = {name: getattr(self, name) for name in ("rpm", "tpm", "max_concurrent")}
        given["budgets"] = tuple(budget.budget() for budget in self.budgets or ())
        asked = {name: value for name, value in given.items() if name in self.model_fields_set}
        return msgspec.structs.replace(before, **asked)


class KeyFields(LimitFields):
    """What a key is and may do. `team` is a team's id; a key in a team shares the team's weight.
    `models` and `endpoints`: null is all; an endpoint's path stands for all below it too."""

    name: _Name | None = None
    team: _Id | None = None
    models: (
        Annotated[list[_Model], Field(min_length=1, max_length=MAX_SCOPES, fail_fast=True)] | None
    ) = None
    endpoints: (
        Annotated[list[_Path], Field(min_length=1, max_length=MAX_SCOPES, fail_fast=True)] | None
    ) = None
    weight: _Weight | None = None
    priority: Priority | None = None
    expires_at: _Time | None = None

    def scopes(self, before: Scopes) -> Scopes:
        """`before`, with what is given here."""
        models, endpoints = before.models, before.endpoints
        if "models" in self.model_fields_set:
            models = None if self.models is None else frozenset(self.models)
        if "endpoints" in self.model_fields_set:
            endpoints = None if self.endpoints is None else tuple(self.endpoints)
        return Scopes(models, endpoints)


class CreateKey(KeyFields):
    """A new key; without a name its id is its name."""


class UpdateKey(KeyFields):
    """What is to change of a key."""


class RotateKey(WireModel):
    """The secret that was used until now is accepted for `grace_s` more seconds."""

    grace_s: Annotated[float, Field(ge=0, le=MAX_GRACE_S)] = 0


class CreateTeam(LimitFields):
    """A new team; its name is its alone."""

    name: _TeamName
    weight: _Weight | None = None


class UpdateTeam(LimitFields):
    """What is to change of a team."""

    name: _TeamName | None = None
    weight: _Weight | None = None


class KeysQuery(ListQuery):
    """Keys by their creation; of one `team`, in one `status`."""

    team: _Id | None = None
    status: Literal["active", "expired", "revoked", "team_deleted"] | None = None


class AuditQuery(ListQuery):
    """The log of changes, the newest first where nothing else is asked. `object` is the id of what
    was changed; `since` and `until` are seconds since the epoch."""

    order: Literal["asc", "desc"] = "desc"
    actor: _Id | None = None
    action: _Id | None = None
    object: _Id | None = None
    since: _Time = 0
    until: _Time = LAST_TIME
