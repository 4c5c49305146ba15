"""LoRA adapters: those of the configuration at the start, others while the program runs.

What is loaded while it runs comes back with an engine that takes the place of a dead one, but isn't
remembered for the next start, which has the configuration's alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from engine.base import Engine, EngineStartError, InvalidPromptError, LoadedModel
from engine.models import ModelError, check_adapter, resolve_adapter
from gateway.deployments import Deployment, Deployments, Replica, unknown_model
from gateway.errors import InvalidRequestError

logger = logging.getLogger(__name__)


class Adapters:
    """Loads and unloads adapters, and their deployments with them."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments
        self._changing: set[str] = set()

    def __iter__(self) -> Iterator[Deployment]:
        return (found for found in self._deployments if found.adapter is not None)

    async def load(self, name: str, path: str, base: str) -> Deployment:
        """Serve the adapter in the directory `path` as `name`, on the model `base`.

        Raises InvalidRequestError, NotFoundError, UnavailableError, EngineError.
        """
        model = self._deployments.resolve(base, param="base")
        if model.adapter is not None or model.replica.embeds:
            what = "makes embeddings" if model.replica.embeds else "is an adapter itself"
            raise InvalidRequestError(
                f"`{model.name}` {what}; 'base' has to name a model that generates.",
                code="invalid_value",
                param="base",
            )
        engine, replica = model.engine(), model.replica
        with self._reserved(name):
            directory = str(await asyncio.to_thread(_confined, replica, path))
            await engine.add_adapter(name, directory)
            replica.adapters[name] = directory
            deployment = Deployment(name, model.replica, adapter=name)
            self._deployments.add(deployment)
        return deployment

    async def unload(self, name: str) -> None:
        """Take no new requests for it, let those that run end, then forget it.

        Raises NotFoundError where there is no such adapter.
        """
        found = next((adapter for adapter in self if adapter.name == name), None)
        if found is None:
            raise unknown_model(name, [adapter.name for adapter in self], param="name")
        found.engine()  # while there is none, nobody can say what became of it
        self._deployments.remove(found)
        with self._reserved(name):
            await found.idle()
            replica = found.replica
            replica.adapters.pop(name, None)
            if replica.loaded is not None:
                await cast(Engine, replica.loaded).remove_adapter(name)

    async def restore(self, replica: Replica, model: LoadedModel) -> None:
        """Give a new engine the adapters that its replica has: at first the configured ones.

        One of the others that can't be loaded again is withdrawn. Raises EngineStartError.
        """
        if replica.embeds:
            return
        engine = cast(Engine, model)
        if replica.state == "loading":
            replica.adapters = await asyncio.to_thread(_configured, replica)
        while (name := _missing(replica, engine)) is not None:
            await self._restore_one(replica, engine, name)
        while (name := _unwanted(replica, engine)) is not None:  # it was unloaded meanwhile
            await engine.remove_adapter(name)

    async def _restore_one(self, replica: Replica, engine: Engine, name: str) -> None:
        path = replica.adapters[name]
        try:
            await engine.add_adapter(name, path)
        except InvalidPromptError as error:
            if any(name == adapter.name for adapter in replica.config.adapters):
                raise EngineStartError(f"adapter {name} ({path}): {error}") from error
            logger.error("adapter %s (%s) can't be loaded again: %s", name, path, error)
            replica.adapters.pop(name, None)
            for found in [adapter for adapter in self if adapter.name == name]:
                self._deployments.remove(found)

    @contextmanager
    def _reserved(self, name: str) -> Iterator[None]:
        if name in self._changing or self._deployments.taken(name):
            raise InvalidRequestError(
                f"The name `{name}` is taken.", status=409, code="name_taken", param="name"
            )
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.discard(name)


def _configured(replica: Replica) -> dict[str, str]:
    return {adapter.name: str(resolve_adapter(adapter.path)) for adapter in replica.config.adapters}


def _missing(replica: Replica, engine: Engine) -> str | None:
    return next((name for name in replica.adapters if name not in engine.adapters), None)


def _unwanted(replica: Replica, engine: Engine) -> str | None:
    return next((name for name in engine.adapters if name not in replica.adapters), None)


def _confined(replica: Replica, path: str) -> Path:
    """The directory, where it and what is read of it lie below the model's `adapter_root`. Nothing
    is told of what lies elsewhere. Raises InvalidRequestError."""
    root = replica.config.engine.adapter_root
    if root is None:
        raise InvalidRequestError(
            f"`{replica.name}` takes no adapters while it runs; set engine.adapter_root in its "
            "configuration.",
            code="adapters_not_allowed",
            param="base",
        )
    top = Path(root).expanduser().resolve()
    problem = "expected a directory below engine.adapter_root"
    try:
        found = (top / path).resolve()
        inside = found != top and found.is_relative_to(top)
        if inside and found.is_dir():  # before anything of it is read
            inside = all(file.resolve().is_relative_to(top) for file in found.iterdir())
        if inside:
            check_adapter(found)
    except ModelError as error:
        inside, problem = False, str(error)
    except (OSError, ValueError):  # too long a name, a null character, a loop of links
        inside = False
    if not inside:
        raise InvalidRequestError(f"Invalid 'path': {problem}.", code="invalid_value", param="path")
    return found
