"""vLLM in its own processes, driven from this one's event loop.

Tokens come by one of two paths: `vllm_direct`, one pass for each engine step, where the installed
vLLM has the internals that takes (`vllm_shape`); else `vllm_public`, vLLM's documented interface.

What is relied on besides: a stat logger is called after each step of the public path. Checked with
vLLM 0.32 and its source.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from engine import vllm_start
from engine.base import (
    EngineDeadError,
    GenerateRequest,
    Prompt,
    Sink,
    Source,
    StartPhase,
    Structure,
    Submission,
)
from engine.checks import check_request
from engine.config import EngineConfig
from engine.meter import Meter
from engine.vllm_model import VLLMModel
from engine.vllm_start import Report

if TYPE_CHECKING:
    from engine.reasoning import ReasoningTags
    from engine.tools import ToolSyntax
    from engine.vllm_render import PromptRenderer
    from engine.vllm_stats import StepStats

logger = logging.getLogger(__name__)


async def start(
    config: EngineConfig,
    model_path: str,
    *,
    report: Report | None = None,
    name: str | None = None,
) -> VLLMEngine:
    """Load the model in `model_path` and warm it up; see `vllm_start.start`."""
    return await vllm_start.start(VLLMEngine, config, model_path, report=report, name=name)


class TokenPath(Protocol):
    """How requests get into vLLM and their tokens out."""

    def submit(self, request: GenerateRequest, room: int, sink: Sink) -> Submission:
        """As `Engine.submit`; at most `room` tokens. Raises vLLM's exceptions."""
        ...

    def died(self) -> None:
        """The engine core is gone: fail what is unfinished, at once."""
        ...

    async def close(self) -> None:
        """Fail what is unfinished and take nothing from vLLM any more."""
        ...


class VLLMEngine(VLLMModel):
    """Implements `engine.base.Engine`; made by `start`."""

    def __init__(
        self,
        config: EngineConfig,
        llm: Any,
        renderer: PromptRenderer,
        meter: Meter,
        steps: StepStats,
    ) -> None:
        from engine.vllm_adapters import Adapters
        from engine.vllm_grammar import grammar_checker

        super().__init__(config, llm, renderer, meter, steps)
        self._path: TokenPath | None = None
        self._adapters = Adapters(llm, config.max_adapters)
        self._grammars = grammar_checker(config, llm)
        self._wants_direct = config.vllm_interface == "auto"
        self._parsers = config.tool_parser, config.reasoning_parser
        self.tool_syntax: ToolSyntax | None = None
        self.reasoning_tags: ReasoningTags | None = None

    @property
    def adapters(self) -> Sequence[str]:
        return self._adapters.names

    async def add_adapter(self, name: str, path: str) -> None:
        self._raise_if_dead()
        await self._adapters.add(name, path)

    async def remove_adapter(self, name: str) -> None:
        if self.alive:
            with suppress(self._dead_error):  # and it is gone with the engine
                await self._adapters.remove(name)

    async def check_structure(self, structure: Structure) -> None:
        self._raise_if_dead()
        await self._grammars.check(structure)

    async def render(self, source: Source, on_text: Callable[[], object] | None = None) -> Prompt:
        return await self._renderer.render(source, on_text)

    async def open(self) -> None:
        """Choose the token path and the parsers. Once, before any request.

        Raises EngineStartError where a configured parser can't be used.
        """
        from engine.vllm_public import PublicPath
        from engine.vllm_tools import reasoning_of, syntax_of

        tools, reasoning = self._parsers
        tokenizer = self._llm.get_tokenizer()
        self.tool_syntax = syntax_of(tools, self._renderer.template_source, tokenizer)
        self.reasoning_tags = reasoning_of(reasoning, tokenizer)

        self._path = await self._direct_path()
        if self._path is None:
            self._path = PublicPath(self._llm, self._meter, self._known, self._adapters)
        self._watch()

    def submit(self, request: GenerateRequest, sink: Sink) -> Submission:
        self._raise_if_dead()
        if self._path is None:
            raise EngineDeadError("The engine has not been opened.")
        room = check_request(
            request, vocab_size=self._info.vocab_size, max_model_len=self._info.max_model_len
        )
        try:
            return self._path.submit(request, room, sink)
        except Exception as error:
            raise self._known(error) from error

    async def warm_up(self, report: Report) -> list[StartPhase]:
        """Run every size once, then forget it was done."""
        from engine.vllm_warmup import warm_up

        step_tokens = self._llm.vllm_config.scheduler_config.max_num_batched_tokens
        phases = await warm_up(self, step_tokens=step_tokens, report=report)
        await self._llm.reset_prefix_cache()
        self._meter.reset()
        return phases

    async def _direct_path(self) -> TokenPath | None:
        if not self._wants_direct:
            return None
        from engine.vllm_shape import mismatch

        reason = mismatch(self._llm)
        if reason is None:
            from engine.vllm_direct import open_path

            return await open_path(self._llm, self._meter, self._steps, self._adapters)
        logger.warning("tokens take vLLM's public path, which costs more: %s", reason)
        return None

    def _fail_all(self) -> None:
        if self._path is not None:
            self._path.died()

    async def _stop(self) -> None:
        if self._path is not None:
            await self._path.close()
        await self._grammars.close()
