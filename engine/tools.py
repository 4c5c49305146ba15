"""Calls of tools in generated text: found where a model family writes them, or forced by a grammar.

A finder takes a completion's text in pieces and tells what is content and what is a call; the same
finder reads whole answers and streams, so both say the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from engine.base import Structure, Tool

_ANY_OBJECT: Final = {"type": "object"}
_SAYS_TYPE: Final = frozenset(
    ("type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const")
)
_SPACE: Final = " \t\r\n"
# A model that has written so many calls nobody can read is not going to write others.
MAX_BROKEN: Final = 64


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The model asks for the tool `name`; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the arguments of the call that has begun, JSON text."""

    text: str


Piece: TypeAlias = str | CallBegun | CallArguments
"""Content is a plain string."""


class ToolFinder(Protocol):
    """Finds the calls in one completion."""

    def push(self, text: str) -> Sequence[Piece]:
        """What is certain with this piece of text."""
        ...

    def finish(self) -> Sequence[Piece]:
        """The rest, once the completion has ended."""
        ...


class ToolSyntax(Protocol):
    """How a model family writes calls when it is free to make one or not.

    `starts` are the texts a call begins with, anywhere or, where `leads`, only as the first text of
    the answer; `end` is how a single call ends, None where only the end of the answer tells.
    `spoken` is whether control tokens have to be part of the text for that.
    """

    @property
    def name(self) -> str: ...

    @property
    def starts(self) -> tuple[str, ...]: ...

    @property
    def leads(self) -> bool: ...

    @property
    def end(self) -> str | None: ...

    @property
    def spoken(self) -> bool: ...

    def calls(self, text: str) -> Sequence[tuple[str, str]]:
        """Names and arguments (JSON text) of the calls that `text` is; none where it isn't any."""
        ...

    def structure(
        self, tools: Sequence[Tool], *, parallel: bool, otherwise: Structure | None = None
    ) -> Structure | None:
        """What keeps the arguments of strict tools to their schemas, and the answer to `otherwise`
        where there are no calls; None where that is nothing, or the syntax has no such grammar."""
        ...


class FreeCalls:
    """Implements `ToolFinder` for a model that may write calls in its own syntax.

    From a call's start on, text is held until the call is complete. What turns out to be none is
    content after all, and so are calls of anything but `names`, where those are given; after
    `MAX_BROKEN` of them everything is. However long that takes, each piece is looked at once.
    Unless `parallel`, only the first call is told.
    """

    __slots__ = (
        "_at",
        "_broken",
        "_call",
        "_called",
        "_held",
        "_inside",
        "_names",
        "_parallel",
        "_said",
        "_space",
        "_syntax",
    )

    def __init__(
        self,
        syntax: ToolSyntax,
        *,
        names: Collection[str] | None = None,
        parallel: bool = True,
    ) -> None:
        self._syntax = syntax
        self._names = names
        self._parallel = parallel
        self._broken = 0
        # What may be the beginning of a mark, and what came before it of the call that has begun.
        self._held = ""
        # How far a push has come in what is held, which is cut once: a piece may hold many calls.
        self._at = 0
        self._call: list[str] = []
        self._inside = False
        self._said = False
        self._called = False
        # Space before the first words, and after a call: no content unless words follow.
        self._space: list[str] = []

    def push(self, text: str) -> Sequence[Piece]:
        self._held += text
        found: list[Piece] = []
        while self._step(found):
            pass
        self._held, self._at = self._held[self._at :], 0
        return found

    def finish(self) -> Sequence[Piece]:
        held, self._held = self._held, ""
        if self._inside:
            return self._read(held)
        found = self._content(held)
        if self._space and not self._called:
            found.append("".join(self._space))
        return found

    def _step(self, found: list[Piece]) -> bool:
        """Go on to the next start or end of a call; False where there is none yet."""
        if not self._inside:
            begin, sure = self._next_start()
            found += self._content(self._held[self._at : sure])
            self._at = sure
            self._inside = begin is not None
            return self._inside
        held, begin, end = self._held, self._at, self._syntax.end
        at = held.find(end, begin) if end is not None else -1
        if end is None or at < 0:
            self._at = len(held) - (_overlap(held, end, begin) if end is not None else 0)
            self._call.append(held[begin : self._at])
            return False
        self._at = at + len(end)
        found += self._read(held[begin : self._at])
        return True

    def _next_start(self) -> tuple[int | None, int]:
        """Where a call begins, if one does, and up to where the text is certainly none."""
        held, starts = self._held, self._syntax.starts
        if self._broken >= MAX_BROKEN:
            return None, len(held)
        if self._syntax.leads:
            if self._said or self._called:
                return None, len(held)
            rest = held[self._at :].lstrip(_SPACE)
            lead = len(held) - len(rest)
            if any(rest.startswith(start) for start in starts):
                return lead, lead
            maybe = rest and any(start.startswith(rest) for start in starts)
            return None, self._at if maybe else len(held)
        begins = [at for at in (held.find(start, self._at) for start in starts) if at >= 0]
        if begins:
            return min(begins), min(begins)
        return None, len(held) - max(_overlap(held, start, self._at) for start in starts)

    def _content(self, text: str) -> list[Piece]:
        if not text:
            return []
        if self._said:
            return [text]
        words = text.lstrip(_SPACE)
        if not words:
            self._space.append(text)
            return []
        self._said, space, self._space = True, "".join(self._space), []
        return [words if self._called else space + text]

    def _read(self, rest: str) -> list[Piece]:
        """The call that has begun and ends with `rest`, or the content it is instead."""
        text = "".join([*self._call, rest])
        self._call, self._inside = [], False
        calls = self._syntax.calls(text)
        offered = self._names is None or all(name in self._names for name, _ in calls)
        if not calls or not offered:
            self._broken += 1
            return self._content(text)
        if not self._parallel:
            calls = [] if self._called else calls[:1]
        self._called, self._said, self._space = True, False, []
        pairs = [(CallBegun(name), CallArguments(arguments)) for name, arguments in calls]
        return [piece for pair in pairs for piece in pair]


