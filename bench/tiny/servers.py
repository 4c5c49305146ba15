"""The tiny model and the two servers that answer with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from bench.servers.contenders import Contender, parse_contender
from bench.servers.preset import vllm_preset
from bench.tiny.model import MAX_MODEL_LEN, TinyModel, make

NAME: Final = "tiny"
# For requests with seeds: vLLM 0.32 on a CPU dies of one whose prompt is computed in parts.
SEEDED: Final = {"enable_chunked_prefill": False}
# Nothing is downloaded and nobody is told; the same for both servers.
_QUIET: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True, slots=True)
class TinyServers:
    """The model as it lies on disk, who serves it, and the environment to start them in."""

    model: TinyModel
    contenders: tuple[Contender, ...]
    environment: dict[str, str]


def tiny_servers(
    directory: Path,
    given: Sequence[str],
    *,
    engine: Mapping[str, Any],
    server: Mapping[str, Any],
) -> TinyServers:
    """Make the model in `directory`, and the commands of the servers `given`.

    Those are written `NAME=URL|COMMAND`, `{model}` standing for the model's directory; where none
    is given they are the gateway, with `engine` and `server` in its configuration, and vLLM's own
    server, with the same engine settings. Raises BenchError.
    """
    checkpoint = directory / "model"
    checkpoint.mkdir()
    config = directory / "gateway.yaml"
    config.write_text(yaml.safe_dump(_config(checkpoint, engine, server)), "utf-8")
    *both, environment = vllm_preset(config, model_path=None, has_gpu=False)
    named = [parse_contender(text.replace("{model}", str(checkpoint))) for text in given]
    return TinyServers(make(checkpoint), tuple(named or both), {**environment, **_QUIET})


def _config(
    checkpoint: Path, engine: Mapping[str, Any], server: Mapping[str, Any]
) -> dict[str, Any]:
    """No limit is met: what is refused would not be compared."""
    return {
        "model_name": NAME,
        "log_level": "warning",
        "engine": {
            "model": str(checkpoint),
            "max_num_batched_tokens": MAX_MODEL_LEN,
            "kv_cache_gib": 1,
            "compile": "off",
            "cpu_threads": 1,
            **engine,
        },
        "admission": {"max_requests": 8192},
        "server": {"max_connections": 16384, **server},
    }
