"""Does a configuration fit its hardware? Reckoned from a checkpoint's facts, for one device.

    budget    = memory x gpu_memory_utilization
    needed    = weights + overhead + KV cache
    KV cache  = blocks of a sequence x bytes of a block x max_num_seqs

Overhead is an estimate that errs on the high side. Its parts and where they come from:

- activations of the largest step, `max_num_batched_tokens` tokens T through one layer, nothing
  freed before its end: T x (2 hidden + 2 (heads + kv_heads) head_dim / tp + 3 intermediate / tp)
  x dtype, after the tensors that live in vLLM's decoder layer (residual, hidden, q, k, v,
  attention output, gate, up, their product);
- sampling, a row of the vocabulary for each of `max_num_seqs` and the spare sequences (whose
  cache is bounded when they are admitted): fp32 logits, a processed copy, sorted values, their
  int64 positions, probabilities, cumulated probabilities: 28 bytes an entry and the model's own
  dtype;
- the device's context and libraries: 0.5 GiB (vLLM logs 0.2 GiB of `non_torch_memory` beside a
  CUDA context of about 0.3 GiB), and 1 GiB more for NCCL where one model is split over devices;
- CUDA graphs: 0.5 GiB unless compilation is off (vLLM estimates 0.2-0.4 GiB in its start log).
  On a CPU: the three Python processes of an engine, 2 GiB.

For scale: vLLM logged 1.26 GiB of activations for Llama-3-8B with 256 sequences and 8,192 tokens
a step (vllm-project/vllm#10511); the two formulas above give 1.9 GiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from engine.config import EngineConfig
from engine.models.facts import CheckpointFacts
from engine.models.weights import device_weight_bytes, kv_dtype_bytes, run_dtype_bytes

GIB = 1024**3
BLOCK_TOKENS = {"gpu": 16, "cpu": 128}
"""vLLM's default block on each kind of device."""
_CONTEXT, _COLLECTIVES, _GRAPHS, _CPU_PROCESSES = GIB // 2, GIB, GIB // 2, 2 * GIB
_SAMPLER_BYTES = 28


class Hardware(Protocol):
    """The machine to fit; memory of one device in GiB, tokens of prompt and completion."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> Literal["gpu", "cpu"]: ...
    @property
    def memory_gib(self) -> float: ...
    @property
    def tokens_per_sequence(self) -> int: ...


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a configuration takes of one device, in bytes, and whether that fits.

    `kv_available` is what weights and overhead leave of the budget, or `kv_cache_gib` where that
    is set and smaller. `max_sequences` of `tokens_per_sequence` tokens would fit into it.
    `problems` is empty exactly when the configuration fits.
    """

    hardware: str
    parameters: int
    memory: int
    budget: int
    weights: int
    overhead: int
    kv_per_token: int
    kv_needed: int
    kv_available: int
    sequences: int
    tokens_per_sequence: int
    max_sequences: int
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def kv_per_sequence(self) -> int:
        """KV cache of one sequence, in whole blocks."""
        return self.kv_needed // self.sequences

    def rows(self) -> list[tuple[str, str]]:
        """The plan as labels and values, ready for a table."""
        load = f"{self.sequences} sequences x {self.tokens_per_sequence} tokens"
        return [
            ("hardware", f"{self.hardware}, {_gib(self.memory)} a device"),
            ("budget", _gib(self.budget)),
            ("weights", f"{_gib(self.weights)} ({self.parameters:,} parameters)"),
            ("overhead (estimate)", _gib(self.overhead)),
            ("KV cache a token", f"{self.kv_per_token / 1024:.1f} KiB"),
            ("KV cache needed", f"{_gib(self.kv_needed)} for {load}"),
            ("KV cache available", _gib(max(self.kv_available, 0))),
            ("would hold", f"{self.max_sequences} sequences of {self.tokens_per_sequence} tokens"),
            ("fits", "yes" if self.fits else f"no: {'; '.join(self.problems)}"),
        ]


