"""Keys, teams and audit events as the admin API and the command line tell them: no secrets."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from gateway.keys.secret import redacted
from gateway.store.tenancy import AuditEvent, Team, VirtualKey
from gateway.tenants import NANOS, Budget, Limits

_EVENT_ID = "audit_"
_encoder = msgspec.json.Encoder(decimal_format="number")


def encode(value: Any) -> bytes:
    """JSON; decimals are numbers, as exact as they are."""
    return _encoder.encode(value)


def key_object(key: VirtualKey, now: float, secret: str | None = None) -> dict[str, Any]:
    """`secret` is told once, by what made it."""
    told = {"value": secret} if secret is not None else {}
    return {
        "id": key.id,
        "object": "key",
        **told,
        "redacted_value": redacted(key.prefix, key.last4),
        "status": key.status(now),
        "created_at": int(key.created),
        "revoked_at": None if key.revoked is None else int(key.revoked),
        **key_fields(key),
    }


def team_object(team: Team) -> dict[str, Any]:
    return {
        "id": team.id,
        "object": "team",
        "created_at": int(team.created),
        **team_fields(team),
    }


def event_object(event: AuditEvent) -> dict[str, Any]:
    return {
        "id": f"{_EVENT_ID}{event.seq}",
        "object": "audit_event",
        "created_at": int(event.at),
        "actor": event.actor,
        "action": event.action,
        "target": event.object,
        "detail": msgspec.Raw(event.detail),
    }


def event_seq(event_id: str) -> int | None:
    """Where the event with this id stands in the log; None: there is no such id."""
    number = event_id.removeprefix(_EVENT_ID)
    known = number != event_id and number.isascii() and number.isdigit() and len(number) < 19
    return int(number) if known else None


def key_fields(key: VirtualKey) -> dict[str, Any]:
    """What can be changed of a key, by the names it is changed with."""
    settings = key.settings
    models, endpoints = settings.scopes.models, settings.scopes.endpoints
    return {
        "name": key.name,
        "team": key.team.id if key.team is not None else None,
        "models": None if models is None else sorted(models),
        "endpoints": None if endpoints is None else list(endpoints),
        **_limits(settings.limits),
        "weight": settings.weight,
        "priority": settings.priority,
        "expires_at": None if key.expires is None else int(key.expires),
    }


def team_fields(team: Team) -> dict[str, Any]:
    """The same of a team."""
    settings = team.settings
    return {"name": team.name, **_limits(settings.limits), "weight": settings.weight}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """`{"rpm": {"from": 60, "to": 100}}`."""
    return {
        name: {"from": before[name], "to": value}
        for name, value in after.items()
        if before[name] != value
    }


def _limits(limits: Limits) -> dict[str, Any]:
    return {
        "rpm": limits.rpm,
        "tpm": limits.tpm,
        "max_concurrent": limits.max_concurrent,
        "budgets": [_budget(budget) for budget in limits.budgets],
    }


def _budget(budget: Budget) -> dict[str, Any]:
    tokens = budget.unit == "tokens"
    amount = budget.amount if tokens else Decimal(budget.amount) / NANOS
    return {
        "unit": "tokens" if tokens else "cost",
        "amount": amount,
        "window": budget.window,
    }
