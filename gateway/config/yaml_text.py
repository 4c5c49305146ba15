"""YAML, stricter than it is elsewhere: a key that is there twice is refused, where YAML would take
the later one and forget the other without a word. Errors say where, and nothing of what was
written, which may be a password."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

# What an error quotes, unless it is a single character.
_WRITTEN: Final = re.compile(r"""(['"])(?!\\.\1).{2,}\1""", re.DOTALL)


def parse_yaml(text: str) -> Any:
    """Raises ValueError, which says why the text is not taken."""
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark, began = error.problem_mark, error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        inside = f", in what begins in line {began.line + 1}" if began is not None else ""
        problem = error.problem or ""
        if not isinstance(error, _TwiceError):
            problem = _WRITTEN.sub("…", problem)
        raise ValueError(f"{where}{problem}{inside}") from None
    except yaml.YAMLError:
        raise ValueError("it has a character that YAML doesn't allow") from None
    except ValueError:  # of Python's, from what looks like one
        raise ValueError("it has a date or a number that is none") from None


class _TwiceError(yaml.MarkedYAMLError):
    """Names a key."""


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before merge keys (`<<`) are resolved: what they bring may be there a second time.
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (before := first.setdefault((key.tag, key.value), key)) is not key:
                line = before.start_mark.line + 1
                again = f"'{key.value}' is here a second time, after line {line}"
                raise _TwiceError(problem=again, problem_mark=key.start_mark)
        return node
