"""What can't be planned."""

from __future__ import annotations


class PlanError(Exception):
    """The question can't be answered; the message says why and what would help."""
