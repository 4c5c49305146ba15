from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.frontend.test_frontend import SERVER
from tests.bench.test_throughput import started

DRAWS = """\
#!/bin/sh
echo "$@" > "$ARGUMENTS"
"""
REFUSED = """\
#!/bin/sh
echo "Error: Permission denied (os error 13)" >&2
exit 1
"""


async def profile(
    spy: str, folder: Path, *arguments: str, server: str = SERVER
) -> tuple[int | None, str, str]:
    """`python -m bench.profile` with a script in place of py-spy."""
    program = folder / "py-spy"
    program.write_text(spy, "utf-8")
    program.chmod(0o755)
    child = await started(
        *("--server", f"a={server}", "--concurrency", "2", "--seconds", "1", *arguments),
        module="bench.profile",
        PATH=f"{folder}:{os.environ['PATH']}",
        ARGUMENTS=str(folder / "arguments"),
    )
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


async def test_the_serving_process_is_recorded_under_load(tmp_path: Path) -> None:
    graph = tmp_path / "graph.svg"

    code, out, err = await profile(DRAWS, tmp_path, "--output", str(graph))

    assert code == 0, err
    assert out == f"{graph}: a, 2 streams, 1 s\n"
    arguments = (tmp_path / "arguments").read_text("utf-8").split()
    assert arguments[:2] == ["record", "--pid"]
    assert arguments[arguments.index("--duration") + 1] == "1"
    assert arguments[arguments.index("--output") + 1] == str(graph)
    assert not {"--native", "--gil"} & set(arguments)


async def test_missing_rights_exit_2_and_say_how_to_get_them(tmp_path: Path) -> None:
    code, out, err = await profile(REFUSED, tmp_path)

    assert (code, out) == (2, "")
    assert "Permission denied" in err
    assert "SYS_PTRACE" in err
    assert "Traceback" not in err


async def test_wrong_answers_exit_1(tmp_path: Path) -> None:
    code, out, _ = await profile(DRAWS, tmp_path, server=f"{SERVER} --errs")

    assert code == 1
    assert "wrong answers; the first: the text of choice 0 differs" in out


@pytest.mark.parametrize("wrong", [("--seconds", "0"), ("--server", "vlm")])
async def test_wrong_usage_exits_2(wrong: tuple[str, str], tmp_path: Path) -> None:
    code, out, err = await profile(DRAWS, tmp_path, *wrong)

    assert (code, out) == (2, "")
    assert "Traceback" not in err
