"""What is served: models, their adapters, prices and objectives, and the machine they are for."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.config import MOST_MEMORY_GIB, EngineConfig, Frozen
from gateway.tenants import NANOS, Price

PublicName = Annotated[str, Field(min_length=1, max_length=128)]


class AdapterConfig(Frozen):
    """A LoRA adapter of the model it stands with; clients choose it like a model, by its name."""

    name: PublicName
    path: str = Field(min_length=1, description="a local directory or a Hugging Face id")


class PriceConfig(Frozen):
    """What tokens cost, in units of your currency per million tokens."""

    prompt: Decimal = Field(Decimal(0), ge=0, le=1_000_000, decimal_places=9)
    cached: Decimal | None = Field(
        None,
        ge=0,
        le=1_000_000,
        decimal_places=9,
        description="of prompt tokens found in the prefix cache; None: as the others",
    )
    completion: Decimal = Field(Decimal(0), ge=0, le=1_000_000, decimal_places=9)

    @model_validator(mode="after")
    def _cached_is_cheaper(self) -> PriceConfig:
        if self.cached is not None and self.cached > self.prompt:
            raise ValueError("'cached' can't be more than 'prompt': nobody could reserve for it")
        return self

    def in_nanos(self) -> Price:
        """The same as whole numbers."""
        cached = self.prompt if self.cached is None else self.cached
        return Price(*(int(amount * NANOS) for amount in (self.prompt, cached, self.completion)))


class SloConfig(Frozen):
    """What an answer has to reach to count as good (goodput). None: not looked at."""

    ttft_ms: float | None = Field(None, gt=0, description="request received to first token")
    tpot_ms: float | None = Field(None, gt=0, description="mean time of the tokens after it")


class ModelConfig(Frozen):
    """One model of several: what clients call it, and the engine that runs it."""

    name: PublicName | None = Field(None, description="default: the engine's model")
    aliases: tuple[PublicName, ...] = Field((), description="other names it answers to")
    owned_by: str = Field("gateway", min_length=1, max_length=128)
    engine: EngineConfig = EngineConfig()
    adapters: tuple[AdapterConfig, ...] = ()
    price: PriceConfig = PriceConfig()
    slo: SloConfig = SloConfig()

    @property
    def public_name(self) -> str:
        """What clients put in `model`."""
        return self.name or self.engine.model

    @property
    def engine_to_start(self) -> EngineConfig:
        """The engine's settings, with room for the adapters that are configured."""
        room = max(self.engine.max_adapters, len(self.adapters))
        return self.engine.model_copy(update={"max_adapters": room})

    @model_validator(mode="after")
    def _adapters_fit(self) -> ModelConfig:
        if self.adapters and self.engine.runner != "generate":
            raise ValueError("adapters need 'engine.runner: generate'; leave them out here")
        if 0 < self.engine.max_adapters < len(self.adapters):
            raise ValueError(
                f"engine.max_adapters is {self.engine.max_adapters}, but {len(self.adapters)} "
                "adapters are configured; raise it or leave it out"
            )
        return self


class HardwareConfig(Frozen):
    """The machine a configuration is written for; `gateway check` computes whether it fits."""

    name: str = Field(min_length=1, description="for people, e.g. 'NVIDIA T4'")
    device: Literal["gpu", "cpu"] = "gpu"
    memory_gib: float = Field(gt=0, le=MOST_MEMORY_GIB, description="memory of one device")
    tokens_per_sequence: int = Field(
        ge=1,
        description="prompt + completion of a typical request, to size the KV cache",
    )
