from __future__ import annotations

import asyncio
import json
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bench.cli.command import Exit
from bench.errors import BenchError
from bench.fake import Script
from bench.suite.__main__ import main, run_suite
from bench.suite.parts import Part, all_parts, chosen
from bench.suite.report import demoted
from bench.suite.running import run_part
from tests.bench.conftest import StartFake

SMALL = ("--concurrency", "1,2", "--requests", "2", "--output-tokens", "3")
COMMAND = "python -m bench.suite"


def sweep_of(url: str, *more: str) -> Part:
    outputs = ("json", "csv", "markdown", "svg", "html")
    return Part("sweep", "By concurrency", ("--base-url", url, *SMALL, *more), outputs)


# A part whose command is refused before it measures anything.
BROKEN = Part("variants", "Configurations", ("--no-such-option",), ("json", "markdown", "svg"))


async def suite(directory: Path, *wanted: Part, parts: tuple[Part, ...] = ()) -> Exit:
    return await run_suite(parts or wanted, wanted, directory, COMMAND)


def record(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "suite.json").read_text("utf-8"))
    return found


async def test_every_part_is_in_one_page_with_its_command_and_the_machine(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, url = await start_fake(Script())

    code = await suite(tmp_path, sweep_of(url))

    assert code == Exit.OK
    page = (tmp_path / "index.html").read_text("utf-8")
    for expected in ("By concurrency", f"bench.sweep --base-url {url}", "<svg", "cores", COMMAND):
        assert expected in page
    for foreign in ("src=", "<link", "<script", "@import", "url("):
        assert foreign not in page
    summary = (tmp_path / "summary.md").read_text("utf-8")
    assert "](sweep.svg)" in summary
    assert (tmp_path / "sweep.svg").exists()
    # One title; what the part calls its title and sections is below the part's.
    assert [line for line in summary.splitlines() if line.startswith("# ")] == [
        "# Benchmarks of this machine"
    ]
    assert record(tmp_path)["parts"]["sweep"]["exit_code"] == 0


async def test_a_second_run_shows_the_first_beside_it(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, url = await start_fake(Script())

    await suite(tmp_path, sweep_of(url))
    first = json.loads((tmp_path / "sweep.json").read_text("utf-8"))
    code = await suite(tmp_path, sweep_of(url, "--seed", "50"))

    assert code == Exit.OK
    assert json.loads((tmp_path / "previous" / "sweep.json").read_text("utf-8")) == first
    assert "Against the previous run" in (tmp_path / "index.html").read_text("utf-8")


async def test_a_part_that_fails_is_shown_with_the_end_of_its_output(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, url = await start_fake(Script())

    code = await suite(tmp_path, BROKEN, sweep_of(url))

    assert code == Exit.FAILED_REQUESTS
    summary = (tmp_path / "summary.md").read_text("utf-8")
    assert "**Failed** (exit code 2)" in summary
    assert "unrecognized arguments: --no-such-option" in summary
    # The others are measured all the same.
    assert record(tmp_path)["parts"]["sweep"]["exit_code"] == 0
    assert "no-such-option" in (tmp_path / "variants.log").read_text("utf-8")


async def test_failed_requests_are_told_and_the_figures_kept(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, url = await start_fake(Script(fault=lambda number: "500" if number == 2 else None))

    code = await suite(tmp_path, sweep_of(url))

    assert code == Exit.FAILED_REQUESTS
    summary = (tmp_path / "summary.md").read_text("utf-8")
    assert "Done, with failures" in summary
    assert "| concurrency |" in summary


async def test_a_failed_part_leaves_nothing_old_and_the_last_whole_run_to_compare_with(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, url = await start_fake(Script())
    await suite(tmp_path, sweep_of(url))
    first = (tmp_path / "sweep.json").read_text("utf-8")

    for _ in range(2):
        await suite(tmp_path, sweep_of(url, "--no-such-option"))

    assert not (tmp_path / "sweep.svg").exists()
    assert not (tmp_path / "sweep.json").exists()
    assert (tmp_path / "previous" / "sweep.json").read_text("utf-8") == first


async def test_parts_that_are_not_wanted_stay_as_they_were(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, url = await start_fake(Script())
    parts = (sweep_of(url), BROKEN)
    await suite(tmp_path, parts[0], parts=parts)

    await suite(tmp_path, parts[1], parts=parts)

    assert set(record(tmp_path)["parts"]) == {"sweep", "variants"}
    assert "| concurrency |" in (tmp_path / "summary.md").read_text("utf-8")


async def test_ctrl_c_is_passed_on_and_the_report_written(
    start_fake: StartFake, tmp_path: Path
) -> None:
    stuck = asyncio.Event()

    def fault(number: int) -> str | None:
        if number <= 3:  # the warm-up and the requests of the first load
            return None
        stuck.set()
        return "hang"

    _, url = await start_fake(Script(fault=fault))
    running = asyncio.create_task(suite(tmp_path, sweep_of(url), BROKEN))
    await stuck.wait()

    running.cancel()

    assert await running == Exit.INTERRUPTED
    found = json.loads((tmp_path / "sweep.json").read_text("utf-8"))
    assert [one["load"] for one in found["points"]] == [1]
    assert "variants" not in record(tmp_path)["parts"]
    assert "nterrupted" in (tmp_path / "index.html").read_text("utf-8")


async def test_a_command_that_is_killed_has_failed(tmp_path: Path) -> None:
    script = f"import os; print('last words', flush=True); os.kill(os.getpid(), {signal.SIGKILL})"
    said: list[str] = []

    ran = await run_part(["-c", script], "x", tmp_path / "log", lambda _s, line: said.append(line))

    assert ran.state == "failed"
    assert ran.said == ("last words",)
    assert said[-1] == "last words"
    assert (tmp_path / "log").read_text("utf-8") == "last words\n"


def test_only_names_parts_that_there_are() -> None:
    parts = all_parts(Path("c.yaml"), Path("v.yaml"), quick=False)

    assert [part.name for part in chosen(parts, "variants, sweep")] == ["sweep", "variants"]
    assert chosen(parts, None) == parts
    with pytest.raises(BenchError, match="'speed'; there are sweep, components, variants"):
        chosen(parts, "speed")


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", ["sweep", "components", "variants"])
def test_every_part_is_a_command_that_knows_its_options(
    tmp_path: Path, name: str, quick: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (part,) = chosen(all_parts(Path("c.yaml"), Path("v.yaml"), quick=quick), name)
    part.previous(tmp_path).parent.mkdir()
    part.previous(tmp_path).touch()
    _, module, *arguments = part.words(tmp_path)
    command = import_module(module)
    if hasattr(command, "__path__"):
        command = import_module(f"{module}.__main__")

    with pytest.raises(SystemExit, match="0"):
        command.main([*arguments, "--help"])

    text = capsys.readouterr().out
    assert [word for word in arguments if word.startswith("--") and word not in text] == []


def test_headings_are_demoted_but_not_code() -> None:
    assert demoted("# a\n```sh\n# b\n```\n## c") == "### a\n```sh\n# b\n```\n#### c"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("--only", "speed"), "--only speed"),
        (("--config", "/nowhere.yaml"), "--config /nowhere.yaml"),
        (("--variants", "/nowhere.yaml"), "--variants /nowhere.yaml"),
        (("-o", "/dev/null/x"), "-o /dev/null/x"),
    ],
)
def test_wrong_usage_of_the_suite_exits_2(
    wrong: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(wrong)

    out, err = capsys.readouterr()
    assert (code, out) == (Exit.UNUSABLE, "")
    assert named in err


async def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text("[]", "utf-8")

    with pytest.raises(BenchError, match="another directory"):
        await suite(tmp_path)
