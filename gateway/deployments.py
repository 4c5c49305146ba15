"""What a public name stands for: model → deployment → replica.

A `Replica` is one engine; a `Deployment` is what clients choose by a name, the model itself or a
LoRA adapter of it. The adapters of a model share its replica.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from engine.base import Engine, LoadedModel
from engine.pooling import Embedder
from gateway.config import ModelConfig
from gateway.errors import InvalidRequestError, NotFoundError, UnavailableError

LOADING_RETRY_S = 5.0
_MAX_SHOWN = 128


class Replica:
    """One engine: to be loaded, then loaded. `config` is its model's."""

    def __init__(self, config: ModelConfig) -> None:
        self.name = config.public_name
        self.config = config
        self.loaded: LoadedModel | None = None

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings; else it generates."""
        return self.config.engine.runner == "pooling"


class Deployment:
    """A public name and what serves it. `adapter` is None for a model itself; `created` is a Unix
    time in seconds."""

    def __init__(self, name: str, replica: Replica, adapter: str | None = None) -> None:
        self.name = name
        self.replica = replica
        self.adapter = adapter
        self.owned_by = replica.config.owned_by
        self.created = int(time.time())
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._withdrawn = False

    def model(self) -> LoadedModel:
        """What serves it, for new work. Raises UnavailableError (503) while it is loading,
        NotFoundError (404) once it is withdrawn."""
        if self._withdrawn:
            raise unknown_model(self.name)
        if self.replica.loaded is None:
            raise UnavailableError(
                "The model is still loading.", code="model_loading", retry_after_s=LOADING_RETRY_S
            )
        return self.replica.loaded

    def engine(self) -> Engine:
        """The engine that generates. Raises as `model`; InvalidRequestError for what embeds."""
        if self.replica.embeds:
            raise _not_served(self.name, "makes embeddings: use /v1/embeddings, not this endpoint")
        found: Engine = self.model()  # type: ignore[assignment]
        return found

    def embedder(self) -> Embedder:
        """What makes embeddings. Raises as `model`; InvalidRequestError for what generates."""
        if not self.replica.embeds:
            raise _not_served(
                self.name, "generates text: use /v1/chat/completions, not this endpoint"
            )
        found: Embedder = self.model()  # type: ignore[assignment]
        return found

    def enter(self) -> None:
        """A call uses this from now on."""
        self._calls += 1
        self._idle.clear()

    def leave(self) -> None:
        """A call that entered is over."""
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    def withdraw(self) -> None:
        """Take no new calls; those that are inside may end."""
        self._withdrawn = True

    async def idle(self) -> None:
        """Return once no call is inside."""
        await self._idle.wait()


class Deployments:
    """Every deployment of the program, by each of its names."""

    def __init__(self, models: Sequence[ModelConfig]) -> None:
        self.replicas = [Replica(model) for model in models]
        self._by_name: dict[str, Deployment] = {}
        self._aliases: dict[str, str] = {}
        for replica in self.replicas:
            self._by_name[replica.name] = Deployment(replica.name, replica)
            self._aliases |= dict.fromkeys(replica.config.aliases, replica.name)
            for adapter in replica.config.adapters:
                self._by_name[adapter.name] = Deployment(adapter.name, replica, adapter.name)

    def __iter__(self) -> Iterator[Deployment]:
        """Each once: the models in their order, each followed by its adapters."""
        order = {replica.name: place for place, replica in enumerate(self.replicas)}
        return iter(sorted(self._by_name.values(), key=lambda found: order[found.replica.name]))

    @property
    def default(self) -> Deployment:
        """The first model, where a request needs to name none."""
        return self._by_name[self.replicas[0].name]

    def resolve(self, name: str, *, param: str = "model") -> Deployment:
        """The deployment of a public name or an alias. Raises NotFoundError (404)."""
        found = self._by_name.get(name) or self._by_name.get(self._aliases.get(name, ""))
        if found is None:
            raise unknown_model(name, [deployment.name for deployment in self], param=param)
        return found

    def taken(self, name: str) -> bool:
        """Whether `name` is a deployment's, or an alias of one."""
        return name in self._by_name or name in self._aliases

    def add(self, deployment: Deployment) -> None:
        """Serve a further one, whose name isn't taken."""
        self._by_name[deployment.name] = deployment

    def remove(self, deployment: Deployment) -> None:
        """Serve it no more: its name is free."""
        deployment.withdraw()
        self._by_name.pop(deployment.name, None)


def unknown_model(name: str, known: Sequence[str] = (), *, param: str = "model") -> NotFoundError:
    """The 404 of a model that isn't served."""
    has = f" This server has {_listed(known)}." if known else ""
    return NotFoundError(
        f"The model `{name[:_MAX_SHOWN]}` does not exist or you do not have access to it.{has}",
        code="model_not_found",
        param=param,
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _not_served(name: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The model `{name}` {why}.", code="model_not_supported", param="model"
    )
