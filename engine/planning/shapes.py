"""What is asked of the micro-benchmark, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.models import CheckpointFacts
from engine.planning.roofline import Load

PREFILL_ROWS: Final = 256
LONGEST_PROMPT: Final = 2048


@dataclass(frozen=True, slots=True)
class Shapes:
    """A model's layers and the sizes they are run at.

    `linears` are (inputs, outputs) of a layer's products as an engine fuses them. A decode step
    has `sequences` rows at `context` tokens. Products of a prefill are measured with `rows` tokens,
    its attention with `prompts` prompts of `prompt` tokens.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    linears: list[tuple[int, int]]
    sequences: int
    context: int
    rows: int
    prompts: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Reached:
    """Of one number format: bytes a second of weights, operations a second of products and of
    attention, and seconds of an operator between them; each in decoding and in a prefill."""

    bandwidth: float
    matmul: float
    prefill: float
    attention: float
    prefill_attention: float
    operator_s: float
    prefill_operator_s: float


def shapes_of(facts: CheckpointFacts, load: Load) -> Shapes:
    """Sizes for `load`. Prefills are measured in small pieces: they reach the full rate already,
    and a run that is over in a few milliseconds is seldom interrupted."""
    queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    prompt = min(load.input_tokens, LONGEST_PROMPT)
    rows = min(load.concurrency * load.input_tokens, PREFILL_ROWS)
    return Shapes(
        layers=facts.layers,
        hidden=facts.hidden,
        intermediate=facts.intermediate,
        heads=facts.heads,
        kv_heads=facts.kv_heads,
        head_dim=facts.head_dim,
        linears=[
            (facts.hidden, queries + 2 * keys),
            (queries, facts.hidden),
            (facts.hidden, 2 * facts.intermediate),
            (facts.intermediate, facts.hidden),
        ],
        sequences=load.concurrency,
        context=round(load.context),
        rows=rows,
        prompts=max(1, min(load.concurrency, PREFILL_ROWS // prompt)),
        prompt=prompt,
    )
