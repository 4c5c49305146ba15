"""From a model's name to a directory with its quantized checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.models import Progress, resolve
from engine.models.directory import weight_files
from engine.models.hub import wanted_files
from engine.quantize.calibration import Calibration
from engine.quantize.errors import QuantizeError, SettingsError
from engine.quantize.job import Job
from engine.quantize.packages import find_packages
from engine.quantize.process import run
from engine.quantize.settings import GROUPED, Settings
from engine.quantize.shapes import choose_group_size, layer_matrices

REPORT = "quantization-report.json"
_OURS = ("config.json", "gateway-manifest.json", REPORT)


def quantize(
    name: str,
    output: Path,
    settings: Settings,
    calibration: Calibration | None,
    progress: Progress,
    *,
    revision: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Quantize the model `name` into the directory `output`; returns the report that lies there.

    The directory appears when it is complete. Blocks, for minutes to hours. Raises ModelError
    (the model can't be had), SettingsError (nothing was begun) and QuantizeError.
    """
    began = time.monotonic()
    check_output(output, overwrite=overwrite)
    output = output.resolve()
    model = resolve(name, revision, progress).path
    _check_unquantized(model)
    if settings.method in GROUPED:
        size = choose_group_size(layer_matrices(model), settings.group_size)
        progress.say(f"{settings.method}, 4 bits, groups of {size} input features")
        settings = settings.with_group_size(size)
    packages = find_packages(progress)
    with _beside(output) as partial:
        documents = calibration.documents if calibration else ()
        facts = run(Job(model, partial, settings, documents), packages, progress)
        _copy_side_files(model, partial)
        report = {
            "model": name,
            "method": settings.method,
            "format": settings.format,
            "group_size": settings.group_size,
            "smoothquant": settings.smoothquant,
            "calibration": _calibration_record(calibration, settings, facts.pop("samples")),
            "bytes": {"before": _weight_bytes(model), "after": _weight_bytes(partial)},
            **facts,
        }
        report["seconds"]["total"] = round(time.monotonic() - began, 1)
        (partial / REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        _put_in_place(partial, output)
    return report


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raises SettingsError unless `output` is free, or is one of our own that may be replaced."""
    if output.is_symlink() or os.path.ismount(output):
        kind = "a symbolic link" if output.is_symlink() else "a mount point"
        raise SettingsError(f"-o {output} is {kind}, which can't be replaced; name one inside it")
    if Path.cwd().is_relative_to(output.resolve()):
        raise SettingsError(f"-o {output} holds the working directory; name one inside it")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise SettingsError(f"-o {output} exists; choose another, or --overwrite to replace it")
    if not (output / REPORT).is_file():
        raise SettingsError(
            f"-o {output} was not made by this command (it has no {REPORT}), so --overwrite leaves "
            "it alone; move it away yourself"
        )


def _check_unquantized(model: Path) -> None:
    try:
        config = json.loads((model / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise QuantizeError(f"{model / 'config.json'} can't be read: {error}") from None
    made = config.get("quantization_config")
    if made:
        method = made.get("quant_method", "an unknown method")
        raise SettingsError(f"{model} is quantized already ({method}); give the original model")


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A directory on the same disk that is gone at the end unless it was put in place."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise SettingsError(f"-o {output} can't be written: {error.strerror}") from None
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, output: Path) -> None:
    # Temporary directories and safetensors are private; another user may be the one who serves.
    partial.chmod(0o755)
    for file in partial.iterdir():
        file.chmod(0o644)
    if not output.exists():
        partial.rename(output)
        return
    # Moved aside until the new one is there: at no moment are both lost.
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
    old = output.rename(aside / output.name)
    try:
        partial.rename(output)
    except OSError:
        old.rename(output)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _copy_side_files(model: Path, target: Path) -> None:
    """Tokenizer, chat template and generation settings, exactly as the model has them."""
    for name in wanted_files((file.name for file in model.iterdir()), weights=False):
        if name not in _OURS:
            shutil.copyfile(model / name, target / name)


def _weight_bytes(path: Path) -> int:
    names = weight_files(file.name for file in path.iterdir())
    return sum((path / name).stat().st_size for name in names)


def _calibration_record(
    calibration: Calibration | None, settings: Settings, samples: int
) -> dict[str, Any] | None:
    if calibration is None:
        return None
    return {
        "source": calibration.source,
        "sha256": calibration.digest,
        "samples": samples,
        "sequence_length": settings.sequence_length,
    }
