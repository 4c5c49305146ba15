"""What a public name stands for: model → deployment → replica.

A `Replica` is one engine; a `Deployment` is what clients choose by a name, the model itself or a
LoRA adapter of it. The adapters of a model share its replica.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from engine.base import Engine, EngineDeadError, EngineStats, LoadedModel
from engine.pooling import Embedder
from gateway.config import ModelConfig, PriceConfig
from gateway.errors import InvalidRequestError, NotFoundError, UnavailableError
from gateway.tenants import Price

LOADING_RETRY_S = 5.0
_MAX_SHOWN = 128
_NANO = 10**9

ReplicaState = Literal["loading", "ready", "restarting", "dead"]


class Replica:
    """One engine, or the one that takes its place when it has died. `config` is its model's.

    ::

        loading ──► ready ──► restarting ──► dead
                      ▲            │
                      └────────────┘

    `watchers` are called at each of these steps. `adapters` are the directories of those its engine
    has, or will have once it serves, by name.
    """

    def __init__(self, config: ModelConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = config.public_name
        self.config = config
        self.watchers: list[Callable[[Replica], None]] = []
        self.adapters: dict[str, str] = {}
        self._clock = clock
        self._loaded: LoadedModel | None = None
        self._state: ReplicaState = "loading"
        self._expected_at = 0.0
        self._earlier = (0, 0)
        # Set while nothing is to be waited for.
        self._settled = asyncio.Event()

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings; else it generates."""
        return self.config.engine.runner == "pooling"

    @property
    def state(self) -> ReplicaState:
        if self._loaded is not None and not self._loaded.alive:
            return "restarting"
        return self._state

    @property
    def loaded(self) -> LoadedModel | None:
        """The engine that serves."""
        return self._loaded

    @loaded.setter
    def loaded(self, model: LoadedModel | None) -> None:
        """None where it has died and another one is to take its place."""
        self._earlier = self.totals
        self._loaded = model
        self._become("restarting" if model is None else "ready")

    @property
    def totals(self) -> tuple[int, int]:
        """Prompt and completion tokens of its engines so far, also of those that have died."""
        prompt, completion = self._earlier
        if self._loaded is not None:
            stats = self._loaded.stats()
            prompt += stats.prompt_tokens_total
            completion += stats.generation_tokens_total
        return prompt, completion

    def stats(self) -> EngineStats | None:
        """Those of the engine that serves, with the totals of all; None while there is none."""
        if self._loaded is None:
            return None
        prompt, completion = self.totals
        return replace(
            self._loaded.stats(), prompt_tokens_total=prompt, generation_tokens_total=completion
        )

    def lost(self, model: LoadedModel) -> None:
        """Whoever sees first that `model` isn't alive any more says so. Harmless otherwise."""
        if model is self._loaded and not model.alive:
            self.loaded = None

    def expect(self, seconds: float) -> None:
        """The next engine will be here in about so long."""
        self._expected_at = self._clock() + seconds

    def give_up(self) -> None:
        """There will be no other engine."""
        self._earlier = self.totals
        self._loaded = None
        self._become("dead")

    async def available(self) -> None:
        """Return once an engine serves. Raises EngineDeadError where none will again."""
        while True:
            if self._loaded is not None:
                if self._loaded.alive:
                    return
                self.lost(self._loaded)
            if self._state == "dead":
                raise _dead()
            await self._settled.wait()

    def model(self) -> LoadedModel:
        """The engine that serves. Raises UnavailableError (503) while there is none yet, or none
        any more; EngineDeadError where there will be none."""
        if self._loaded is not None:
            if self._loaded.alive:
                return self._loaded
            self.lost(self._loaded)
        if self._state == "dead":
            raise _dead()
        if self._state == "loading":
            raise UnavailableError(
                "The model is still loading.", code="model_loading", retry_after_s=LOADING_RETRY_S
            )
        raise UnavailableError(
            "The model's engine is being started again.",
            code="engine_restarting",
            retry_after_s=max(1.0, self._expected_at - self._clock()),
        )

    def _become(self, state: ReplicaState) -> None:
        self._state = state
        if state == "restarting":
            self._settled.clear()
        else:
            self._settled.set()
        for watcher in self.watchers:
            watcher(self)


def _dead() -> EngineDeadError:
    return EngineDeadError("The model's engine has died and is not started again.")


class Deployment:
    """A public name and what serves it. `adapter` is None for a model itself; `created` is a Unix
    time in seconds."""

    def __init__(self, name: str, replica: Replica, adapter: str | None = None) -> None:
        self.name = name
        self.replica = replica
        self.adapter = adapter
        self.owned_by = replica.config.owned_by
        self.price = _price(replica.config.price)
        self.created = int(time.time())
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._withdrawn = False

    def model(self) -> LoadedModel:
        """What serves it, for new work. Raises as `Replica.model`; NotFoundError (404) once it is
        withdrawn."""
        if self._withdrawn:
            raise unknown_model(self.name)
        return self.replica.model()

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
        found = self.find(name)
        if found is None:
            raise unknown_model(name, [deployment.name for deployment in self], param=param)
        return found

    def find(self, name: str) -> Deployment | None:
        """The deployment of a public name or an alias, where there is one."""
        return self._by_name.get(name) or self._by_name.get(self._aliases.get(name, ""))

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


def _price(config: PriceConfig) -> Price:
    cached = config.prompt if config.cached is None else config.cached
    return Price(*(int(price * _NANO) for price in (config.prompt, cached, config.completion)))


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
