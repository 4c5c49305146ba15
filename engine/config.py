"""Engine settings: what to load, how to run it, how much memory it may take."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

EMBEDDED_MODEL = "smollm2-135m-instruct"
# The largest batch that vLLM captures as a CUDA graph, and its smallest default for the tokens of
# a step.
MOST_GRAPHED = 512
LEAST_BATCHED_TOKENS = 2048
MOST_MEMORY_GIB = 1_000_000


class Frozen(BaseModel):
    """Base of every configuration section: immutable, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """To pydantic `true` is 1."""
        if isinstance(value, bool) and info.field_name is not None:
            wanted = cls.model_fields[info.field_name].annotation
            if {int, float, Decimal} & {wanted, *get_args(wanted)}:
                raise ValueError("expected a number")
        return value


class ParallelConfig(Frozen):
    """vLLM's own parallelism, passed through."""

    tensor: int = Field(1, ge=1, description="GPUs one layer is split over")
    pipeline: int = Field(1, ge=1, description="groups of layers on different GPUs")
    data: int = Field(1, ge=1, description="whole copies of the model behind one engine")


class SimulatedConfig(Frozen):
    """Timing and faults of the simulated engine. Times in milliseconds."""

    prefill_ms_per_token: float = Field(0.05, ge=0)
    step_ms: float = Field(10.0, ge=0, description="one decode step, whatever runs in it")
    text: str = Field(
        "The quick brown fox jumps over the lazy dog.",
        min_length=1,
        description="the answer's text, repeated as long as tokens are asked for",
    )
    die_after_tokens: int | None = Field(
        None, ge=0, description="the engine dies once it has produced this many tokens"
    )
    die_again: bool = Field(
        False, description="so does the one that takes its place, and each after it"
    )
    fail_every: int | None = Field(
        None, ge=1, description="every so many-th request fails half-way through"
    )
    stall_after_tokens: int | None = Field(
        None, ge=0, description="the engine stops stepping, but does not die, after so many tokens"
    )


def _yaml_switch(value: object) -> object:
    """An unquoted `off` is the boolean false in YAML."""
    return {False: "off", True: "auto"}.get(value, value) if isinstance(value, bool) else value


def _yaml_off(value: object) -> object:
    """The same, where there is nothing to switch on."""
    return "off" if value is False else value


# Of vLLM 0.32's methods those that quantize the experts of mixtures and nothing else.
_EXPERTS_ONLY = ("experts_int8", "int8_per_channel_weight_only", "nvfp4_per_token")


def _quantizes_layers(method: str | None) -> str | None:
    if method in _EXPERTS_ONLY:
        raise ValueError(
            f"{method} quantizes the experts of mixtures alone, and would leave all layers of a "
            "dense model as they are without a word; take fp8_per_channel, or a checkpoint that "
            "`gateway quantize --method w8a8` has made"
        )
    return method


