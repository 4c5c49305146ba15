"""Shared limits in Redis, whose clock counts. Each limit is a hash: `since`, `used`, and for each
gateway a lease (`l:…`) and the number of its last call (`c:…`), both with the time they end.

The script says what `shared.decide` says; tests hold the two against each other.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import AuthenticationError, NoScriptError, RedisError

from gateway.config import ConfigError, LimitsConfig, UnreachableError
from gateway.errors import UnavailableError
from gateway.limits.shared import REMEMBERED_S, Ask, Grant

PREFIX = "gateway:limits:"
CONNECT_TIMEOUT_S = 5.0
RETRY_S = 1.0

_SCRIPT = (Path(__file__).parent / "decide.lua").read_text(encoding="utf-8")


class RedisLimits:
    """`url` is `limits.share`. Raises ConfigError where it isn't one."""

    def __init__(self, config: LimitsConfig, url: str) -> None:
        self._lease_s = config.lease_s
        self._instance = secrets.token_hex(8)
        try:
            self._client: Any = redis.asyncio.Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                socket_timeout=CONNECT_TIMEOUT_S,
            )
        except ValueError as error:
            raise ConfigError(f"limits.share: not a URL of Redis: {error}") from None
        self._script: str | None = None

    async def open(self) -> float:
        try:
            seconds, micros = await self._client.time()
        except (RedisError, OSError) as error:
            await self.close()
            wrong = isinstance(error, AuthenticationError)
            kind = ConfigError if wrong else UnreachableError
            raise kind(f"limits.share: can't use Redis: {error}") from None
        return float(seconds) + float(micros) / 1e6

    async def lease(self, call: int, asks: Sequence[Ask]) -> list[Grant]:
        try:
            try:
                answers = await self._carry_out(call, asks)
            except NoScriptError:  # it was restarted; what was carried out before isn't again
                self._script = None
                answers = await self._carry_out(call, asks)
        except (RedisError, OSError) as error:
            raise UnavailableError(
                f"Redis: {type(error).__name__}", code="storage_unavailable", retry_after_s=RETRY_S
            ) from error
        return [_grant(answer) for answer in answers]

    async def close(self) -> None:
        await self._client.aclose()

    async def _carry_out(self, call: int, asks: Sequence[Ask]) -> list[list[str]]:
        if self._script is None:
            self._script = await self._client.script_load(_SCRIPT)
        async with self._client.pipeline(transaction=False) as pipeline:
            for ask in asks:
                key = f"{PREFIX}{ask.account}:{ask.kind}"
                pipeline.evalsha(self._script, 1, key, *self._arguments(call, ask))
            answers: list[list[str]] = await pipeline.execute()
        return answers

    def _arguments(self, call: int, ask: Ask) -> list[str | int]:
        return [
            self._instance,
            call,
            repr(self._lease_s),
            repr(REMEMBERED_S),
            int(ask.kind == "concurrent"),
            ask.limit,
            repr(ask.rate),
            repr(ask.since),
            repr(ask.until),
            ask.slice,
            ask.back,
            ask.kept,
            ask.recorded,
            ask.busy,
            int(ask.more),
            ask.floor,
            int(ask.lowered),
            ask.seen,
            *ask.needs,
        ]


def _grant(answer: list[str]) -> Grant:
    met, ahead, recorded, left, since, now = answer
    return Grant(
        granted=tuple(one == "1" for one in met),
        ahead=int(ahead),
        recorded=int(recorded),
        left=float(left),
        since=float(since),
        now=float(now),
    )
