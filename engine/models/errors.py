"""What goes wrong between a model's name and a directory an engine can load."""

from __future__ import annotations

from engine.base import EngineStartError


class ModelError(EngineStartError):
    """A model that can't be found, fetched, converted or reckoned with; says what to do."""
