"""Bytes of weights that one device holds, under tensor and pipeline parallelism."""

from __future__ import annotations

from engine.config import EngineConfig
from engine.models.errors import ModelError
from engine.models.facts import DTYPE_BYTES, CheckpointFacts
from engine.models.quantization import Quantization, online_quantization

# Names of vLLM's kernels for a checkpoint's method.
_KERNELS = {"awq_marlin": "awq", "gptq_marlin": "gptq"}


def run_dtype_bytes(config: EngineConfig) -> int:
    """Bytes of an unquantized weight as it runs."""
    if config.dtype != "auto":
        return DTYPE_BYTES[config.dtype]
    # vLLM's auto runs float32 checkpoints in 16 bits.
    return 2


def kv_dtype_bytes(config: EngineConfig) -> int:
    """Bytes of one number in the KV cache. Raises ModelError for an unknown kv_cache_dtype."""
    name = config.kv_cache_dtype
    if name == "auto":
        return run_dtype_bytes(config)
    if name.startswith(("fp8", "int8")):
        return 1
    if name in DTYPE_BYTES:
        return DTYPE_BYTES[name]
    raise ModelError(f"kv_cache_dtype {name!r}: its size is not known here")


def device_weight_bytes(facts: CheckpointFacts, config: EngineConfig) -> int:
    """Weights of the fullest device: its share of every layer of its pipeline stage, and of the
    embeddings, which sit in the first and last stage. Norms are whole on every device.

    Exact from the files where one device holds all of an unchanged checkpoint. Raises ModelError.
    """
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    quantization = _quantization(facts, config)
    unchanged = quantization == facts.quantization and _runs_as_stored(facts, config)
    if facts.stored_bytes is not None and tensor * pipeline == 1 and unchanged:
        return facts.stored_bytes
    if quantization is not None and quantization.bits is None:
        if facts.stored_bytes is None:
            raise ModelError(f"{facts.source}: the layout of {quantization.method} is not known")
        return -(-facts.stored_bytes // (tensor * pipeline))
    size = run_dtype_bytes(config)
    layers = -(-facts.layers // pipeline)
    layer = -(-_layer_bytes(facts, quantization, size) // tensor) + 2 * facts.hidden * size
    tables = 1 if facts.tied_embeddings or pipeline > 1 else 2
    embeddings = -(-tables * facts.vocab * facts.hidden * size // tensor)
    return layers * layer + embeddings + facts.hidden * size


def _layer_bytes(facts: CheckpointFacts, quantization: Quantization | None, size: int) -> int:
    total = 0
    for part in facts.layer_linears:
        if quantization is None:
            total += part.inputs * part.outputs * size
        else:
            total += quantization.linear_bytes(part.inputs, part.outputs)
        total += part.outputs * size if part.bias else 0
    return total


def _runs_as_stored(facts: CheckpointFacts, config: EngineConfig) -> bool:
    return DTYPE_BYTES.get(facts.dtype) == run_dtype_bytes(config)


def _quantization(facts: CheckpointFacts, config: EngineConfig) -> Quantization | None:
    asked = config.quantization
    if asked is None:
        return facts.quantization
    if facts.quantization is not None:
        if _KERNELS.get(asked, asked) != facts.quantization.method:
            raise ModelError(
                f"{facts.source} is quantized with {facts.quantization.method}, not {asked}; leave "
                "engine.quantization out to take what the checkpoint says"
            )
        return facts.quantization
    online = online_quantization(asked)
    if online is None:
        raise ModelError(
            f"{facts.source} is not quantized, and {asked} is not a method that quantizes while "
            "loading with a layout known here"
        )
    return online
