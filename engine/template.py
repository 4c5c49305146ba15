"""A checkpoint's chat template, compiled once.

The environment is the one templates are written for: a sandbox with the settings, the functions
and the tags documented in transformers' "Writing a chat template".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class ChatTemplate:
    """Renders conversations. `constants` are what the template may use besides the messages, such
    as `bos_token`."""

    def __init__(self, source: str, constants: Mapping[str, str]) -> None:
        self._constants = dict(constants)
        # Whether it has a place for messages of the role `developer`.
        self.knows_developers = "'developer'" in source or '"developer"' in source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        self._template = environment.from_string(source)
        # Jinja copies these for every rendering, from a chain of mappings ten times slower.
        self._template.globals = dict(self._template.globals)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, which the answer continues. `options` are further variables.

        Raises jinja2.TemplateError, TypeError, ValueError, LookupError for messages it refuses.
        """
        return self._template.render(
            {**self._constants, **options} if options else self._constants,
            messages=messages, tools=tools, documents=None, add_generation_prompt=True,
        )  # fmt: skip


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here its content is all."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Any) -> Any:
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Not Jinja's own, which escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # the user's own day is meant
