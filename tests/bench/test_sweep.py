"""The command: what it sends, what it writes, how it ends."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.fake import Script
from bench.sweep.__main__ import main
from tests.bench.conftest import StartFake
from tests.bench.test_throughput import started

SVG = "{http://www.w3.org/2000/svg}"
OUTPUTS = ("json", "csv", "markdown", "svg", "html")


async def sweep(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `python -m bench.sweep`."""
    child = await started(*arguments, module="bench.sweep")
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


def files(directory: Path) -> list[str]:
    return [part for name in OUTPUTS for part in (f"--{name}", str(directory / f"sweep.{name}"))]


async def test_a_sweep_goes_over_the_range_and_writes_everything(
    start_fake: StartFake, tmp_path: Path
) -> None:
    fake, url = await start_fake(Script(api_key="secret-key"))

    code, out, err = await sweep(
        "--base-url", url, "--api-key", "secret-key", "--concurrency", "1:4:x2", "--rounds", "2",
        "--requests", "3", "--output-tokens", "4", *files(tmp_path),
    )  # fmt: skip

    assert code == 0, err
    found = json.loads((tmp_path / "sweep.json").read_text("utf-8"))
    assert [one["load"] for one in found["points"]] == [1, 2, 4]
    assert [len(one["rounds"]) for one in found["points"]] == [2, 2, 2]
    # At least as many requests as are to be in flight; each measurement has prompts of its own.
    assert [one["rounds"][0]["requests"]["succeeded"] for one in found["points"]] == [3, 3, 4]
    assert len(fake.seen.bodies) == 2 * (1 + 3 + 2 + 3 + 4 + 4)
    prompts = {json.dumps(body["messages"]) for body in fake.seen.bodies}
    assert len(prompts) == len(fake.seen.bodies)
    begun = [[one["started_at"] for one in point["rounds"]] for point in found["points"]]
    assert begun[0][0] < begun[1][0] < begun[2][0] < begun[2][1] < begun[1][1] < begun[0][1]
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text("utf-8").splitlines()))
    assert [row["concurrency"] for row in rows] == ["1", "1", "2", "2", "4", "4"]
    assert all(float(row["throughput.total_tokens_per_s"]) > 0 for row in rows)
    assert ET.parse(tmp_path / "sweep.svg").getroot().tag == f"{SVG}svg"
    assert "No knee: 3 points are too few" in out
    for name in OUTPUTS:
        assert "secret-key" not in (tmp_path / f"sweep.{name}").read_text("utf-8"), name


async def test_the_page_needs_nothing_from_elsewhere(start_fake: StartFake, tmp_path: Path) -> None:
    _, url = await start_fake(Script())

    code, _, err = await sweep(
        "--base-url", url, "--concurrency", "1,2", "--requests", "2", "--output-tokens", "3",
        *files(tmp_path),
    )  # fmt: skip

    assert code == 0, err
    page = (tmp_path / "sweep.html").read_text("utf-8")
    assert "<svg" in page
    assert "<table>" in page
    assert "prefers-color-scheme: dark" in page
    assert f"bench.sweep --base-url {url}" in page
    assert "cores" in page
    for foreign in ("src=", "<link", "<script", "@import", "url("):
        assert foreign not in page


async def test_a_sweep_of_rates_is_an_open_loop(start_fake: StartFake, tmp_path: Path) -> None:
    _, url = await start_fake(Script())

    code, _, err = await sweep(
        "--base-url", url, "--rate", "200:400:x2", "--requests", "6", "--warmup", "0",
        "--output-tokens", "3", "--json", str(tmp_path / "sweep.json"),
    )  # fmt: skip

    assert code == 0, err
    found = json.loads((tmp_path / "sweep.json").read_text("utf-8"))
    assert found["kind"] == "rate"
    assert [one["rounds"][0]["settings"]["rate"] for one in found["points"]] == [200, 400]


async def test_a_server_that_is_started_is_measured_with_what_it_uses(tmp_path: Path) -> None:
    code, _, err = await sweep(
        "--server", "fake={python} -m bench.fake --port {port}", "--concurrency", "2",
        "--requests", "4", "--output-tokens", "4", "--json", str(tmp_path / "sweep.json"),
    )  # fmt: skip

    assert code == 0, err
    found = json.loads((tmp_path / "sweep.json").read_text("utf-8"))
    (record,) = found["points"][0]["rounds"]
    assert record["server_cpu"]["s"] is not None
    assert record["utilization"]["memory_peak"] > 0


def of_point(bounds: Mapping[str, tuple[int, int]], number: int) -> bool:
    """Whether a request, by its number from 1, is one of those between the bounds."""
    return any(first <= number <= last for first, last in bounds.values())


