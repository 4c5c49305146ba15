"""What the suite consists of: a command for each part, and the files it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Part:
    """`python -m bench.NAME` with these arguments; `outputs` are options that take a file.

    Every part writes `json`. Where it knows `--previous`, it gets the JSON of the run before.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    knows_previous: bool = True

    def file(self, directory: Path, output: str) -> Path:
        suffix = {"markdown": "md"}.get(output, output)
        return directory / f"{self.name}.{suffix}"

    def previous(self, directory: Path) -> Path:
        return directory / "previous" / f"{self.name}.json"

    def words(self, directory: Path) -> list[str]:
        """The command after the name of the Python program."""
        words = ["-m", f"bench.{self.name}", *self.arguments]
        for output in self.outputs:
            words += [f"--{output}", str(self.file(directory, output))]
        before = self.previous(directory)
        if self.knows_previous and before.exists():
            words += ["--previous", str(before)]
        return words

    def clear(self, directory: Path, *, whole: bool) -> None:
        """Make room: the last JSON becomes the previous one if it was `whole`; the rest goes."""
        made, before = self.file(directory, "json"), self.previous(directory)
        if whole and made.exists():
            before.parent.mkdir(exist_ok=True)
            made.replace(before)
        for output in (*self.outputs, "log"):
            self.file(directory, output).unlink(missing_ok=True)


def all_parts(config: Path, variants: Path, *, quick: bool) -> tuple[Part, ...]:
    """The whole suite on one configuration, varied as a list of variants says.

    `quick` shows that all works; its figures are rough.
    """
    served = ("--serve", str(config))
    varied: tuple[str, ...] = ("--config", str(config), "--variants", str(variants), "--quality")
    sweep: tuple[str, ...] = ("--concurrency", "1:64:x2", "--rounds", "3")
    components: tuple[str, ...] = ()
    if quick:
        small = ("--requests", "16", "--output-tokens", "32")
        sweep = ("--concurrency", "1:8:x2", *small)
        components = ("--concurrency", "1,8", "--answers", "streamed", *small)
        varied = (*varied, "--only", "eager", "--concurrency", "8", *small)
    return (
        Part(
            "sweep",
            "Throughput and latency by concurrency",
            (*served, *sweep),
            ("json", "csv", "markdown", "svg", "html"),
        ),
        Part(
            "components",
            "Where a request's time goes",
            (*served, *components),
            ("json", "markdown", "svg"),
            knows_previous=False,
        ),
        Part(
            "variants",
            "Configurations and precisions, with quality",
            varied,
            ("json", "markdown", "svg"),
        ),
    )


def chosen(parts: Sequence[Part], only: str | None) -> tuple[Part, ...]:
    """Those named in `only`, separated by commas; all without it. Raises BenchError."""
    if only is None:
        return tuple(parts)
    names = [name.strip() for name in only.split(",")]
    known = [part.name for part in parts]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BenchError(f"--only {only}: no part {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(part for part in parts if part.name in names)
