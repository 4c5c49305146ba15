"""Picks what limits are shared through."""

from __future__ import annotations

from gateway.config import ConfigError, LimitsConfig
from gateway.limits.shared import SharedLimits
from gateway.store.database import Database


def shared_limits(config: LimitsConfig, database: Database) -> SharedLimits | None:
    """What `limits.share` names; None where each gateway keeps limits of its own. Raises
    ConfigError."""
    share = config.share
    if share is None:
        return None
    if share == "state":
        if database.in_memory:
            raise ConfigError(
                "limits.share: 'state' needs a state.url that other gateways can use too; this one "
                "keeps state in memory"
            )
        from gateway.limits.shared_tables import TableLimits

        return TableLimits(config, database)
    try:
        from gateway.limits.shared_redis import RedisLimits
    except ModuleNotFoundError:
        raise ConfigError(
            "limits.share: Redis needs the package redis: pip install redis"
        ) from None
    return RedisLimits(config, share)
