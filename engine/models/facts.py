"""What a checkpoint is: its shapes and how they are stored, read without loading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from engine.config import EMBEDDED_MODEL
from engine.models.directory import indexed_files, weight_files
from engine.models.embedded import embedded_directory
from engine.models.errors import ModelError
from engine.models.quantization import Quantization, read_quantization
from engine.models.resolution import check_hub_id, looks_local

EMBEDDED_SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct"
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}

# Mistral's own params.json, in Hugging Face's words.
_PARAMS_KEYS = {
    "num_hidden_layers": "n_layers",
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "intermediate_size": "hidden_dim",
    "tie_word_embeddings": "tied_embeddings",
    "max_position_embeddings": "max_seq_len",
}

_SIZES = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "intermediate",
    "vocab",
    "max_positions",
)


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a decoder layer; sizes in features."""

    inputs: int
    outputs: int
    bias: bool


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """A dense Llama or Mistral decoder. Lengths in tokens; `sliding_window` None is unlimited.

    `stored_bytes` is the exact size of its tensors where the files are at hand. `source` says
    where the facts were read.
    """

    source: str
    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied_embeddings: bool
    max_positions: int
    dtype: str
    sliding_window: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    quantization: Quantization | None = None
    stored_bytes: int | None = None

    @property
    def layer_linears(self) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer: q, k, v, o, gate, up, down."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention, mlp = self.attention_bias, self.mlp_bias
        return (
            Linear(self.hidden, queries, attention),
            Linear(self.hidden, keys, attention),
            Linear(self.hidden, keys, attention),
            Linear(queries, self.hidden, attention),
            Linear(self.hidden, self.intermediate, mlp),
            Linear(self.hidden, self.intermediate, mlp),
            Linear(self.intermediate, self.hidden, mlp),
        )

    @property
    def parameters(self) -> int:
        """Number of weights, before any quantization; tied embeddings count once."""
        linears = sum(
            part.inputs * part.outputs + (part.outputs if part.bias else 0)
            for part in self.layer_linears
        )
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return embeddings + self.layers * (linears + 2 * self.hidden) + self.hidden


def find_facts(name: str, revision: str | None = None, *, online: bool = False) -> CheckpointFacts:
    """Facts of a model by its name: from its files where they are on this machine, else from the
    facts shipped for well-known models, else, with `online`, from its config.json on the hub.

    Raises ModelError: none is there, or the model is of another kind than we can reckon with.
    """
    if name == EMBEDDED_MODEL:
        converted = embedded_directory()
        if (converted / "config.json").is_file():
            return read_facts(converted)
        name = EMBEDDED_SOURCE
    elif looks_local(name):
        return read_facts(Path(name).expanduser())
    check_hub_id(name)
    cached = _cached_snapshot(name, revision)
    if cached is not None:
        return read_facts(cached)
    shipped = resources.files("engine") / "checkpoints" / f"{name.replace('/', '__')}.json"
    if shipped.is_file():
        published = json.loads(shipped.read_text("utf-8"))
        return parse_facts(published, source=f"published facts of {name}")
    if online:
        return _fetched(name, revision)
    raise ModelError(
        f"{name}: its shapes are not known here. Download it first, or give a local directory."
    )


def _fetched(name: str, revision: str | None) -> CheckpointFacts:
    import httpx2
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(name, "config.json", revision=revision)
    except (OSError, httpx2.TransportError) as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise ModelError(
            f"{name}: its shapes are not known here and can't be fetched ({reason}). Give a local "
            "directory with its config.json."
        ) from None
    return read_facts(Path(found).parent)


def read_facts(path: Path) -> CheckpointFacts:
    """Facts of the checkpoint in a directory. Raises ModelError."""
    for file in ("config.json", "params.json"):
        if (path / file).is_file():
            break
    else:
        raise ModelError(f"{path}: no config.json")
    try:
        config = json.loads((path / file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path / file} can't be read: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path / file} holds no JSON object")
    facts = parse_facts(_from_params(config) if file == "params.json" else config, str(path))
    return replace(facts, stored_bytes=stored_bytes(path))


def parse_facts(config: Mapping[str, Any], source: str) -> CheckpointFacts:
    """Facts from the keys of a Hugging Face `config.json`. Raises ModelError."""
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else "none named"
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{source}: memory can be reckoned for {' and '.join(ARCHITECTURES)} only, this is "
            f"{architecture}"
        )
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        window = config.get("sliding_window") if architecture.startswith("Mistral") else None
        facts = CheckpointFacts(
            source=source,
            architecture=architecture,
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            max_positions=int(config["max_position_embeddings"]),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            sliding_window=int(window) if window else None,
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            quantization=read_quantization(config.get("quantization_config")),
        )
    except KeyError as error:
        raise ModelError(f"{source}: config.json lacks {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"{source}: config.json has a wrong value: {error}") from None
    for name in _SIZES:
        if getattr(facts, name) < 1:
            raise ModelError(f"{source}: config.json has a wrong value: {name} is below 1")
    return facts


def stored_bytes(path: Path) -> int | None:
    """Exact bytes of all tensors, from the headers of the safetensors files an engine would read;
    None where one is missing or there are none."""
    index = path / "model.safetensors.index.json"
    present = weight_files(file.name for file in path.iterdir())
    files = [path / name for name in (indexed_files(index) if index.is_file() else present)]
    if not files or any(not f.is_file() or f.suffix != ".safetensors" for f in files):
        return None
    return sum(_tensor_bytes(file) for file in files)


def _tensor_bytes(file: Path) -> int:
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            present = file.stat().st_size - stream.tell()
        spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        if max(end for _, end in spans) > present:
            raise ValueError("the file ends before its tensors do")
        return sum(end - start for start, end in spans)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        raise ModelError(f"{file}: not a safetensors file, or cut short") from None


def _from_params(params: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {ours: params[theirs] for ours, theirs in _PARAMS_KEYS.items() if theirs in params}
    defaults = {
        "architectures": ["MistralForCausalLM"],
        "max_position_embeddings": 32768,
        "dtype": "bfloat16",
    }
    return defaults | dict(params) | renamed


def _cached_snapshot(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None
