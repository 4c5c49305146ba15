"""LoRA adapters: those of the configuration at the start, others while the program runs.

What is loaded while it runs is not remembered: the next start has the configuration's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from engine.base import Engine, EngineStartError, InvalidPromptError, LoadedModel
from engine.models import ModelError, check_adapter, resolve_adapter
from gateway.config import ModelConfig
from gateway.deployments import Deployment, Deployments, Replica, unknown_model
from gateway.errors import InvalidRequestError


async def load_configured(config: ModelConfig, model: LoadedModel) -> None:
    """Load the adapters that are configured for a model. Raises EngineStartError."""
    for adapter in config.adapters:
        path = await asyncio.to_thread(resolve_adapter, adapter.path)
        try:
            await cast(Engine, model).add_adapter(adapter.name, str(path))
        except InvalidPromptError as error:
            raise EngineStartError(f"adapter {adapter.name} ({path}): {error}") from error


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
        engine = model.engine()
        with self._reserved(name):
            directory = await asyncio.to_thread(_confined, model.replica, path)
            await engine.add_adapter(name, str(directory))
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
        engine = found.engine()
        self._deployments.remove(found)
        with self._reserved(name):
            await found.idle()
            await engine.remove_adapter(name)

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
