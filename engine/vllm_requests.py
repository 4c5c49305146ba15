"""Requests as vLLM's engine core takes them.

vLLM checks and completes a request's sampling parameters in `InputProcessor.process_inputs`. What
comes out depends on the options alone, of which most requests share a few: so it is done once for
each set of options, and the result copied.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from copy import copy
from functools import lru_cache
from typing import Any, Final

from msgspec import structs

from engine.base import GenerateRequest, SamplingOptions
from engine.vllm_adapters import Adapters
from engine.vllm_sampling import (
    choice_params,
    remaining,
    sampling_params,
    structured_outputs,
)

_SETS_OF_OPTIONS: Final = 256
# Any prompt that is valid, and as many tokens as fit beside it.
_PROMPT: Final = [0]


class CoreRequests:
    """Makes the `EngineCoreRequest`s of one engine. `tasks` are what it supports."""

    def __init__(self, llm: Any, tasks: tuple[str, ...], adapters: Adapters) -> None:
        self._process = llm.input_processor.process_inputs
        self._client_index: int = llm.engine_core.client_index
        self._room: int = llm.model_config.max_model_len - len(_PROMPT)
        self._tasks = tasks
        self._adapters = adapters
        self._arrived = 0.0
        self._known = lru_cache(maxsize=_SETS_OF_OPTIONS)(self._processed)

    def of(self, request: GenerateRequest, room: int) -> Iterator[Any]:
        """One for each choice, of at most `room` tokens. Raises vLLM's exceptions, and
        InvalidPromptError for an adapter that isn't loaded."""
        sampling = remaining(request)
        # The rest of what differs between requests: stop strings are found here, not in the core.
        options = structs.replace(sampling, max_tokens=None, seed=None, stop=(), structure=None)
        template = self._processed(options) if options.logit_bias else self._known(options)
        params = copy(template.sampling_params)
        params.max_tokens = room
        params.seed = None if sampling.seed == -1 else sampling.seed
        # vLLM would make a grammar of it here, on the event loop, to see whether it can; that has
        # been tried elsewhere (`vllm_grammar`).
        params.structured_outputs = structured_outputs(sampling.structure)
        adapter = self._adapters.find(request.adapter)
        # Once: each choice is encoded before the next.
        prompt = [*request.prompt.token_ids, *request.generated]
        for index in range(sampling.n):
            several = sampling.n > 1
            yield structs.replace(
                template,
                request_id=f"{index}_{request.request_id}" if several else request.request_id,
                external_req_id=request.request_id,
                client_index=self._client_index,
                prompt_token_ids=prompt,
                sampling_params=choice_params(params, index) if several else params,
                arrival_time=self._arrival(),
                lora_request=adapter,
                priority=request.priority,
            )

    def _arrival(self) -> float:
        """Later than the one before, whatever the clock does: vLLM sorts by it."""
        self._arrived = max(time.time(), math.nextafter(self._arrived, math.inf))
        return self._arrived

    def _processed(self, options: SamplingOptions) -> Any:
        prompt = {"type": "token", "prompt_token_ids": _PROMPT}
        params = sampling_params(options, self._room)
        return self._process("options", prompt, params, supported_tasks=self._tasks)
