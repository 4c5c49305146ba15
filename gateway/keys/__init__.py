"""Virtual keys and teams: how they are recognised, and how they are changed."""

from gateway.keys.pepper import Pepper
from gateway.keys.ring import KeyRing
from gateway.keys.tenancy import Tenancy

__all__ = ["KeyRing", "Pepper", "Tenancy"]
