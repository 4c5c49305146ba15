"""What the commands share: where configuration comes from, and how they end.

Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration, 3 (`check`, `plan`) does not fit,
130 interrupted.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from enum import IntEnum
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from gateway.config import ConfigError, GatewayConfig


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    INVALID = 2
    DOES_NOT_FIT = 3
    INTERRUPTED = 130


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file, or the name of a shipped one such as [b]mistral-7b-awq[/b]. "
        "Default: the embedded model on the CPU.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any key of the configuration, e.g. [b]engine.max_num_seqs=64[/b]. Repeatable.",
    ),
]
EagerOption = Annotated[
    bool,
    typer.Option("--eager", help="Don't compile the model: starts faster, answers slower."),
]


_OPTIONS = {
    "engine.model": "MODEL",
    "engine.compile": "--eager",
    "model_name": "--name",
    "server.host": "--host",
    "server.port": "--port",
    "log_level": "--log-level",
}
"""How a key of the configuration is said on the command line."""

_in_json: ContextVar[bool] = ContextVar("_in_json", default=False)


def errors_in_json(context: typer.Context, as_json: bool) -> bool:
    """The callback of a `--json` that is for errors too."""
    context.call_on_close(partial(_in_json.reset, _in_json.set(as_json)))
    return as_json


def finite(number: float | None) -> float | None:
    """The callback of an option that infinity is no value of."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"expected a number such as 2 or 0.5, not {number}")
    return number


def fail(message: str, code: Exit = Exit.FAILED, **more: Any) -> NoReturn:
    """Print `message` to stderr and end with `code`; with `--json` an object on stdout has it too,
    beside what `more` there is."""
    typer.echo(f"error: {message}", err=True)
    if _in_json.get():
        typer.echo(json.dumps({**more, "error": message}))
    raise typer.Exit(code)


def fail_of(error: ConfigError) -> NoReturn:
    """End with what is wrong with the configuration, or only can't be reached now."""
    from gateway.config import UnreachableError

    fail(str(error), Exit.FAILED if isinstance(error, UnreachableError) else Exit.INVALID)


def shipped_configs() -> Path | None:
    """The directory of the example configurations: in a clone, else inside the package."""
    in_clone = Path(__file__).resolve().parents[2] / "configs"
    packaged = Path(str(files("gateway"))) / "configs"
    return next((path for path in (in_clone, packaged) if path.is_dir()), None)


def locate_config(given: str | None) -> Path | None:
    """The file meant by `given`, or the default one; None where nothing is shipped.

    A name without a suffix that is no file here means a shipped configuration.
    """
    shipped = shipped_configs()
    if given is None:
        default = shipped / "default.yaml" if shipped else None
        return default if default and default.is_file() else None
    path = Path(given).expanduser()
    if path.exists() or path.suffix or len(path.parts) != 1 or shipped is None:
        return path
    named = shipped / f"{given}.yaml"
    return named if named.is_file() else path


def read_config(
    given: str | None,
    assignments: Sequence[str] | None,
    overrides: Mapping[str, Any],
    *,
    model: str | None = None,
    eager: bool = False,
) -> GatewayConfig:
    """Load the configuration a command was asked for.

    A `model` given on the command line also gives the public name: the file's name is another
    model's. Raises ConfigError.
    """
    from gateway.config import load_config

    asked = {"engine.model": model, **overrides, "engine.compile": "off" if eager else None}
    tree = {key: value for key, value in asked.items() if value is not None}
    assigned = parse_assignments(assignments)
    options = _OPTIONS | {key: f"--set {key}" for key in assigned}
    if model is not None:
        called = Path(model).resolve().name if Path(model).is_dir() else model
        tree.setdefault("model_name", called)
    return load_config(locate_config(given), tree | assigned, options=options)


def config_or_exit(
    given: str | None,
    assignments: Sequence[str] | None,
    overrides: Mapping[str, Any],
    *,
    model: str | None = None,
    eager: bool = False,
) -> GatewayConfig:
    """`read_config`, ending the program with 2 and the reason on stderr where it can't be."""
    from gateway.config import ConfigError

    try:
        return read_config(given, assignments, overrides, model=model, eager=eager)
    except ConfigError as error:
        fail(str(error), Exit.INVALID)


def parse_assignments(assignments: Sequence[str] | None) -> dict[str, Any]:
    """`["server.port=8100"]` as `{"server.port": 8100}`; values are YAML. Raises ConfigError."""
    from gateway.config import ConfigError
    from gateway.config.yaml_text import parse_yaml

    found: dict[str, Any] = {}
    for assignment in assignments or ():
        key, separator, raw = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError("--set: expected KEY=VALUE, e.g. server.port=8100")
        try:
            found[key.strip()] = parse_yaml(raw)
        except ValueError as error:
            raise ConfigError(f"--set {key.strip()}: not a valid YAML value: {error}") from None
    return found


def on_terminal() -> bool:
    """Whether a person is typing: stdin is a terminal."""
    return sys.stdin.isatty()
