"""A vLLM that embeds, or scores pairs of texts, through its documented `AsyncLLM.encode`.

Besides what `vllm_model` relies on: `ModelConfig.get_pooling_task` says what a checkpoint does; a
BERT's second segment is told by `extra_kwargs["compressed_token_type_ids"]`, as vLLM's own scoring
does. Checked with vLLM 0.32 and its source.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from engine import vllm_start
from engine.base import EngineStartError, InvalidPromptError, Prompt, StartPhase
from engine.checks import check_input
from engine.config import EngineConfig
from engine.pooling import Counted, PoolingInfo, Read, Scores, Vector
from engine.vllm_model import VLLMModel
from engine.vllm_start import Report

if TYPE_CHECKING:
    from torch import Tensor

_WARM_UP_TEXTS = 4

Found = TypeVar("Found")


async def start(
    config: EngineConfig,
    model_path: str,
    *,
    report: Report | None = None,
    name: str | None = None,
) -> VLLMEmbedder:
    """Load the model in `model_path` and warm it up; see `vllm_start.start`."""
    return await vllm_start.start(VLLMEmbedder, config, model_path, report=report, name=name)


class VLLMEmbedder(VLLMModel):
    """Implements `engine.pooling.Embedder`; made by `start`."""

    pooling: PoolingInfo

    async def open(self) -> None:
        """Find out what the checkpoint does. Raises EngineStartError where it is neither to embed
        nor to score."""
        from vllm.model_executor.model_loader import get_model_cls
        from vllm.model_executor.models.interfaces import supports_score_template

        model = self._llm.model_config
        task = model.get_pooling_task(await self._llm.get_supported_tasks())
        if task == "embed":
            self.pooling = PoolingInfo(model.embedding_size, _shorter(model), "cosine")
        elif (
            task == "classify"
            and model.hf_config.num_labels == 1
            # Written for one model each; without it the scores would be wrong.
            and not supports_score_template(get_model_cls(model))
        ):
            self.pooling = PoolingInfo(None, (), "cross-encoder")
        else:
            raise EngineStartError(
                f"a model whose task is {task!r} is not served; expected one that embeds texts, or "
                "a cross-encoder with one label"
            )
        self._watch()

    async def warm_up(self, report: Report) -> list[StartPhase]:
        """Run a few texts once, then forget it was done."""
        text = "warm up " * max(1, self._info.max_model_len // 16)
        begun = time.perf_counter()
        report(name := f"warm-up {_WARM_UP_TEXTS} texts")
        await self.score(
            "warm-up", [(text, text[: len(text) // n]) for n in range(2, 2 + _WARM_UP_TEXTS)]
        )
        phase = StartPhase(name, time.perf_counter() - begun)
        report(phase)
        self._meter.reset()
        return [phase]

    async def render(self, source: str | Sequence[int]) -> Prompt:
        if isinstance(source, str):
            prompt = Prompt(await self.tokenize(source), source)
        else:
            prompt = Prompt(list(source))
        self._check(prompt.token_ids)
        return prompt

    async def embed(
        self,
        request_id: str,
        prompts: Sequence[Prompt],
        dimensions: int | None = None,
        read: Read | None = None,
    ) -> Sequence[Vector]:
        if self.pooling.dimensions is None:
            raise InvalidPromptError(
                "This model scores pairs of texts; it makes no embeddings.", "model"
            )
        if dimensions is not None and dimensions not in self.pooling.shorter:
            raise InvalidPromptError(self._wrong_dimensions(dimensions), "dimensions")
        tensors = await self._embedded(request_id, prompts, dimensions, read)
        return [tensor.float().numpy().astype("<f4").tobytes() for tensor in tensors]

    async def score(
        self,
        request_id: str,
        pairs: Sequence[tuple[str, str]],
        counted: Counted | None = None,
        read: Read | None = None,
    ) -> Scores:
        if self.pooling.scores == "cosine":
            return await self._cosines(request_id, pairs, counted, read)
        return await self._crossed(request_id, pairs, counted, read)

    async def _cosines(
        self,
        request_id: str,
        pairs: Sequence[tuple[str, str]],
        counted: Counted | None,
        read: Read | None,
    ) -> Scores:
        from torch.nn.functional import cosine_similarity

        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        prompts = [await self.render(text) for text in texts]
        tokens = sum(len(prompt.token_ids) for prompt in prompts)
        if counted is not None:
            await counted(tokens, len(prompts))
        tensors = await self._embedded(request_id, prompts, None, read)
        vectors = {text: tensor.float() for text, tensor in zip(texts, tensors, strict=True)}
        values = [float(cosine_similarity(vectors[a], vectors[b], dim=0)) for a, b in pairs]
        return Scores(values, tokens)

    async def _crossed(
        self,
        request_id: str,
        pairs: Sequence[tuple[str, str]],
        counted: Counted | None,
        read: Read | None,
    ) -> Scores:
        from vllm.pooling_params import PoolingParams

        jobs = []
        tokens = 0
        for pair in pairs:
            token_ids, second = await self._renderer.pair(*pair)
            self._check(token_ids)
            tokens += len(token_ids)
            extra = None if second is None else {"compressed_token_type_ids": second}
            jobs.append((token_ids, PoolingParams(task="classify", extra_kwargs=extra)))
        if counted is not None:
            await counted(tokens, len(jobs))
        results = await self._encode_all(request_id, jobs, read)
        return Scores([float(tensor) for tensor in results], tokens)

    async def _embedded(
        self,
        request_id: str,
        prompts: Sequence[Prompt],
        dimensions: int | None,
        read: Read | None,
    ) -> Sequence[Tensor]:
        from vllm.pooling_params import PoolingParams

        make = partial(PoolingParams, task="embed", dimensions=dimensions)
        jobs = [(list(prompt.token_ids), make()) for prompt in prompts]
        return await self._encode_all(request_id, jobs, read)

    async def _encode_all(
        self, request_id: str, jobs: Sequence[tuple[list[int], Any]], read: Read | None
    ) -> Sequence[Tensor]:
        """All at once: vLLM batches them. The first that fails ends the others."""
        self._raise_if_dead()
        self._meter.enter(len(jobs))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._encode(f"{request_id}-{number}", *job, read))
                    for number, job in enumerate(jobs)
                ]
        except* Exception as errors:
            raise self._known(_first(errors)) from None
        finally:
            self._meter.leave(len(jobs))
        return [task.result() for task in tasks]

    async def _encode(
        self, request_id: str, token_ids: list[int], params: Any, read: Read | None
    ) -> Tensor:
        prompt = {"type": "token", "prompt_token_ids": token_ids}
        outputs = self._llm.encode(prompt, params, request_id)
        finished = False
        try:
            async for output in outputs:
                finished = output.finished
            self._meter.step(len(token_ids), 0)
            if read is not None:
                read(len(token_ids))
            return output.outputs.data
        finally:
            await outputs.aclose()
            if not finished and not self._llm.errored:
                # One that was cancelled on its way to the engine is forgotten by vLLM.
                with suppress(self._dead_error):
                    await self._llm.abort(request_id)

    def _check(self, token_ids: Sequence[int]) -> None:
        check_input(
            token_ids, vocab_size=self._info.vocab_size, max_model_len=self._info.max_model_len
        )

    def _wrong_dimensions(self, dimensions: int) -> str:
        shorter = self.pooling.shorter
        if not shorter:
            return "This model does not support specifying dimensions."
        allowed = (
            f"{shorter[0]} to {shorter[-1]}"
            if isinstance(shorter, range)
            else ", ".join(map(str, shorter))
        )
        return f"Invalid 'dimensions': {dimensions} is not supported; expected one of {allowed}."


def _shorter(model: Any) -> Sequence[int]:
    if not model.is_matryoshka:
        return ()
    return tuple(model.matryoshka_dimensions or ()) or range(1, model.embedding_size + 1)


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
