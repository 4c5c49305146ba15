"""How the JSON of a command begins."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli.command import event_loop_name
from bench.cli.redaction import is_secret, redacted
from bench.measuring.facts import client_facts


def head(schema: str, version: int, args: argparse.Namespace) -> dict[str, Any]:
    """What the record is, the options that hold, and with what was measured. Options that are
    keys are left out, keys within others redacted."""
    return {
        "schema": schema,
        "schema_version": version,
        "options": {
            name: str(_shown(value))
            for name, value in vars(args).items()
            if value is not None and not is_secret(name)
        },
        "client": client_facts(event_loop_name()),
    }


def _shown(value: object) -> object:
    if isinstance(value, list):
        return [_shown(one) for one in value]
    return redacted([value])[0] if isinstance(value, str) else value
