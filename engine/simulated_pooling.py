"""An embedder without a model: a text's vector counts its bytes, so that texts alike are near.

Each text costs the time of its prefill; a call is one step of all its texts together.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence

from engine.base import (
    Activity,
    EngineDeadError,
    EngineInfo,
    EngineStats,
    InvalidPromptError,
    Prompt,
    StartPhase,
)
from engine.checks import check_input, check_token_ids
from engine.config import EngineConfig
from engine.meter import Meter
from engine.pooling import Counted, PoolingInfo, Read, Scores, Vector
from engine.scripted import BOS, VOCAB_SIZE, encode

DIMENSIONS = 64
DEFAULT_MAX_MODEL_LEN = 512


class SimulatedEmbedder:
    """Implements `engine.pooling.Embedder`."""

    def __init__(self, config: EngineConfig) -> None:
        self._script = config.simulated
        self._meter = Meter()
        self._dead: str | None = None
        self._ended = asyncio.Event()
        self.start_phases: Sequence[StartPhase] = ()
        self.pooling = PoolingInfo(
            DIMENSIONS, range(1, DIMENSIONS + 1) if config.matryoshka else (), "cosine"
        )
        self.info = EngineInfo(
            model=config.model,
            engine="simulated",
            version="1",
            architecture="Simulated",
            dtype="none",
            quantization=None,
            device="none",
            max_model_len=config.max_model_len or DEFAULT_MAX_MODEL_LEN,
            vocab_size=VOCAB_SIZE,
            max_num_seqs=config.max_num_seqs,
            kv_cache_tokens=None,
        )

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        tokens = encode(text)
        return [BOS, *tokens] if add_special_tokens else tokens

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        check_token_ids(token_ids, vocab_size=VOCAB_SIZE, param="tokens")
        return bytes(token for token in token_ids if token < BOS).decode(errors="replace")

    async def render(self, source: str | Sequence[int]) -> Prompt:
        tokens = await self.tokenize(source) if isinstance(source, str) else list(source)
        check_input(tokens, vocab_size=VOCAB_SIZE, max_model_len=self.info.max_model_len)
        return Prompt(tokens)

    async def embed(
        self,
        request_id: str,
        prompts: Sequence[Prompt],
        dimensions: int | None = None,
        read: Read | None = None,
    ) -> Sequence[Vector]:
        if dimensions is not None and dimensions not in self.pooling.shorter:
            raise InvalidPromptError(
                "This model does not support specifying dimensions."
                if not self.pooling.shorter
                else f"Invalid 'dimensions': expected 1 to {DIMENSIONS}.",
                "dimensions",
            )
        await self._step(prompts, read)
        return [_packed(_vector(prompt.token_ids)[:dimensions]) for prompt in prompts]

    async def score(
        self,
        request_id: str,
        pairs: Sequence[tuple[str, str]],
        counted: Counted | None = None,
        read: Read | None = None,
    ) -> Scores:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        prompts = {text: await self.render(text) for text in texts}
        tokens = sum(len(prompt.token_ids) for prompt in prompts.values())
        if counted is not None:
            await counted(tokens, len(prompts))
        await self._step(list(prompts.values()), read)
        found = {text: _unit(_vector(prompt.token_ids)) for text, prompt in prompts.items()}
        values = [sum(a * b for a, b in zip(found[x], found[y], strict=True)) for x, y in pairs]
        return Scores(values, tokens)

    def stats(self) -> EngineStats:
        live, most = self._meter.live, self.info.max_num_seqs
        return EngineStats(
            running=min(live, most),
            waiting=max(0, live - most),
            kv_cache_usage=0.0,
            prompt_tokens_total=self._meter.prompt_tokens,
            generation_tokens_total=0,
            tokens_per_second=0.0,
            seconds_since_step=self._meter.seconds_since_step,
        )

    def activity(self) -> Activity:
        return Activity(time.monotonic())

    @property
    def alive(self) -> bool:
        return self._dead is None

    async def died(self) -> None:
        await self._ended.wait()

    async def check_health(self) -> None:
        if self._dead is not None:
            raise EngineDeadError(f"The simulated engine is dead: {self._dead}.")

    async def drain(self) -> None:
        await self._meter.idle()

    async def close(self) -> None:
        self._die("the engine was closed")

    def _die(self, cause: str) -> None:
        self._dead = self._dead or cause
        self._ended.set()

    async def _step(self, prompts: Sequence[Prompt], read: Read | None) -> None:
        await self.check_health()
        tokens = sum(len(prompt.token_ids) for prompt in prompts)
        cost_ms = self._script.step_ms + tokens * self._script.prefill_ms_per_token
        self._meter.enter(len(prompts))
        try:
            await asyncio.sleep(cost_ms / 1000)
            await self.check_health()
            limit = self._script.die_after_tokens
            if limit is not None and self._meter.prompt_tokens + tokens > limit:
                self._die(f"it would have read more than {limit} tokens, as told")
            await self.check_health()
            self._meter.step(tokens, 0)
            if read is not None:
                read(tokens)
        finally:
            self._meter.leave(len(prompts))


def _vector(token_ids: Sequence[int]) -> list[float]:
    counted = Counter(token % DIMENSIONS for token in token_ids)
    return [float(counted[place]) for place in range(DIMENSIONS)]


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]


def _packed(vector: Sequence[float]) -> Vector:
    packed = array("f", _unit(vector))
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
