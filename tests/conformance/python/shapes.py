"""Schemas that even a model of 135 million parameters can fill: every string is short or one of a
few, so that what is asserted is the protocol and not the model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Colour = Literal["red", "green", "blue"]


class Person(BaseModel):
    """A person."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=16)
    age: int = Field(ge=0, le=150)
    favourite: Colour


class Weather(BaseModel):
    """Get the weather in a city."""

    model_config = ConfigDict(extra="forbid")

    city: str = Field(max_length=16)
    unit: Colour


ASK_PERSON = "Describe a person as JSON: Ann is 30 years old and likes green."

WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Tokyo"]},
        "days": {"type": "integer", "enum": [1, 2, 3]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": WEATHER_PARAMETERS,
        "strict": True,
    },
}
