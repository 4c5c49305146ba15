"""From a gateway configuration to the two commands of a fair comparison with vLLM's server.

The file is read as YAML; keys and their meaning are those of the gateway's configuration, its
engine section maps to vLLM's flags one to one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.errors import BenchError
from bench.servers.contenders import Contender

_EMBEDDED = "smollm2-135m-instruct"
_GIB = 1024**3
_FLAGS = {
    "revision": "--revision",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "load_format": "--load-format",
    "tokenizer_mode": "--tokenizer-mode",
    "max_model_len": "--max-model-len",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "long_prefill_token_threshold": "--long-prefill-token-threshold",
    "block_size": "--block-size",
    "gpu_memory_utilization": "--gpu-memory-utilization",
}
_PARALLEL_FLAGS = {
    "tensor": "--tensor-parallel-size",
    "pipeline": "--pipeline-parallel-size",
    "data": "--data-parallel-size",
}


def vllm_preset(
    config: Path, *, model_path: str | None, has_gpu: bool
) -> tuple[Contender, Contender, dict[str, str]]:
    """`gateway serve` on `config`, vLLM's server with the same engine, and their environment.

    Raises BenchError: the file can't be used, or the model's directory isn't known.
    """
    tree = read_configuration(config)
    engine = _section(tree, "engine", config)
    if engine.get("kind", "vllm") != "vllm":
        raise BenchError(f"{config}: engine.kind is {engine['kind']}: vLLM's server can't run that")
    name = str(tree.get("model_name") or engine.get("model") or _EMBEDDED)
    python = sys.executable
    ours = [python, "-m", "gateway", "serve", "--config", str(config)]
    ours += ["--host", "127.0.0.1", "--port", "{port}"]
    peer = [python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    peer += ["--port", "{port}", "--served-model-name", name]
    peer += ["--model", model_path or _model_path(engine, _cached_embedded)]
    peer += engine_flags(engine, has_gpu=has_gpu)
    return (
        Contender("gateway", command=tuple(ours)),
        Contender("vllm", command=tuple(peer)),
        engine_environment(engine, has_gpu=has_gpu),
    )


def engine_flags(engine: dict[str, Any], *, has_gpu: bool) -> list[str]:
    """vLLM's flags for an engine section, the gateway's own defaults included."""
    step = engine.get("max_num_batched_tokens")
    if step is not None and engine.get("enable_chunked_prefill", True):
        half = min(step // 2, engine.get("max_model_len") or step)
        engine = {"long_prefill_token_threshold": half, **engine}
    flags: list[str] = ["--generation-config", "vllm"]
    flags += ["--max-num-seqs", str(engine.get("max_num_seqs", 32))]
    for key, flag in _FLAGS.items():
        if engine.get(key) is not None:
            flags += [flag, str(engine[key])]
    for key, flag in _PARALLEL_FLAGS.items():
        if engine.get("parallel", {}).get(key, 1) != 1:
            flags += [flag, str(engine["parallel"][key])]
    kv_cache = engine.get("kv_cache_gib") or (None if has_gpu else 1.0)
    if kv_cache is not None:
        flags += ["--kv-cache-memory-bytes", str(int(kv_cache * _GIB))]
    for key in ("prefix-caching", "chunked-prefill"):
        wanted = engine.get(f"enable_{key.replace('-', '_')}", True)
        flags.append(f"--{'enable' if wanted else 'no-enable'}-{key}")
    if engine.get("compile", "auto") in ("off", False):  # YAML reads a bare off as false
        flags.append("--enforce-eager")
    executor = _executor(engine)
    if executor is not None:
        flags += ["--distributed-executor-backend", executor]
    return flags


def engine_environment(engine: dict[str, Any], *, has_gpu: bool) -> dict[str, str]:
    """What the gateway sets for an engine whose threads are given, to be set for both servers
    alike: so neither has fewer while others use the cores."""
    if has_gpu:
        return {}
    allowed = len(os.sched_getaffinity(0))
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed)
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(engine.get("cpu_threads") or cores),
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
        "GOMP_SPINCOUNT": "500",
        "VLLM_CPU_ATTN_SPLIT_KV": "0",
        "VLLM_USE_AOT_COMPILE": "0",
    }
    if _executor(engine) == "uni":
        # Otherwise vLLM replaces this executor on the CPU.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return environment


def _executor(engine: dict[str, Any]) -> str | None:
    executor = engine.get("executor", "auto")
    if executor != "auto":
        return str(executor)
    parallel = engine.get("parallel", {})
    return "uni" if parallel.get("tensor", 1) * parallel.get("pipeline", 1) == 1 else None


def _model_path(engine: dict[str, Any], cached: Callable[[], Path | None]) -> str:
    model = str(engine.get("model") or _EMBEDDED)
    if model != _EMBEDDED:
        return model
    found = cached()
    if found is None:
        raise BenchError(
            f"the directory of {model} is not known: start the gateway once, which makes it, or "
            "give --model-path"
        )
    return str(found)


def _cached_embedded() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    found = sorted(
        (root / "gateway" / "models").glob(f"{_EMBEDDED}-*/config.json"),
        key=lambda file: file.stat().st_mtime,
    )
    return found[-1].parent if found else None


def read_configuration(config: Path) -> dict[str, Any]:
    """A gateway configuration's sections. Raises BenchError."""
    try:
        tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BenchError(f"{config}: can't be read as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise BenchError(f"{config}: expected a mapping of sections")
    return tree


def _section(tree: dict[str, Any], name: str, config: Path) -> dict[str, Any]:
    overriding = [key for key in os.environ if key.startswith(f"GATEWAY_{name.upper()}__")]
    if overriding:
        raise BenchError(
            f"{overriding[0]} is set, which only one of the two servers would follow; unset it"
        )
    section = tree.get(name) or {}
    if not isinstance(section, dict):
        raise BenchError(f"{config}: {name}: expected a mapping")
    return section
