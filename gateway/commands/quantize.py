"""`gateway quantize`: a model in 4 or 8 bits, ready to serve."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands import Exit, errors_in_json, fail

if TYPE_CHECKING:
    from engine.quantize import Calibration, Settings


class MethodName(StrEnum):
    """How weights are rounded."""

    AWQ = "awq"
    GPTQ = "gptq"
    W8A8 = "w8a8"
    FP8 = "fp8"


class FormatName(StrEnum):
    """How the checkpoint is written."""

    AWQ = "awq"
    GPTQ = "gptq"
    COMPRESSED_TENSORS = "compressed-tensors"


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Hugging Face id, a local directory, or the embedded model's name.",
        ),
    ],
    method: Annotated[
        MethodName,
        typer.Option(
            "--method",
            help="[b]awq[/b] or [b]gptq[/b]: 4-bit weights. [b]w8a8[/b]: int8, "
            "[b]fp8[/b]: float8, weights and activations.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Where the checkpoint goes."),
    ],
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size",
            metavar="N",
            min=1,
            help="Input features that share a scale (awq, gptq): 128, 64 or 32. "
            "Default: the largest that divides the model's layers.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help='Text to calibrate on: .jsonl with a "text" or "messages" a line, or plain text. '
            "Default: documentation inside Python.",
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Put the default text into the model's chat template."),
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option("--samples", metavar="N", min=1, help="Sequences to calibrate on."),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option("--sequence-length", metavar="N", min=1, help="Tokens of each of them."),
    ] = None,
    smoothquant: Annotated[
        bool,
        typer.Option("--smoothquant", help="w8a8: move outliers from activations to weights."),
    ] = False,
    written: Annotated[
        FormatName | None,
        typer.Option(
            "--format",
            help="Default: awq for awq, gptq for gptq, else compressed-tensors.",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REV", help="Branch, tag or commit on the hub."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace DIR where this command made it."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON.", callback=errors_in_json)
    ] = False,
) -> None:
    """Quantize a model, so that it takes less memory and decodes faster.

    Runs llm-compressor, which is installed into a directory of its own at the first use. DIR
    appears when it is complete, with tokenizer, chat template and quantization-report.json.

    [b]Examples[/b]

      gateway quantize smollm2-135m-instruct --method awq -o smollm2-awq
      gateway serve --model ./smollm2-awq
      gateway quantize mistralai/Mistral-7B-Instruct-v0.3 --method fp8 -o mistral-fp8
      gateway quantize ./my-model --method gptq -o my-gptq --calibration chats.jsonl --samples 256

    [b]Exit codes[/b]  0 done · 1 it failed · 2 wrong usage, or the model can't be had ·
    130 interrupted
    """
    from engine.models import ConsoleProgress, ModelError
    from engine.quantize import QuantizeError, SettingsError, check_output, choose_settings
    from engine.quantize import quantize as run

    try:
        settings = choose_settings(
            method.value,
            format=written.value if written else None,
            group_size=group_size,
            samples=samples,
            sequence_length=sequence_length,
            smoothquant=smoothquant,
            calibration=calibration is not None or chat,
        )
        check_output(output, overwrite=overwrite)
        text = _calibration(settings, calibration, chat=chat)
        with _ended_by_sigterm():
            report = run(
                model,
                output,
                settings,
                text,
                ConsoleProgress(),
                revision=revision,
                overwrite=overwrite,
            )
    except (SettingsError, ModelError) as error:
        fail(str(error), Exit.INVALID)
    except QuantizeError as error:
        fail(str(error))
    except OSError as error:  # the disk is full, say
        fail(f"-o {output}: {error}")
    except KeyboardInterrupt:
        fail("interrupted; nothing was written", Exit.INTERRUPTED)
    typer.echo(json.dumps(report, indent=2) if as_json else summary(report, output))


def _calibration(settings: Settings, file: Path | None, *, chat: bool) -> Calibration | None:
    """The text to calibrate on, None where none is read. Raises SettingsError."""
    from engine.quantize import SettingsError, default_calibration, read_calibration

    if not settings.calibrated:
        return None
    if file is None:
        return default_calibration(chat=chat)
    if chat:
        raise SettingsError(
            '--chat is for the default text; in a file, write conversations as {"messages": […]}'
        )
    return read_calibration(file)


def summary(report: dict[str, Any], output: Path) -> str:
    """Sizes, time, and how to serve it."""
    before, after = report["bytes"]["before"], report["bytes"]["after"]
    group = f", groups of {report['group_size']}" if report["group_size"] else ""
    return (
        f"{report['method']}{group}: {after / 1e6:,.0f} MB of weights instead of "
        f"{before / 1e6:,.0f} MB, {report['seconds']['total']:.0f} s\n"
        f"Serve it: gateway serve --model {output}"
    )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that the quantizing process ends with this one."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
