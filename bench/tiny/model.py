"""A Llama so small that the front end, not the model, is what a benchmark measures.

Its weights are random signs, and its attention and feed-forward layers are computed but add
nothing, so that the next token depends on the last one alone and every number is exact, whatever
the batch. Greedy, it walks one long cycle through its vocabulary, which `TinyModel.answer` walks
too: every stream can be checked. At temperature 2 more than half of its tokens stray from the
cycle, the same way for the same seed. Its words include emoji, ideographs and combining marks that
are spread over several tokens.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bench.prompts.words import WORDS

_Tensor = Sequence[float | list[float]]

SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END: Final = SPECIAL.index("<|im_end|>")
MAX_MODEL_LEN: Final = 4096
_VOCABULARY: Final = 2048
_FEATURES: Final = 64
_LOGIT_SCALE: Final = 0.25
# Characters as the tokens their bytes are spread over. No token is in two of them, as every token
# has one successor.
_SPREAD: Final = (
    (b"\xf0\x9f", b"\x98\x80"),  # 😀
    (b"\xf0", b"\x9f\x8e", b"\x89"),  # 🎉
    (b"\xe6\xbc", b"\xa2"),  # 漢
    (b"\xe5", b"\xad\x97"),  # 字
    (b"e", b"\xcc", b"\x81"),  # e with a combining acute accent
)
# Ends with the last word again, so that the walk starts where the prompt says.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' + messages[-1]['content'].split(' ')[-1] }}"
    "{% endif %}"
)


@dataclass(frozen=True)
class TinyModel:
    """The checkpoint in `path`, and what it answers."""

    path: Path
    tokenizer: Tokenizer
    successors: Mapping[int, int]

    def prompt(self, content: str) -> list[int]:
        """The tokens of a conversation of one user message."""
        text = (
            f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
            f"{content.rpartition(' ')[2]}"
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def answer(self, prompt: Sequence[int], max_tokens: int) -> tuple[str, int]:
        """The greedy answer, ends of sequence ignored, and how many tokens it has.

        A character that the last tokens only begin is not part of the text.
        """
        tokens = [
            token for token, _ in zip(self._walk(prompt[-1]), range(max_tokens), strict=False)
        ]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.rstrip("\N{REPLACEMENT CHARACTER}"), len(tokens)

    def _walk(self, token: int) -> Iterator[int]:
        while True:
            token = self.successors[token]
            yield token


def make(target: Path, *, seed: int = 0) -> TinyModel:
    """Write the checkpoint into the directory `target`. Takes a second."""
    tokenizer = _tokenizer()
    successors = _successors(tokenizer, random.Random(seed))
    tokenizer.save(str(target / "tokenizer.json"))
    for name, content in _settings(tokenizer.get_vocab_size()).items():
        (target / name).write_text(json.dumps(content, indent=2), "utf-8")
    _save_weights(target / "model.safetensors", tokenizer.get_vocab_size(), successors, seed)
    return TinyModel(target, tokenizer, successors)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - sum(len(token) > 1 for char in _SPREAD for token in char),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    tree = json.loads(tokenizer.to_str())
    model = tree["model"]
    for left, right in (map(_spelled, pair) for pair in _spread_pairs()):
        model["vocab"][left + right] = len(model["vocab"])
        model["merges"].append([left, right])
    found = Tokenizer.from_str(json.dumps(tree))
    found.decoder = decoders.ByteLevel()
    return found


def _spread_pairs() -> list[tuple[bytes, bytes]]:
    return [(t[:1], t[1:]) for char in _SPREAD for t in char if len(t) == 2]


def _spelled(data: bytes) -> str:
    """How a byte-level vocabulary spells bytes (Radford et al., GPT-2): printable Latin-1 as
    itself, the others from U+0100 up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(b) if b in printable else chr(256 + others.index(b)) for b in data)


def _successors(tokenizer: Tokenizer, rng: random.Random) -> dict[int, int]:
    """One cycle through every token that is whole text, the spread characters, and the end."""
    vocabulary = tokenizer.get_vocab()
    spread = [[vocabulary[_spelled(part)] for part in character] for character in _SPREAD]
    inside = {token for character in spread for token in character}
    texts = tokenizer.decode_batch(
        [[token] for token in range(len(vocabulary))], skip_special_tokens=True
    )
    whole = [
        [token]
        for token, text in enumerate(texts)
        if token not in inside and text and "\N{REPLACEMENT CHARACTER}" not in text
    ]
    pieces = [*whole, *spread, [END]]
    rng.shuffle(pieces)
    cycle = [token for piece in pieces for token in piece]
    return dict(pairwise([*cycle, cycle[0]]))


def _settings(vocabulary: int) -> dict[str, dict[str, Any]]:
    ends = {"bos_token_id": 1, "eos_token_id": END, "pad_token_id": END}
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "vocab_size": vocabulary,
            "hidden_size": _FEATURES,
            "intermediate_size": _FEATURES,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": MAX_MODEL_LEN,
            "tie_word_embeddings": False,
            **ends,
        },
        "generation_config.json": ends,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[1],
            "eos_token": SPECIAL[2],
            "pad_token": SPECIAL[2],
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": MAX_MODEL_LEN,
        },
    }


def _save_weights(file: Path, vocabulary: int, successors: Mapping[int, int], seed: int) -> None:
    rng = random.Random(seed)

    def signs(rows: int) -> list[list[float]]:
        return [rng.choices((1.0, -1.0), k=_FEATURES) for _ in range(rows)]

    embeddings, head = signs(vocabulary), signs(vocabulary)
    for token, following in successors.items():
        head[following] = embeddings[token]
    ones = [1.0] * _FEATURES
    zeros = [[0.0] * _FEATURES] * _FEATURES
    layer: dict[str, _Tensor] = {
        "input_layernorm.weight": ones,
        "post_attention_layernorm.weight": ones,
        "self_attn.q_proj.weight": signs(_FEATURES),
        "self_attn.k_proj.weight": signs(_FEATURES // 2),
        "self_attn.v_proj.weight": signs(_FEATURES // 2),
        "self_attn.o_proj.weight": zeros,
        "mlp.gate_proj.weight": signs(_FEATURES),
        "mlp.up_proj.weight": signs(_FEATURES),
        "mlp.down_proj.weight": zeros,
    }
    tensors = {f"model.layers.0.{name}": tensor for name, tensor in layer.items()} | {
        "model.embed_tokens.weight": embeddings,
        "model.norm.weight": ones,
        "lm_head.weight": [[_LOGIT_SCALE * value for value in row] for row in head],
    }
    _save_safetensors(file, tensors)


def _save_safetensors(file: Path, tensors: Mapping[str, _Tensor]) -> None:
    """Write vectors and matrices in bfloat16: the first half of a float32, exact for our values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    content = bytearray()
    for name, tensor in tensors.items():
        rows = [row if isinstance(row, list) else [row] for row in tensor]
        shape = [len(tensor), *([len(rows[0])] if isinstance(tensor[0], list) else [])]
        start = len(content)
        content += b"".join(struct.pack("<f", value)[2:] for row in rows for value in row)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, len(content)]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content)