class EngineConfig(Frozen):
    """One model and how to run it. Fields left None take vLLM's own default."""

    kind: Literal["vllm", "simulated"] = "vllm"
    runner: Literal["generate", "pooling"] = Field(
        "generate", description="generate: completions; pooling: embeddings and relevance scores"
    )
    model: str = Field(
        EMBEDDED_MODEL,
        min_length=1,
        description="the embedded model's name, a local directory, or a Hugging Face id",
    )
    revision: str | None = Field(None, description="Hugging Face branch, tag or commit")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    quantization: Annotated[str | None, AfterValidator(_quantizes_layers)] = Field(
        None,
        description="None reads it from the checkpoint; else awq, awq_marlin, gptq, gptq_marlin, "
        "compressed-tensors, fp8, fp8_per_channel, …",
    )
    kv_cache_dtype: str = "auto"
    load_format: Literal["auto", "dummy"] = Field(
        "auto", description="dummy: random weights of the checkpoint's shapes, for measuring"
    )
    tokenizer_mode: Literal["auto", "hf", "slow", "mistral"] = "auto"
    chat_template: str | None = Field(
        None, description="a Jinja file in the place of the checkpoint's own template"
    )
    tool_parser: Annotated[str, BeforeValidator(_yaml_off)] = Field(
        "auto",
        description="how the model writes tool calls, by the name of vLLM's parser (hermes, "
        "mistral, llama3_json, pythonic, …); auto: as its chat template teaches; off: not at all",
    )
    reasoning_parser: Annotated[str, BeforeValidator(_yaml_off)] = Field(
        "off",
        description="how the model marks its reasoning, by the name of vLLM's parser (deepseek_r1, "
        "qwen3, mistral, …); off: all it writes is its answer",
    )
    max_model_len: int | None = Field(None, ge=16, description="tokens of prompt + completion")
    max_num_seqs: int = Field(32, ge=1, description="sequences decoded together")
    spare_seqs: int | None = Field(
        None,
        ge=0,
        description="sequences decoded beside them for a moment: those of a tenant that has little "
        "running start at once, though others fill the engine; None: a tenth of max_num_seqs",
    )
    max_num_batched_tokens: int | None = Field(
        None, ge=16, description="tokens of one step, decodes and chunks of prefills together"
    )
    long_prefill_token_threshold: int | None = Field(
        None,
        ge=1,
        description="tokens of a step that one prompt takes at most while there are others: a long "
        "one doesn't keep short ones from being read; None: half of the step",
    )
    block_size: int | None = Field(None, ge=1, description="tokens of one KV block")
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    kv_cache_gib: float | None = Field(
        None,
        gt=0,
        le=MOST_MEMORY_GIB,
        description="size of the KV cache; on the CPU 1 GiB where unset",
    )
    compile: Annotated[Literal["auto", "off"], BeforeValidator(_yaml_switch)] = Field(
        "auto", description="off: eager, no torch.compile and no CUDA graphs; starts fastest"
    )
    cpu_threads: int | None = Field(
        None,
        ge=1,
        description="OpenMP threads of a CPU engine; None: one for each core, and fewer while "
        "other programs use the cores",
    )
    executor: Literal["auto", "uni", "mp", "ray"] = Field(
        "auto", description="auto: in the engine's own process where one device suffices"
    )
    vllm_interface: Literal["auto", "public"] = Field(
        "auto",
        description="auto: tokens come in one pass for each engine step, where the installed vLLM "
        "is one this was written for; public: through its documented interface, which costs more",
    )
    warmup: bool = Field(True, description="run the sizes that will be served before readiness")
    grammar_timeout_s: float = Field(
        10.0, gt=0, le=600, description="CPU time one client's schema may take to become a grammar"
    )
    max_adapters: int = Field(
        0,
        ge=0,
        le=256,
        description="LoRA adapters loaded at once; 0: none but those that are configured",
    )
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        16, description="the largest rank of an adapter; memory is set aside for it"
    )
    adapter_root: str | None = Field(
        None,
        min_length=1,
        description="adapters loaded while it runs lie below this directory; None: no such thing",
    )
    matryoshka: bool | None = Field(
        None,
        description="whether embeddings may be shortened; None: where the checkpoint says so",
    )
    parallel: ParallelConfig = ParallelConfig()
    simulated: SimulatedConfig = SimulatedConfig()

    @property
    def seats(self) -> int:
        """How many sequences the engine can decode together, the spare ones included."""
        return self.max_num_seqs + self.spare

    @property
    def spare(self) -> int:
        """How many sequences beyond `max_num_seqs` the engine can decode."""
        if self.runner != "generate":
            return 0
        wanted = self.spare_seqs
        if wanted is None:  # no more than vLLM has CUDA graphs for
            wanted = min(self.max_num_seqs // 10, max(0, MOST_GRAPHED - self.max_num_seqs))
        # A step has a token of each.
        most = self.max_num_batched_tokens or LEAST_BATCHED_TOKENS
        return max(0, min(wanted, most - self.max_num_seqs))

    @property
    def restarted(self) -> EngineConfig:
        """The settings of an engine that takes the place of one that died: its script's faults are
        played, unless they are told to repeat."""
        script = self.simulated
        if script.die_after_tokens is None or script.die_again:
            return self
        healed = script.model_copy(update={"die_after_tokens": None})
        return self.model_copy(update={"simulated": healed})
