"""Configuration: frozen models, one file for each part, read by `reading.load_config`."""

from gateway.config.health import HealthConfig
from gateway.config.http import CorsConfig, ServerConfig
from gateway.config.models import (
    AdapterConfig,
    HardwareConfig,
    ModelConfig,
    PriceConfig,
    SloConfig,
)
from gateway.config.reading import ConfigError, UnreachableError, load_config
from gateway.config.state import ResponsesConfig, StateConfig
from gateway.config.tenants import (
    AdmissionConfig,
    ApiKeyConfig,
    AuthConfig,
    LedgerConfig,
    LimitsConfig,
)
from gateway.config.whole import GatewayConfig

__all__ = [
    "AdapterConfig",
    "AdmissionConfig",
    "ApiKeyConfig",
    "AuthConfig",
    "ConfigError",
    "CorsConfig",
    "GatewayConfig",
    "HardwareConfig",
    "HealthConfig",
    "LedgerConfig",
    "LimitsConfig",
    "ModelConfig",
    "PriceConfig",
    "ResponsesConfig",
    "ServerConfig",
    "SloConfig",
    "StateConfig",
    "UnreachableError",
    "load_config",
]
