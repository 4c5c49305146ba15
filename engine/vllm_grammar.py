"""Structures are tried out with the grammars vLLM's engine core would make of them.

What is relied on: `XgrammarBackend` describes the tokenizer to xgrammar, and compiles JSON schemas
with `any_whitespace` and `separators` after `disable_any_whitespace`, structural tags as they are
(vllm/v1/structured_output/backend_xgrammar.py; checked with vLLM 0.32). The engine has to be
started with STRUCTURED_OUTPUTS: with vLLM's default, `auto`, the core compiles everything with the
backend that its first request happened to need.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from engine.config import EngineConfig
from engine.grammar import GrammarChecker

# Without whitespace: small models, held to JSON, tend to write blanks without end.
STRUCTURED_OUTPUTS: Final = {"backend": "xgrammar", "disable_any_whitespace": True}


def grammar_checker(config: EngineConfig, llm: Any) -> GrammarChecker:
    """For the engine behind an `AsyncLLM`. Nothing is started before the first structure."""
    settings = llm.vllm_config
    return GrammarChecker(
        partial(_vocabulary, settings, llm.renderer.tokenizer),
        cpu_s=config.grammar_timeout_s,
        compact=settings.structured_outputs_config.disable_any_whitespace,
    )


def _vocabulary(settings: Any, tokenizer: Any) -> str:
    """As the engine core describes it: what compiles here and there is the same."""
    backend = XgrammarBackend(
        settings, tokenizer=tokenizer, vocab_size=settings.model_config.get_vocab_size()
    )
    compiled = backend.compiler.compile_grammar('root ::= "a"')
    return str(compiled.tokenizer_info.serialize_json())
