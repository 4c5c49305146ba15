"""Why a model was not quantized."""

from __future__ import annotations


class QuantizeError(Exception):
    """It failed; the message says what to do."""


class SettingsError(QuantizeError):
    """What was asked for can't be done; nothing was begun. The message names the option."""