async def test_the_search_narrows_down_the_highest_load_that_meets_the_objectives(
    start_fake: StartFake, tmp_path: Path
) -> None:
    # 1, 2, 4 and 8 in flight send a warm-up of as many and 8 more: 9, 10, 12 and 16 requests.
    # Then come 6, which misses too, and 5, which meets.
    missing = {"8, measured": (40, 47), "6, measured": (54, 61)}
    fake, url = await start_fake(Script(fault=lambda n: "500" if of_point(missing, n) else None))

    code, out, _ = await sweep(
        "--base-url", url, "--concurrency", "1:8:x2", "--requests", "8", "--output-tokens", "3",
        "--slo", "e2el=1000000", "--search", "--json", str(tmp_path / "sweep.json"),
    )  # fmt: skip

    assert code == 1  # some requests failed
    assert len(fake.seen.bodies) == 47 + 14 + 13
    found = json.loads((tmp_path / "sweep.json").read_text("utf-8"))
    assert [one["load"] for one in found["points"]] == [1, 2, 4, 5, 6, 8]
    assert found["objectives"]["highest_that_meets"] == 5
    assert found["objectives"]["first_that_misses"] == 6
    assert "concurrency 5; concurrency 6 misses" in " ".join(out.split())


async def test_ctrl_c_keeps_the_loads_that_were_measured(
    start_fake: StartFake, tmp_path: Path
) -> None:
    stuck = asyncio.Event()

    def fault(number: int) -> str | None:
        if number <= 2 + 4:  # all of the first load, and the warm-up of the second
            return None
        stuck.set()
        return "hang"

    _, url = await start_fake(Script(fault=fault))

    child = await started(
        "--base-url", url, "--concurrency", "1,2", "--requests", "3", "--output-tokens", "3",
        *files(tmp_path),
        module="bench.sweep",
    )  # fmt: skip
    await stuck.wait()
    child.send_signal(signal.SIGINT)
    out, _ = await child.communicate()

    assert child.returncode == 130
    assert "Not complete: interrupted" in out.decode()
    found = json.loads((tmp_path / "sweep.json").read_text("utf-8"))
    assert found["stopped"] == "interrupted"
    assert [one["load"] for one in found["points"]] == [1]
    assert "Not complete" in (tmp_path / "sweep.html").read_text("utf-8")


async def test_a_server_that_cannot_go_on_leaves_what_was_measured(
    start_fake: StartFake, tmp_path: Path
) -> None:
    script = Script()

    def fault(number: int) -> str | None:
        if number == 4:  # the last of the first load
            script.models = ()
        return None

    script.fault = fault
    _, url = await start_fake(script)

    code, _, err = await sweep(
        "--base-url", url, "--concurrency", "1,2", "--requests", "3", "--output-tokens", "3",
        "--json", str(tmp_path / "sweep.json"),
    )  # fmt: skip

    assert code == 2
    assert "lists no models" in err
    found = json.loads((tmp_path / "sweep.json").read_text("utf-8"))
    assert "lists no models" in found["stopped"]
    assert [one["load"] for one in found["points"]] == [1]


async def test_the_previous_sweep_stands_beside_this_one(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, url = await start_fake(Script())
    same = ("--base-url", url, "--concurrency", "1,2", "--requests", "3")
    before = tmp_path / "before.json"
    assert (await sweep(*same, "--output-tokens", "3", "--json", str(before)))[0] == 0

    code, _, err = await sweep(
        *same, "--output-tokens", "4", "--seed", "100", "--previous", str(before), *files(tmp_path)
    )

    assert code == 0, err
    text = (tmp_path / "sweep.markdown").read_text("utf-8")
    assert "## Against the previous run" in text
    # What was measured otherwise is named; what differs anyhow is not.
    assert "output_tokens 3 → 4" in text
    assert "seed 0" not in text
    assert text.count(", no conclusion") == 3 * 2


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ((), "--concurrency"),
        (("--concurrency", "1:8"), "FIRST:LAST:xFACTOR"),
        (("--concurrency", "2", "--rate", "1"), "--rate"),
        (("--concurrency", "2", "--search"), "--slo"),
        (("--concurrency", "2", "--attain", "2"), "--attain"),
        (("--concurrency", "2", "--slo", "ttft=fast"), "--slo ttft=fast"),
        (("--concurrency", "2", "--html", "/nowhere/at/all.html"), "--html"),
        (("--concurrency", "2", "--previous", "/nowhere.json"), "--previous"),
        (("--concurrency", "2", "--serve", "/nowhere.yaml"), "/nowhere.yaml"),
        (("--concurrency", "2", "--server", "x=serve"), "{port}"),
        (("--rate", "1,2", "--arrivals", "ramp"), "ramp"),
    ],
)
def test_wrong_usage_of_a_sweep_exits_2_and_is_named(
    wrong: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(wrong)
    except SystemExit as error:  # argparse's
        code = int(error.code or 0)

    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert named in err


def test_the_help_of_a_sweep_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    out = capsys.readouterr().out
    assert "--concurrency 1:64:x2" in out
    assert "Kneedle" in out
    assert "exit codes:" in out
