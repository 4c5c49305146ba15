"""The contract between the gateway and whatever generates tokens.

An `Engine` renders prompts to exact token ids and generates token deltas. `vllm_engine.VLLMEngine`
and `simulated.SimulatedEngine` implement it; one contract test suite runs against each.

Exceptions (all below `EngineError`)::

    EngineError
    ├── EngineStartError        could not be loaded or warmed up
    ├── EngineDeadError         the engine stopped and will not answer again
    ├── EngineGenerateError     one request failed inside a living engine
    ├── EngineBusyError         not now, but the same request can be served later
    └── InvalidPromptError      the prompt or an option can't be served; the caller's fault
        └── ContextLengthError  prompt + requested completion exceed the model's context
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from engine.reasoning import ReasoningTags
    from engine.tools import ToolSyntax

FinishReason = Literal["stop", "length"]
Role = Literal["system", "developer", "user", "assistant", "tool"]


class EngineError(Exception):
    """Anything an engine raises on purpose."""


class EngineStartError(EngineError):
    """The engine could not be loaded or warmed up; the message says what to change."""


class EngineDeadError(EngineError):
    """The engine stopped and will not answer again in this process."""


class EngineGenerateError(EngineError):
    """One request failed inside an engine that is still alive."""


class EngineBusyError(EngineError):
    """What this request needs is taken by others; it may be sent again after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InvalidPromptError(EngineError):
    """The prompt or a sampling option can't be served; the caller can correct it.

    `param` names the offending request field in OpenAI terms, where it is known.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(InvalidPromptError):
    """The prompt, or the prompt plus the requested completion, exceeds the context length."""

    def __init__(
        self,
        *,
        max_model_len: int,
        prompt_tokens: int,
        requested_tokens: int = 0,
        param: str | None = None,
    ) -> None:
        asked = f"{prompt_tokens} prompt tokens"
        if requested_tokens:
            asked += f" and {requested_tokens} completion tokens"
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens, but {asked} were "
            "requested. Shorten the prompt or ask for a shorter completion.",
            param,
        )
        self.max_model_len = max_model_len
        self.prompt_tokens = prompt_tokens
        self.requested_tokens = requested_tokens


class ToolCall(msgspec.Struct, frozen=True):
    """A function the assistant asked for; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Tool(msgspec.Struct, frozen=True):
    """A function the model may ask for; `parameters` is a JSON Schema. `strict` promises arguments
    that follow it."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a conversation, already flattened to text.

    `tool_calls` and `reasoning` are an assistant's; `tool_call_id` says what a tool answers.
    """

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None


class Conversation(msgspec.Struct, frozen=True):
    """What a chat template renders: the messages, the tools on offer, and how long to think, where
    the template knows of that."""

    messages: Sequence[ChatMessage]
    tools: tuple[Tool, ...] = ()
    reasoning_effort: str | None = None


Source = Conversation | str | Sequence[int]
"""What a prompt is rendered from: a conversation, a text, or token ids."""


class Prompt(msgspec.Struct, frozen=True):
    """A rendered prompt. `len(token_ids)` is the exact `prompt_tokens` of the request."""

    token_ids: Sequence[int]
    text: str | None = None


StructureKind = Literal["json_object", "json_schema", "structural_tag"]


class Structure(msgspec.Struct, frozen=True):
    """A form the whole completion has to have: any JSON object, JSON after a schema, or text with
    tagged parts after schemas (xgrammar's structural tag). `text` is the schema or the tag as JSON.

    `param` names the request field it came from, for errors.
    """

    kind: StructureKind
    text: str = ""
    param: str = "response_format"


class SamplingOptions(msgspec.Struct, frozen=True):
    """How to sample one completion; ranges are checked by whoever builds it.

    `max_tokens` None means "as many as the context holds". `seed` None means unseeded.
    `stop` strings are excluded from the text. `temperature` 0 is greedy. `logprobs` asks for each
    token's log-probability and those of so many likeliest ones, `prompt_logprobs` for the prompt's.
    `skip_special_tokens` False makes control tokens part of the text.
    """

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structure: Structure | None = None
    skip_special_tokens: bool = True


class GenerateRequest(msgspec.Struct, frozen=True):
    """One prompt to complete `sampling.n` times. `request_id` is unique among live requests.

    `adapter` names a LoRA adapter that was added to the engine; None is the model itself.
    `generated` are tokens this completion has already, from an engine that died: it goes on after
    them, and what they say counts as told; `sampling` is the whole completion's, and has to be
    `checks.resumable`. Of the requests that wait, those of a lower `priority` go first, and among
    equals those that came first.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingOptions = msgspec.field(default_factory=SamplingOptions)
    adapter: str | None = None
    generated: Sequence[int] = ()
    priority: int = 0


class TokenLogprob(msgspec.Struct, frozen=True):
    """One token and its natural log-probability, None where it follows nothing; `top` are the
    likeliest in its place, best first.

    `text` is what the token says on its own, `bytes` its UTF-8, which may be part of a character.
    """

    token_id: int
    text: str
    bytes: bytes
    logprob: float | None
    top: Sequence[TokenLogprob] = ()


class TokenDelta(msgspec.Struct, frozen=True, gc=False):
    """What one choice gained since it was last asked.

    `token_ids` counts towards `completion_tokens` even where `text` is empty (a token that ends
    a stop string, or half of a character). `finish_reason` is set on a choice's last delta only,
    and with it `stop_string`, where one of `SamplingOptions.stop` ended the text.
    `cached_tokens` is how many prompt tokens this choice found in the prefix cache, the same in
    all its deltas. `logprobs`, where asked for, tells of the tokens whose text begins in `text`.
    `prompt_logprobs` comes once, with the first delta: one for each prompt token.
    """

    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob] = ()
    stop_string: str | None = None


class Sink(Protocol):
    """Is told how one request gets on, on the event loop and within an engine step: it must
    return at once."""

    def ready(self) -> None:
        """There is something to `take`. Called for the first token since the last `take` only, so
        a reader that doesn't take costs nothing and holds no more than its tokens."""
        ...

    def finished(self) -> None:
        """Every choice has finished; what is left can be taken."""
        ...

    def failed(self, error: EngineError) -> None:
        """The request is over without having finished; what came before can be taken."""
        ...


