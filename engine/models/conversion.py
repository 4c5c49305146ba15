"""Turn a GGUF file of a Llama model into a Hugging Face checkpoint in bfloat16.

transformers reads the configuration and the tokenizer; the tensors are taken here one by one,
which costs a third of the time and memory of loading a model only to save it again, and lets the
progress bar tell the truth. Imports torch and transformers: import it only when converting.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor, dequantize
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from engine.models.errors import ModelError
from engine.models.progress import Progress

# The embedded model's template with a place for tools.
TEMPLATE = Path(__file__).with_name("smollm2.jinja")
_TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(source: Path, target: Path, progress: Progress) -> None:
    """Write config, generation config, tokenizer, chat template and weights into `target`.

    Raises ModelError: not a Llama model, or it holds a tensor that a Llama model doesn't have.
    """
    with progress.track("Reading configuration and tokenizer", 2) as track:
        place = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
        config: Any = AutoConfig.from_pretrained(**place)
        if config.model_type != "llama":
            raise ModelError(f"{source}: expected a llama model, found {config.model_type}")
        track.update(1)
        with warnings.catch_warnings():
            # The reader turns one-element arrays into numbers in a way numpy deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            tokenizer: Any = AutoTokenizer.from_pretrained(**place)
        track.update(2)
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = "bfloat16"
    config.save_pretrained(target)
    GenerationConfig.from_model_config(config).save_pretrained(target)
    tokenizer.chat_template = TEMPLATE.read_text("utf-8")
    tokenizer.save_pretrained(target)
    weights = _weights(source, config, progress)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes it private to its owner; an image built by root is served by another user.
    (target / "model.safetensors").chmod(0o644)


def _weights(source: Path, config: Any, progress: Progress) -> dict[str, torch.Tensor]:
    tensors = GGUFReader(source).tensors
    weights: dict[str, torch.Tensor] = {}
    with progress.track("Converting tensors", len(tensors)) as track:
        for done, tensor in enumerate(tensors, start=1):
            weights[_hf_name(tensor.name)] = _values(tensor, config)
            track.update(done)
    return weights


def _hf_name(name: str) -> str:
    """`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in _IN_LAYER:
            return f"model.layers.{layer}.{_IN_LAYER[part]}.weight"
    raise ModelError(f"unknown tensor {name!r} in a llama model")


def _values(tensor: ReaderTensor, config: Any) -> torch.Tensor:
    values = dequantize(tensor.data, tensor.tensor_type)
    if ".attn_q." in tensor.name:
        values = _unpermute(values, config.num_attention_heads)
    elif ".attn_k." in tensor.name:
        values = _unpermute(values, config.num_key_value_heads)
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(torch.bfloat16)


def _unpermute(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """GGUF pairs a head's rotary rows as neighbours, Hugging Face as halves of the head."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)
