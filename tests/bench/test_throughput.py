from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

import bench
from bench.fake import FakeServer, Script
from bench.servers.server import free_port
from bench.throughput import main
from tests.bench.conftest import StartFake

PACKAGE = Path(bench.__file__).parent
SMALL = ("--concurrency", "2", "--requests", "6", "--warmup", "2", "--output-tokens", "4")


async def started(
    *arguments: str, module: str = "bench.throughput", **environ: str
) -> asyncio.subprocess.Process:
    keyless = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        cwd=PACKAGE.parent,
        env={**keyless, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def command(*arguments: str, **environ: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `python -m bench.throughput`."""
    child = await started(*arguments, **environ)
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


def lengths(fake: FakeServer) -> list[int]:
    return [body["max_tokens"] for body in fake.seen.bodies]


async def test_a_clean_run_exits_0_with_a_table_and_a_valid_report(
    start_fake: StartFake, tmp_path: Path
) -> None:
    fake, url = await start_fake(Script())
    file = tmp_path / "report.json"

    code, out, err = await command("--base-url", url, *SMALL, "--seed", "7", "--json", str(file))

    assert code == 0, err
    assert "total tokens/s" in out
    assert "TTFT" in out
    assert "0 failures" in out
    report = json.loads(file.read_text("utf-8"))
    jsonschema.validate(report, json.loads((PACKAGE / "throughput.schema.json").read_text("utf-8")))
    assert report["tokens"]["input"] == 6 * 128
    assert report["tokens"]["output"] == 6 * 4
    assert report["settings"]["seed"] == 7
    assert report["latency_ms"]["itl"]["count"] == 6 * 3
    assert len(fake.seen.bodies) == 8
    assert os.listdir(tmp_path) == ["report.json"]


async def test_one_failed_request_exits_1_and_is_explained(start_fake: StartFake) -> None:
    _, url = await start_fake(Script(fault=lambda number: "500" if number == 4 else None))

    code, out, _ = await command("--base-url", url, *SMALL)

    assert code == 1
    assert "http_500" in out
    assert "scripted [failure]" in out
    assert "5 of 6 requests" in out


async def test_no_server_exits_2_and_says_what_to_do() -> None:
    code, out, err = await command("--base-url", f"http://127.0.0.1:{free_port()}/v1", *SMALL)

    assert (code, out) == (2, "")
    assert "can't be reached" in err
    assert "--serve" in err
    assert "Traceback" not in err


async def test_a_server_of_another_kind_exits_2(start_fake: StartFake) -> None:
    _, url = await start_fake(Script())

    code, _, err = await command("--base-url", url.removesuffix("/v1"), *SMALL)

    assert code == 2
    assert "ends in /v1" in err


async def test_an_unknown_model_exits_2_with_the_known_ones(start_fake: StartFake) -> None:
    _, url = await start_fake(Script(models=("known",)))

    code, _, err = await command("--base-url", url, "--model", "other", *SMALL)

    assert code == 2
    assert "known" in err


@pytest.mark.parametrize("by", ["option", "environment"])
async def test_the_key_is_sent(start_fake: StartFake, by: str) -> None:
    _, url = await start_fake(Script(api_key="right"))

    if by == "option":
        code, _, err = await command("--base-url", url, *SMALL, "--api-key", "right")
    else:
        code, _, err = await command("--base-url", url, *SMALL, OPENAI_API_KEY="right")

    assert code == 0, err


async def test_a_missing_key_exits_2(start_fake: StartFake) -> None:
    _, url = await start_fake(Script(api_key="right"))

    code, _, err = await command("--base-url", url, *SMALL)

    assert code == 2
    assert "--api-key" in err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--concurrency", "0"),
        ("--concurrency", "4", "--requests", "3"),
        ("--input-tokens", "many"),
        ("--base-url", "http://a/v1", "--serve", "b.yaml"),
        ("--input-tokens", "9:5"),
        ("--rate", "0"),
        ("--rate", "inf"),
        ("--requests", "9", "--duration", "5"),
        ("--arrivals", "burst"),
        ("--burstiness", "0.5", "--rate", "1"),
        ("--rate-end", "5", "--rate", "1", "--arrivals", "burst"),
        ("--arrivals", "ramp", "--rate", "1"),
        ("--slo", "fast"),
        ("--temperature", "nan"),
        ("--slo", "ttft=5", "--no-stream"),
        ("--dataset", "sharegpt"),
        ("--dataset", "replay", "--dataset-path", "/nowhere/at/all.jsonl"),
        ("--dataset", "multi-turn", "--endpoint", "completions"),
        ("--dataset-path", "x.jsonl"),
        ("--prefix-tokens", "5"),
        ("--turns", "3", "--dataset", "shared-prefix"),
        ("--json", "/nowhere/at/all.json"),
        ("--no-such-option",),
    ],
)
def test_wrong_usage_exits_2(wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(wrong)
    except SystemExit as stopped:  # argparse ends the program itself
        code = stopped.code

    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert wrong[0] in err


async def test_nothing_to_measure_exits_2_and_writes_nothing(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, url = await start_fake(Script())
    file = tmp_path / "report.json"

    code, out, err = await command(
        *("--base-url", url, "--rate", "0.2", "--duration", "0.5", "--warmup", "0"),
        *("--json", str(file)),
    )

    assert (code, out) == (2, "")
    assert "nothing was measured: there was no request to send in 0.5 s" in err
    assert not file.exists()


async def test_a_password_in_the_url_is_used_and_shown_nowhere(
    start_fake: StartFake, tmp_path: Path
) -> None:
    _, plain = await start_fake(Script())
    url, file = plain.replace("://", "://me:s3cret@"), tmp_path / "report.json"
    several = ("--base-url", url, "--base-url", url)

    code, out, err = await command(*several, *SMALL, "--json", str(file))

    assert code == 0, err
    written = file.read_text("utf-8")
    assert json.loads(written)["server"]["base_url"] == plain
    assert plain in out
    assert "s3cret" not in out + err + written


async def test_a_user_in_the_url_and_a_key_exit_2_with_what_to_leave_out() -> None:
    code, out, err = await command("--base-url", "http://me:s3cret@h/v1", OPENAI_API_KEY="right")

    assert (code, out) == (2, "")
    assert "leave out" in err
    assert "Traceback" not in err
    assert "s3cret" not in err


async def test_whole_answers_and_completions_can_be_measured(start_fake: StartFake) -> None:
    fake, url = await start_fake(Script())

    code, out, err = await command(
        "--base-url", url, *SMALL, "--endpoint", "completions", "--no-stream"
    )

    assert code == 0, err
    assert "not streamed" in out
    assert {body["stream"] for body in fake.seen.bodies} == {False}
    assert all("prompt" in body for body in fake.seen.bodies)


async def test_a_rate_and_objectives_are_reported(start_fake: StartFake, tmp_path: Path) -> None:
    fake, url = await start_fake(Script())
    file = tmp_path / "report.json"

    code, out, err = await command(
        "--base-url", url, "--rate", "100", "--arrivals", "burst", "--requests", "20",
        "--warmup", "0", "--output-tokens", "2:6", "--slo", "e2el=60000", "--slo", "ttft=60000",
        "--json", str(file),
    )  # fmt: skip

    assert code == 0, err
    assert "100 requests/s, burst" in out
    assert "E2EL from due" in out
    assert "100.0% met TTFT ≤ 60000 ms, E2EL ≤ 60000 ms" in out
    report = json.loads(file.read_text("utf-8"))
    jsonschema.validate(report, json.loads((PACKAGE / "throughput.schema.json").read_text("utf-8")))
    assert report["goodput"]["met"] == 20
    assert report["open_loop"]["sent_late_ms"]["count"] == 20
    assert report["settings"]["output_tokens"] == "2:6"
    assert set(lengths(fake)) <= {2, 3, 4, 5, 6}
    assert len(set(lengths(fake))) > 1


async def test_a_duration_says_what_counted(start_fake: StartFake) -> None:
    fake, url = await start_fake(Script())

    code, out, err = await command(
        "--base-url", url, "--concurrency", "2", "--warmup", "0", "--output-tokens", "2",
        "--duration", "0.2",
    )  # fmt: skip

    assert code == 0, err
    count = len(fake.seen.bodies)
    assert f"{count} of {count} requests begun within 0.2 s" in out


async def test_several_servers_take_turns(start_fake: StartFake) -> None:
    one, url = await start_fake(Script())
    other, other_url = await start_fake(Script())

    code, out, err = await command("--base-url", url, "--base-url", other_url, *SMALL)

    assert code == 0, err
    assert (len(one.seen.bodies), len(other.seen.bodies)) == (4, 4)
    assert f"{url}, then {other_url}" in out
    assert "Each server" in out


async def test_what_the_ledger_exports_can_be_replayed(
    start_fake: StartFake, tmp_path: Path
) -> None:
    fake, url = await start_fake(Script())
    row = {"endpoint": "/v1/chat/completions", "outcome": "completed", "prompt_tokens": 40}
    rows = [{**row, "at": 1e9 + n / 100, "completion_tokens": 3 + n} for n in range(5)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))

    code, out, err = await command(
        "--base-url", url, "--dataset", "replay", "--dataset-path", str(file), "--warmup", "0"
    )

    assert code == 0, err
    assert "5 of 5 requests" in out
    assert "replayed at 1 times the speed" in out
    assert sorted(lengths(fake)) == [3, 4, 5, 6, 7]


async def test_ctrl_c_prints_what_was_measured_and_exits_130(
    start_fake: StartFake, tmp_path: Path
) -> None:
    stuck = asyncio.Event()

    def fault(number: int) -> str | None:
        if number <= 5:
            return None
        stuck.set()
        return "hang"

    _, url = await start_fake(Script(fault=fault))
    file = tmp_path / "report.json"

    child = await started(
        "--base-url", url, "--concurrency", "1", "--requests", "9", "--warmup", "2",
        "--output-tokens", "4", "--json", str(file),
    )  # fmt: skip
    await stuck.wait()
    child.send_signal(signal.SIGINT)
    out, _ = await child.communicate()

    assert child.returncode == 130
    assert "3 of 9 requests" in out.decode()
    assert "interrupted" in out.decode()
    report = json.loads(file.read_text("utf-8"))
    assert report["interrupted"] is True
    assert report["requests"]["abandoned"] == 1


async def test_help_teaches_by_examples() -> None:
    code, out, _ = await command("--help")

    assert code == 0
    assert "examples:" in out
    assert "python -m bench.throughput --concurrency 32" in out
    assert "exit codes:" in out
