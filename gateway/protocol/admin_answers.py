"""The shapes of what administrators are told of keys, teams and the audit log: for
`/openapi.json`."""

from __future__ import annotations

from typing import Any, Literal

from gateway.protocol.answers import Shape
from gateway.tenants import Priority, Window


class Budget(Shape):
    """At most so much in each window."""

    unit: Literal["tokens", "cost"]
    amount: float
    window: Window


class Limited(Shape):
    """What has limits; null: none."""

    rpm: int | None
    tpm: int | None
    max_concurrent: int | None
    budgets: list[Budget]
    weight: float


class Key(Limited):
    """A virtual key; null in `models` and `endpoints` is all."""

    id: str
    object: Literal["key"]
    redacted_value: str
    status: Literal["active", "expired", "revoked", "team_deleted"]
    created_at: int
    revoked_at: int | None
    name: str
    team: str | None
    models: list[str] | None
    endpoints: list[str] | None
    priority: Priority
    expires_at: int | None


class NewKey(Key):
    """A key, and its secret, which is told this once."""

    value: str


class KeyDeleted(Shape):
    """A key that is refused from now on."""

    id: str
    object: Literal["key"]
    deleted: Literal[True]


class Team(Limited):
    """Keys that share limits."""

    id: str
    object: Literal["team"]
    created_at: int
    name: str


class TeamDeleted(Shape):
    """A team that no longer is."""

    id: str
    object: Literal["team"]
    deleted: Literal[True]


class AuditEvent(Shape):
    """Who did what to which object; `detail` depends on the action."""

    id: str
    object: Literal["audit_event"]
    created_at: int
    actor: str
    action: str
    target: str
    detail: dict[str, Any]