class NamedCall:
    """Implements `ToolFinder` where a grammar makes the whole text one tool's arguments."""

    __slots__ = ("_begun", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def push(self, text: str) -> Sequence[Piece]:
        if not text:
            return []
        begun, self._begun = self._begun, True
        return [CallArguments(text)] if begun else [CallBegun(self._name), CallArguments(text)]

    def finish(self) -> Sequence[Piece]:
        return []


class RequiredCalls:
    """Implements `ToolFinder` where a grammar makes the whole text a list of calls,
    `[{"name": …, "parameters": {…}}, …]`, in this order (see `required_structure`).

    Arguments are told as they come.
    """

    __slots__ = ("_depth", "_escaped", "_key", "_quoted", "_string", "_telling")

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = False
        self._string = ""
        self._key = ""
        self._telling = False

    def push(self, text: str) -> Sequence[Piece]:
        found: list[Piece] = []
        told = 0
        for place, character in enumerate(text):
            was_telling = self._telling
            self._read(character, found)
            if self._telling and not was_telling:
                told = place
            elif was_telling and not self._telling:
                found.append(CallArguments(text[told : place + 1]))
        if self._telling and text:
            found.append(CallArguments(text[told:]))
        return found

    def finish(self) -> Sequence[Piece]:
        return []

    def _read(self, character: str, found: list[Piece]) -> None:
        if self._quoted:
            self._read_quoted(character, found)
        elif character == '"':
            self._quoted, self._string = True, character
        elif character in "{[":
            self._depth += 1
            # The list, the call, and its parameters.
            self._telling = self._telling or (self._depth == 3 and self._key == "parameters")
        elif character in "}]":
            self._depth -= 1
            self._telling = self._telling and self._depth > 2
            if self._depth == 1:
                self._key = ""

    def _read_quoted(self, character: str, found: list[Piece]) -> None:
        if not self._telling:
            self._string += character
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._quoted = False
            if self._depth == 2:
                self._read_string(found)

    def _read_string(self, found: list[Piece]) -> None:
        """A key of a call, or its name."""
        value = json.loads(self._string)
        if self._key == "name":
            found.append(CallBegun(value))
            self._key = "named"
        elif value in ("name", "parameters"):
            self._key = value


def named_structure(tool: Tool, *, loose: bool = False) -> Structure:
    """The grammar of one tool's arguments; `loose`: any object."""
    return Structure("json_schema", _dumped(_arguments(tool, loose)), "tools")


def required_structure(tools: Sequence[Tool], *, parallel: bool, loose: bool = False) -> Structure:
    """The grammar of one call or, where `parallel`, more. `loose`: arguments are any objects.

    Definitions within a tool's schema stay where its references expect them: each tool's schema
    is given an address of its own, and references are moved there.
    """
    definitions: dict[str, Any] = {}
    items = [_call_schema(tool, place, definitions, loose) for place, tool in enumerate(tools)]
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": items[0] if len(items) == 1 else {"anyOf": items},
    }
    if not parallel:
        schema["maxItems"] = 1
    if definitions:
        schema["$defs"] = definitions
    return Structure("json_schema", _dumped(schema), "tools")


def _call_schema(
    tool: Tool, place: int, definitions: dict[str, Any], loose: bool
) -> dict[str, Any]:
    arguments = _arguments(tool, loose)
    if "$ref" in _dumped(arguments):
        home = f"tool{place}"
        definitions[home] = _moved(arguments, f"#/$defs/{home}")
        arguments = {"$ref": f"#/$defs/{home}"}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "parameters": arguments},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _arguments(tool: Tool, loose: bool) -> Mapping[str, Any]:
    if loose or not tool.parameters:
        return _ANY_OBJECT
    # A schema that says nothing of the type would let a number pass for the arguments.
    untyped = _SAYS_TYPE.isdisjoint(tool.parameters)
    return {**tool.parameters, "type": "object"} if untyped else tool.parameters


def _moved(schema: Any, home: str) -> Any:
    if isinstance(schema, list):
        return [_moved(each, home) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: home + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, home)
        for key, value in schema.items()
    }


def _dumped(schema: Any) -> str:
    return json.dumps(schema, ensure_ascii=False)


def _overlap(text: str, marker: str, begin: int) -> int:
    """How many characters at the end of `text`, from `begin`, may be the beginning of `marker`."""
    for length in range(min(len(marker) - 1, len(text) - begin), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
