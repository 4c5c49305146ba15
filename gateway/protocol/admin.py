"""`/admin/v1/adapters`: LoRA adapters while the program runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.protocol.parse import WireModel

_Name = Annotated[str, Field(min_length=1, max_length=128)]


class AdapterRequest(WireModel):
    """Serve the adapter in `path`, below the model's `engine.adapter_root`, as `name`. `base` is
    the model it was trained for."""

    name: _Name
    path: Annotated[str, Field(min_length=1, max_length=4096)]
    base: _Name
