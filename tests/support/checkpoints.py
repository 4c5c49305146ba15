"""Makers of small real checkpoints. Deterministic; each writes into an existing directory.

- `make_awq`: any Llama checkpoint in AutoAWQ's 4-bit format, round to nearest with a search for
  the best clipping of each group; no calibration, so it takes seconds.
- `make_mistral`: a random Mistral with a sliding window.
- `make_llama`: the smallest Llama an engine will load.
- `make_cross_encoder`: a random BERT that scores pairs of texts.
- `make_lora`: a random LoRA adapter of a Llama.

The random models speak with the tokenizer and chat template of the checkpoint they are given.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

AWQ_BITS = 4
SLIDING_WINDOW = 64

_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_CLIPPINGS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8)
# AutoAWQ's "gemm" kernel wants the eight nibbles of a word interleaved like this.
_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.txt",
)


def make_awq(source: Path, target: Path, *, group_size: int = 64) -> Path:
    """Quantize the Llama checkpoint `source`; embeddings and norms stay, in float16."""
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer.endswith(_LINEARS):
            tensors |= _quantize(layer, weight.float(), group_size)
        else:
            tensors[name] = weight.half()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    _copy_tokenizer(source, target)
    config = json.loads((source / "config.json").read_text("utf-8"))
    config["dtype"] = "float16"
    config["quantization_config"] = {
        "quant_method": "awq",
        "bits": AWQ_BITS,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    (target / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return target


def make_mistral(tokenizer: Path, target: Path, *, seed: int = 0) -> Path:
    """One layer and a sliding window of 64 tokens: what lies further back can't matter."""
    shape = _tiny_shape() | {"num_hidden_layers": 1, "sliding_window": SLIDING_WINDOW}
    return _random(MistralForCausalLM, MistralConfig(**shape), tokenizer, target, seed)


def make_llama(tokenizer: Path, target: Path, *, seed: int = 0) -> Path:
    """Two layers of 64 features; 3.2 million parameters, nearly all of them embeddings."""
    return _random(LlamaForCausalLM, LlamaConfig(**_tiny_shape()), tokenizer, target, seed)


def make_cross_encoder(tokenizer: Path, target: Path, *, seed: int = 0) -> Path:
    """Two layers of 64 features and one label: the second text's relevance to the first."""
    config = BertConfig(
        vocab_size=30522,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        num_labels=1,
        initializer_range=0.2,
    )
    _random(BertForSequenceClassification, config, tokenizer, target, seed, torch.float32)
    return target


def make_lora(
    base: Path, target: Path, *, seed: int = 0, rank: int = 8, strength: float = 0.5
) -> Path:
    """For the Llama checkpoint `base`, in PEFT's format. With a strength of 0 it changes nothing,
    as one that was never trained."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    width, inner = config["hidden_size"], config["intermediate_size"]
    values = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.v_proj": (width, values),
        "mlp.down_proj": (inner, width),
    }
    source = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (inputs, outputs) in shapes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            down = torch.randn(rank, inputs, generator=source) / inputs**0.5
            up = torch.randn(outputs, rank, generator=source) * strength
            tensors[f"{name}.lora_A.weight"] = down.bfloat16()
            tensors[f"{name}.lora_B.weight"] = up.bfloat16()
    save_file(tensors, target / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [module.partition(".")[2] for module in shapes],
        "bias": "none",
    }
    (target / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    return target


def _tiny_shape() -> dict[str, Any]:
    return {
        "vocab_size": 49152,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        # vLLM's CPU attention takes heads of 32 features at least.
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": True,
        # Far above the usual 0.02: the logits must differ enough to tell tokens apart.
        "initializer_range": 0.2,
    }


def _random(
    architecture: type[PreTrainedModel],
    config: Any,
    tokenizer: Path,
    target: Path,
    seed: int,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = architecture(config)
    model.to(dtype).save_pretrained(target)
    _copy_tokenizer(tokenizer, target)
    return target


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in (*_TOKENIZER_FILES, "generation_config.json"):
        if (source / name).is_file():
            shutil.copy(source / name, target / name)


def _quantize(layer: str, weight: torch.Tensor, group_size: int) -> dict[str, torch.Tensor]:
    """`weight` is [out, in]; AWQ stores everything as [in, out], eight outputs a word."""
    outputs, inputs = weight.shape
    if inputs % group_size or outputs % 8:
        raise ValueError(f"{layer}: {inputs} inputs don't divide into groups of {group_size}")
    quantized, scales, zeros = _best_clipping(weight.reshape(outputs, -1, group_size))
    return {
        f"{layer}.qweight": _pack(quantized.reshape(outputs, inputs).t()),
        f"{layer}.qzeros": _pack(zeros.t()),
        f"{layer}.scales": scales.t().half().contiguous(),
    }


def _best_clipping(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Integers, scales and zero points of `groups` [out, group, in], each group clipped where its
    squared error is least."""
    best: tuple[torch.Tensor, ...] | None = None
    for clipping in _CLIPPINGS:
        scales, zeros = _scales_and_zeros(groups, clipping)
        step, zero = scales[..., None], zeros[..., None]
        values = ((groups / step).round() + zero).clamp(0, 2**AWQ_BITS - 1)
        error = (((values - zero) * step - groups) ** 2).sum(-1)
        candidate = (error, values, scales, zeros)
        if best is None:
            best = candidate
            continue
        better = error < best[0]
        best = tuple(
            torch.where(better.reshape(better.shape + (1,) * (new.dim() - 2)), new, old)
            for new, old in zip(candidate, best, strict=True)
        )
    assert best is not None
    return best[1].int(), best[2], best[3].int()


def _scales_and_zeros(groups: torch.Tensor, clipping: float) -> tuple[torch.Tensor, torch.Tensor]:
    levels = 2**AWQ_BITS - 1
    highest = groups.amax(-1).clamp_min(0) * clipping
    lowest = groups.amin(-1).clamp_max(0) * clipping
    # Rounded as they will be stored, so that the error is measured with the real scale.
    scales = ((highest - lowest) / levels).clamp_min(1e-6).half().float()
    return scales, (-lowest / scales).round().clamp(0, levels)


def _pack(values: torch.Tensor, nibbles: Sequence[int] = _NIBBLES) -> torch.Tensor:
    """[rows, columns] of 0..15 to int32 [rows, columns / 8]."""
    words = torch.zeros(values.shape[0], values.shape[1] // 8, dtype=torch.int64)
    grouped = values.reshape(values.shape[0], -1, 8).to(torch.int64)
    for position, column in enumerate(nibbles):
        words |= grouped[..., column] << (AWQ_BITS * position)
    # The upper half of the unsigned range is the negative half of int32.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
