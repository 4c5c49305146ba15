"""How fast a dense decoder runs, from its shapes and what a device reaches.

    decode step = weights + attention + overhead, each of the first two
                  max(bytes / bandwidth, operations / rate)
    weights     every weight once for all sequences; 2 operations a weight and token
    attention   the cache of all sequences at their mean context; 4 operations for each token of
                context, head, head dimension and layer
    overhead    what the engine does for a step and a token beside the model; on a CPU also the
                operators between the products

A prefill is the same with the prompts' tokens in steps of `step_tokens`; its attention is causal,
which halves it. The mean context of a decode is the prompt and half of the answer. What the two
phases give together:

    output tokens/s = concurrency x output / (prefill of all + (output - 1) x decode step)

as the first token of an answer comes out of its prefill, and each slot that gets free is taken by
the next request at once. All of this is for one device; with tensor parallelism each one has its
share of the bytes and operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import EngineConfig
from engine.models import CheckpointFacts, device_weight_bytes, kv_bytes_per_token
from engine.models.weights import run_dtype_bytes
from engine.planning.terms import Limit, Overhead, Phase, Roof


@dataclass(frozen=True, slots=True)
class Load:
    """So many requests at once, of so many tokens each."""

    concurrency: int
    input_tokens: int
    output_tokens: int

    @property
    def context(self) -> float:
        """Tokens of the mean context while decoding."""
        return self.input_tokens + self.output_tokens / 2


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations a second of products and of attention; where that counts, the seconds that an
    operator between them takes with so many rows."""

    matmul: Limit
    attention: Limit
    operator_s: float = 0.0
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a device reaches with a precision: bytes a second of weights and of the cache, rates of
    decoding and of prefilling, and the engine's own time for each step, token and layer."""

    weights: Limit
    cache: Limit
    decode: Rates
    prefill: Rates
    step_s: float
    token_s: float
    layer_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Times in seconds. `prefill` is that of all requests at once, `alone` that of one."""

    load: Load
    prefill: Phase
    alone: Phase
    decode: Phase

    @property
    def output_tokens_per_s(self) -> float:
        return self.load.concurrency * self.load.output_tokens / self.seconds

    @property
    def total_tokens_per_s(self) -> float:
        tokens = self.load.input_tokens + self.load.output_tokens
        return self.load.concurrency * tokens / self.seconds

    @property
    def decode_tokens_per_s(self) -> float:
        """While nothing is prefilled."""
        return self.load.concurrency / self.decode.seconds

    @property
    def prefill_tokens_per_s(self) -> float:
        return self.load.concurrency * self.load.input_tokens / self.prefill.seconds

    @property
    def seconds(self) -> float:
        """From the first request to the last token where all start together."""
        return self.prefill.seconds + (self.load.output_tokens - 1) * self.decode.seconds

    def sum_text(self) -> str:
        load = self.load
        return (
            f"{load.concurrency} x {load.output_tokens} tokens / ({self.prefill.seconds:.3g} s + "
            f"{load.output_tokens - 1} x {self.decode.seconds * 1e3:.3g} ms) = "
            f"{self.output_tokens_per_s:,.0f} output tokens/s"
        )


# Of a compiled layer of a Llama, between its products and attention: two norms, the split of
# queries, keys and values, the rotary embedding, the activation.
OPERATORS_PER_LAYER = 5


def predict(
    facts: CheckpointFacts,
    config: EngineConfig,
    ceilings: Ceilings,
    load: Load,
    step_tokens: int,
) -> Prediction:
    """Times and throughput under `load`. `step_tokens` is the most tokens of one step."""
    part = _Part(facts, config, ceilings)
    return Prediction(
        load=load,
        prefill=part.prefill("prefill of all", load.concurrency, load.input_tokens, step_tokens),
        alone=part.prefill("prefill of one", 1, load.input_tokens, step_tokens),
        decode=part.decode(load),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One device's part of the model."""

    facts: CheckpointFacts
    config: EngineConfig
    ceilings: Ceilings

    def decode(self, load: Load) -> Phase:
        facts, ceilings = self.facts, self.ceilings
        sequences, context = load.concurrency, self._seen(load.context)
        weights = Roof(
            "weights",
            self.read_bytes,
            ceilings.weights,
            sequences * (self.layer_operations + self.head_operations),
            ceilings.decode.matmul,
        )
        attention = Roof(
            "attention",
            sequences * context * kv_bytes_per_token(facts, self.config),
            ceilings.cache,
            sequences * context * self.context_operations,
            ceilings.decode.attention,
        )
        name = f"decode step of {sequences} at {context:,.0f} tokens of context"
        beside = self._beside(1, sequences, sequences, ceilings.decode)
        return Phase(name, (weights, attention, *beside))

    def prefill(self, name: str, sequences: int, tokens: int, step_tokens: int) -> Phase:
        facts, ceilings = self.facts, self.ceilings
        total = sequences * tokens
        steps = -(-total // step_tokens)
        weights = Roof(
            "weights",
            self.read_bytes,
            ceilings.weights,
            (total * self.layer_operations + sequences * self.head_operations) / steps,
            ceilings.prefill.matmul,
            times=steps,
        )
        attention = Roof(
            "attention",
            total * kv_bytes_per_token(facts, self.config),
            ceilings.cache,
            total * self._seen_on_average(tokens) * self.context_operations,
            ceilings.prefill.attention,
        )
        beside = self._beside(steps, sequences, total, ceilings.prefill)
        return Phase(f"{name}, {total:,} tokens", (weights, attention, *beside))

    def _beside(self, steps: int, sampled: int, tokens: int, rates: Rates) -> tuple[Overhead, ...]:
        """The engine's own time, and that between operators where it counts."""
        found = [
            Overhead("engine", steps, self.ceilings.step_s, "steps"),
            Overhead("tokens", sampled, self.ceilings.token_s, "tokens"),
        ]
        if self.ceilings.layer_s:
            layers = steps * self.facts.layers
            found.append(Overhead("calls", layers, self.ceilings.layer_s, "layers"))
        if rates.operator_s:
            operators = tokens / rates.rows * self.facts.layers * OPERATORS_PER_LAYER
            found.append(Overhead("operators", operators, rates.operator_s, "operators"))
        return tuple(found)

    @property
    def read_bytes(self) -> float:
        """Weights that a step reads: all but a table of embeddings that is only looked up."""
        looked_up = 0 if self.facts.tied_embeddings else self.facts.vocab * self.facts.hidden
        table = looked_up * run_dtype_bytes(self.config) / self.config.parallel.tensor
        return device_weight_bytes(self.facts, self.config) - table

    @property
    def layer_operations(self) -> float:
        """Of the linear layers, for one token."""
        weights = sum(part.inputs * part.outputs for part in self.facts.layer_linears)
        return 2 * self.facts.layers * weights / self.config.parallel.tensor

    @property
    def head_operations(self) -> float:
        """Of the logits, for one token that is sampled."""
        return 2 * self.facts.vocab * self.facts.hidden / self.config.parallel.tensor

    @property
    def context_operations(self) -> float:
        """Of attention, for one token and each token it sees."""
        width = self.facts.heads * self.facts.head_dim * self.facts.layers
        return 4 * width / self.config.parallel.tensor

    def _seen(self, context: float) -> float:
        window = self.facts.sliding_window
        return context if window is None else min(context, window)

    def _seen_on_average(self, tokens: int) -> float:
        """By a token of a prompt, which sees those before it as far as the window goes."""
        window = self._seen(tokens)
        return window - window**2 / (2 * tokens)