def plan_memory(facts: CheckpointFacts, config: EngineConfig, hardware: Hardware) -> MemoryPlan:
    """Reckon one device's memory under `config`.

    Raises ModelError where the weights can't be reckoned: a quantization of unknown layout, or
    one that the checkpoint doesn't have.
    """
    memory = int(hardware.memory_gib * GIB)
    budget = int(memory * config.gpu_memory_utilization)
    weights = device_weight_bytes(facts, config)
    overhead = _overhead(facts, config, hardware)
    left = budget - weights - overhead
    available = left if config.kv_cache_gib is None else min(left, int(config.kv_cache_gib * GIB))
    per_token = kv_bytes_per_token(facts, config)
    block = config.block_size or BLOCK_TOKENS[hardware.device]
    per_sequence = per_token * _held_tokens(facts, block, hardware.tokens_per_sequence)
    longest = per_token * _held_tokens(facts, block, max_model_len(facts, config))
    needed = config.max_num_seqs * per_sequence
    return MemoryPlan(
        hardware=hardware.name,
        parameters=facts.parameters,
        memory=memory,
        budget=budget,
        weights=weights,
        overhead=overhead,
        kv_per_token=per_token,
        kv_needed=needed,
        kv_available=available,
        sequences=config.max_num_seqs,
        tokens_per_sequence=hardware.tokens_per_sequence,
        max_sequences=max(0, available // per_sequence),
        problems=tuple(_problems(facts, config, hardware, left, available, needed, longest)),
    )


def max_model_len(facts: CheckpointFacts, config: EngineConfig) -> int:
    """The context length that will be served."""
    return config.max_model_len or facts.max_positions


def kv_bytes_per_token(facts: CheckpointFacts, config: EngineConfig) -> int:
    """Bytes of keys and values that one token keeps on one device, in all its layers."""
    layers = -(-facts.layers // config.parallel.pipeline)
    # With more devices than KV heads every device keeps a whole head.
    kv_heads = max(1, -(-facts.kv_heads // config.parallel.tensor))
    return 2 * layers * kv_heads * facts.head_dim * kv_dtype_bytes(config)


def _held_tokens(facts: CheckpointFacts, block: int, tokens: int) -> int:
    """Tokens of the whole blocks that a sequence of `tokens` keeps."""
    blocks = -(-tokens // block)
    if facts.sliding_window is not None:
        # The window seldom begins where a block does: it touches one more.
        blocks = min(blocks, -(-(facts.sliding_window - 1) // block) + 1)
    return blocks * block


def _overhead(facts: CheckpointFacts, config: EngineConfig, hardware: Hardware) -> int:
    split, size = config.parallel.tensor, run_dtype_bytes(config)
    heads = 2 * (facts.heads + facts.kv_heads) * facts.head_dim
    width = 2 * facts.hidden + (heads + 3 * facts.intermediate) // split
    activations = step_tokens(config, hardware) * width * size
    sampling = config.seats * facts.vocab * (_SAMPLER_BYTES + size)
    if hardware.device == "cpu":
        return activations + sampling + _CPU_PROCESSES
    fixed = _CONTEXT + (_GRAPHS if config.compile == "auto" else 0)
    if split * config.parallel.pipeline > 1:
        fixed += _COLLECTIVES
    return activations + sampling + fixed


def step_tokens(config: EngineConfig, hardware: Hardware) -> int:
    """Tokens of the largest step: as set, else vLLM's default for a device of that size."""
    large = hardware.device == "gpu" and hardware.memory_gib >= 70
    default = 8192 if large and "a100" not in hardware.name.lower() else 2048
    return config.max_num_batched_tokens or max(default, config.seats)


def _problems(
    facts: CheckpointFacts,
    config: EngineConfig,
    hardware: Hardware,
    left: int,
    available: int,
    needed: int,
    longest: int,
) -> list[str]:
    length = max_model_len(facts, config)
    found = []
    if length > facts.max_positions:
        found.append(f"max_model_len {length} exceeds the model's {facts.max_positions} positions")
    if hardware.tokens_per_sequence > length:
        found.append(
            f"tokens_per_sequence {hardware.tokens_per_sequence} exceeds max_model_len {length}"
        )
    if left <= 0:
        return [*found, f"weights and overhead alone exceed the budget by {_gib(-left)}"]
    if config.kv_cache_gib is not None and config.kv_cache_gib * GIB > left:
        found.append(f"kv_cache_gib {config.kv_cache_gib:g} exceeds the {_gib(left)} left for it")
    if needed > available:
        found.append(f"the KV cache lacks {_gib(needed - available)} for max_num_seqs sequences")
    if longest > available:
        found.append(f"the KV cache can't hold one sequence of max_model_len {length}")
    return found


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