class Submission(Protocol):
    """A request inside the engine."""

    @property
    def produced(self) -> int:
        """Completion tokens so far, taken or not, of all choices; without
        `GenerateRequest.generated`. Stays once the request is over."""
        ...

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens the first choice found in the prefix cache, once its first token came."""
        ...

    def take(self) -> Sequence[TokenDelta]:
        """What has come since it was last asked: at most one delta for each choice."""
        ...

    def abort(self) -> None:
        """Forget the request and free its KV blocks; its sink hears nothing more. Idempotent, and
        harmless once the request is over."""
        ...


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. Counts of sequences; `kv_cache_usage` in 0..1; times in seconds.

    `seconds_since_step` counts from the last step, or from when the engine last got work after
    being idle; None before any work. Together with `running` it is the forward-progress signal:
    running > 0 with a growing `seconds_since_step` is a stuck engine, or one in a long step:
    `Activity` tells them apart.

    `prompt_tokens_total` counts a prompt once, whatever its choices, with the first token that
    comes of it, and not again where a completion is continued.
    """

    running: int
    waiting: int
    kv_cache_usage: float
    prompt_tokens_total: int
    generation_tokens_total: int
    tokens_per_second: float
    seconds_since_step: float | None


@dataclass(frozen=True, slots=True)
class Activity:
    """What the processes of an engine do: CPU time they have used so far, in seconds, and whether
    one of them is held by a signal (SIGSTOP). `pids` has none where it is in this process."""

    cpu_s: float
    stopped: bool = False
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is being served, fixed after start. Sizes in bytes, lengths in tokens.

    `max_num_seqs` is each copy's, and `spare_seqs` can be decoded beside those; `copies` of the
    model stand behind one engine (data parallel).
    """

    model: str
    engine: str
    version: str
    architecture: str
    dtype: str
    quantization: str | None
    device: str
    max_model_len: int
    vocab_size: int
    max_num_seqs: int
    kv_cache_tokens: int | None
    copies: int = 1
    spare_seqs: int = 0


@dataclass(frozen=True, slots=True)
class StartPhase:
    """One timed part of a start (`load`, `warm-up 32x128`, …), in seconds."""

    name: str
    seconds: float


class LoadedModel(Protocol):
    """A model in memory, whatever it does. Every method may be called concurrently from one event
    loop."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def start_phases(self) -> Sequence[StartPhase]:
        """How long each part of the start took, in order."""
        ...

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    async def detokenize(self, token_ids: Sequence[int]) -> str: ...

    def stats(self) -> EngineStats: ...

    def activity(self) -> Activity | None:
        """None where its processes can't be seen. Reads a file for each of them: for every probe,
        not for every token."""
        ...

    @property
    def alive(self) -> bool:
        """False once the engine has died or was closed: it will not serve again."""
        ...

    async def died(self) -> None:
        """Return once the engine isn't alive any more."""
        ...

    async def check_health(self) -> None:
        """Raises EngineDeadError where the engine isn't alive any more."""
        ...

    async def drain(self) -> None:
        """Return once no request is running or waiting. New requests are the caller's to stop."""
        ...

    async def close(self) -> None:
        """Stop the engine and its processes; what is unfinished fails. Idempotent, and ends within
        seconds whatever state they are in."""
        ...


class Engine(LoadedModel, Protocol):
    """A loaded model that generates."""

    @property
    def adapters(self) -> Sequence[str]:
        """The LoRA adapters that were added, by name."""
        ...

    @property
    def tool_syntax(self) -> ToolSyntax | None:
        """How the model writes tool calls of its own accord; None where it doesn't."""
        ...

    @property
    def reasoning_tags(self) -> ReasoningTags | None:
        """What the model's reasoning stands between; None where it has none."""
        ...

    async def check_structure(self, structure: Structure) -> None:
        """Raises InvalidPromptError where no grammar can be made of it, or only at a cost that
        would hurt others; EngineBusyError where too many are being made."""
        ...

    async def render(self, source: Source, on_text: Callable[[], object] | None = None) -> Prompt:
        """Turn a conversation (chat template applied, generation prompt added), text, or token ids
        into a prompt with exact token ids. `on_text` is called once a conversation is a text that
        is still to be tokenized; not where it becomes tokens in one step.

        Raises InvalidPromptError: the template refuses the messages, there is no template, the
        prompt is empty, or a token id is out of the vocabulary; ContextLengthError: no room for
        one completion token.
        """
        ...

    def submit(self, request: GenerateRequest, sink: Sink) -> Submission:
        """Begin to generate; `sink` is told what comes, and why it ended.

        Raises InvalidPromptError, EngineDeadError; then `sink` is told nothing. See
        `engine.streaming.generate` for an asynchronous iterator instead.
        """
        ...

    async def add_adapter(self, name: str, path: str) -> None:
        """Load the LoRA adapter in the directory `path`; from then on requests may name it.

        Raises InvalidPromptError: there is no room for one more, LoRA is off, the name is taken, or
        the directory holds no adapter of this model; EngineDeadError.
        """
        ...

    async def remove_adapter(self, name: str) -> None:
        """Forget an adapter that no request uses any more; one that isn't there is fine."""
        ...
