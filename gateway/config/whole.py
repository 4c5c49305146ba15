"""The whole configuration, as one frozen model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pydantic import Field, model_validator

from engine.config import EngineConfig, Frozen
from gateway.config.health import HealthConfig
from gateway.config.http import ServerConfig
from gateway.config.models import HardwareConfig, ModelConfig, PriceConfig, SloConfig
from gateway.config.state import ResponsesConfig, StateConfig
from gateway.config.tenants import AdmissionConfig, AuthConfig, LedgerConfig, LimitsConfig


class GatewayConfig(Frozen):
    """The whole program's configuration; see `configs/` for commented examples."""

    model_name: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="public name; default: the engine's model",
    )
    engine: EngineConfig = EngineConfig()
    price: PriceConfig = PriceConfig()
    slo: SloConfig = SloConfig()
    models: tuple[ModelConfig, ...] = Field(
        (), description="several models, instead of 'model_name' and 'engine'"
    )
    server: ServerConfig = ServerConfig()
    admission: AdmissionConfig = AdmissionConfig()
    auth: AuthConfig = AuthConfig()
    limits: LimitsConfig = LimitsConfig()
    ledger: LedgerConfig = LedgerConfig()
    health: HealthConfig = HealthConfig()
    state: StateConfig = StateConfig()
    responses: ResponsesConfig = ResponsesConfig()
    hardware: HardwareConfig | None = None
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")

    @property
    def served(self) -> tuple[ModelConfig, ...]:
        """The models, at least one, however they are configured."""
        if self.models:
            return self.models
        one = ModelConfig(name=self.model_name, engine=self.engine, price=self.price, slo=self.slo)
        return (one,)

    @property
    def public_name(self) -> str:
        """What clients call the first model."""
        return self.served[0].public_name

    @model_validator(mode="after")
    def _one_form(self) -> GatewayConfig:
        given = [
            key for key in ("model_name", "engine", "price", "slo") if key in self.model_fields_set
        ]
        if self.models and given:
            raise ValueError(
                f"'models' and '{given[0]}' exclude each other; with 'models' each has its own "
                "'name' and 'engine'"
            )
        _unique(_names(self.models))
        return self


def _names(models: Sequence[ModelConfig]) -> Iterator[tuple[str, str]]:
    """Every name a client may use, with the key it is configured by."""
    for number, model in enumerate(models):
        yield f"models.{number}.name", model.public_name
        for place, alias in enumerate(model.aliases):
            yield f"models.{number}.aliases.{place}", alias
        for place, adapter in enumerate(model.adapters):
            yield f"models.{number}.adapters.{place}.name", adapter.name


def _unique(names: Iterable[tuple[str, str]]) -> None:
    """Raises ValueError, which names both keys."""
    found: dict[str, str] = {}
    for key, name in names:
        if name in found:
            raise ValueError(
                f"{key} is '{name}', and so is {found[name]}; names, aliases and adapters have to "
                "differ from one another"
            )
        found[name] = key
