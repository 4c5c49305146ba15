from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.errors import BenchError
from bench.fake import Script
from bench.reports.comparison import NO_CONCLUSION, Finding, Round, compare_rounds, to_markdown
from bench.reports.plot import to_svg
from bench.servers.contenders import parse_contender
from bench.servers.preset import engine_environment, engine_flags, vllm_preset
from bench.servers.server import free_port, running_server
from bench.servers.subject import parse_subject
from tests.bench.conftest import StartFake
from tests.bench.test_throughput import started

NAMES = ("a", "b")
FAKE = "{python} -m bench.fake --port {port}"


def record(speed: float, *, ttft: float = 10.0, failed: int = 0) -> dict[str, Any]:
    return {
        "throughput": {"total_tokens_per_s": speed},
        "latency_ms": {"ttft": {"p50": ttft, "p99": 2 * ttft}, "itl": None},
        "requests": {"failed": failed},
        "idle_server_cores": 0.2,
    }


def rounds(*pairs: tuple[dict[str, Any], dict[str, Any]]) -> list[Round]:
    return [
        Round(number, NAMES, dict(zip(NAMES, pair, strict=True)))
        for number, pair in enumerate(pairs, 1)
    ]


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.metric: finding for finding in found}


def test_a_ratio_on_one_side_in_every_round_is_a_verdict() -> None:
    pairs = [(record(110 + n, ttft=20 + n), record(100, ttft=10)) for n in range(5)]

    found = by_name(compare_rounds(NAMES, rounds(*pairs)))

    assert found["total tokens/s"].verdict == "a is better"
    assert found["total tokens/s"].median_ratio == pytest.approx(1.12)
    assert found["TTFT p50, ms"].verdict == "b is better"


def test_an_interval_that_holds_1_is_no_conclusion() -> None:
    speeds = [90.0, 110.0, 130.0, 120.0, 140.0]

    found = compare_rounds(NAMES, rounds(*((record(s), record(100)) for s in speeds)))

    assert by_name(found)["total tokens/s"].verdict == NO_CONCLUSION
    assert by_name(found)["TTFT p50, ms"].verdict == NO_CONCLUSION


def test_a_metric_with_a_0_is_not_compared_and_the_report_says_so() -> None:
    pairs = [(record(100), record(100, ttft=0.0 if n == 3 else 10.0)) for n in range(5)]
    measured = rounds(*pairs)

    found = compare_rounds(NAMES, measured)

    assert "TTFT p50, ms" not in by_name(found)
    text = to_markdown(NAMES, measured, found)
    assert "TTFT p50, ms: not compared, as b has 0 in 1 of 5 rounds." in text
    assert "total tokens/s: not compared" not in text


def test_a_report_of_less_than_was_asked_for_says_why_first() -> None:
    measured = rounds((record(1), record(1)))

    text = to_markdown(NAMES, measured, compare_rounds(NAMES, measured), "the server\nis gone")

    assert text.startswith("**Not complete: the server is gone.** What had been measured is here.")
    assert "| 1 | a |" in text


def test_few_rounds_allow_no_conclusion() -> None:
    measured = rounds(*[(record(200), record(100))] * 4)

    found = compare_rounds(NAMES, measured)

    assert {finding.verdict for finding in found} == {NO_CONCLUSION}
    assert "Fewer than 5 rounds" in to_markdown(NAMES, measured, found)


def test_metrics_one_side_lacks_are_left_out() -> None:
    found = by_name(compare_rounds(NAMES, rounds((record(1), record(1)))))

    assert "ITL p99, ms" not in found
    assert "server CPU per output token, ms" not in found


def test_goodput_is_compared_where_objectives_were_set() -> None:
    pairs = [
        (record(1) | {"goodput": {"requests_per_s": 2.0 + n}}, record(1) | {"goodput": None})
        for n in range(5)
    ]
    both = [(one, one | {"goodput": {"requests_per_s": 1.0}}) for one, _ in pairs]

    assert "goodput, requests/s" not in by_name(compare_rounds(NAMES, rounds(*pairs)))
    found = by_name(compare_rounds(NAMES, rounds(*both)))["goodput, requests/s"]
    assert found.verdict == "a is better"


def test_rounds_with_failed_requests_are_shown_but_not_compared() -> None:
    measured = rounds((record(5), record(1)), (record(1, failed=3), record(1)))

    found = compare_rounds(NAMES, measured)
    text = to_markdown(NAMES, measured, found)

    assert by_name(found)["total tokens/s"].ratios == (5.0,)
    assert "requests failed: round 2" in text
    assert "0.20 cores" in text


def test_nothing_to_compare_is_still_a_table() -> None:
    assert compare_rounds(NAMES, []) == []
    assert "| metric |" in to_markdown(NAMES, [], [])


def test_the_plot_is_well_formed_and_shows_every_round() -> None:
    names = ("a<b", 'c"&d')
    pairs = [(record(110 + n), record(100)) for n in range(5)]
    found = compare_rounds(NAMES, rounds(*pairs))

    root = ET.fromstring(to_svg(names, found))

    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 5 * len(found)
    assert root.findtext("{http://www.w3.org/2000/svg}title") == 'a<b / c"&d'


def test_a_contender_is_a_url_or_a_command() -> None:
    assert parse_contender("x=http://h:1/v1/").url == "http://h:1/v1"
    command = parse_contender("y=serve --port {port} --name 'a b' --set k=v").command
    assert command == ("serve", "--port", "{port}", "--name", "a b", "--set", "k=v")


@pytest.mark.parametrize("wrong", ["http", "=serve {port}", "x=", "x=serve", "x=serve '{port}"])
def test_a_contender_without_name_command_or_port_is_refused(wrong: str) -> None:
    with pytest.raises(BenchError, match="--server"):
        parse_contender(wrong)


def test_a_server_is_a_configuration_a_url_or_either_with_a_name(tmp_path: Path) -> None:
    config = tmp_path / "fast.yaml"
    config.touch()

    plain, named = parse_subject(str(config)), parse_subject(f"a = {config}")

    assert (plain.name, named.name) == ("fast", "a")
    assert plain.command == named.command
    assert plain.command[1:6] == ("-m", "gateway", "serve", "--config", str(config))
    assert "{port}" in plain.command
    assert parse_subject("http://h:1/v1/").url == "http://h:1/v1"
    assert parse_subject("http://me:pw@h/v1").name == "http://me:REDACTED@h/v1"
    assert parse_subject("b=http://h:1/v1?x=y").url == "http://h:1/v1?x=y"
    assert parse_subject("c=serve --port {port}").command == ("serve", "--port", "{port}")


@pytest.mark.parametrize("wrong", ["/nowhere.yaml", "a=/nowhere.yaml", "serve"])
def test_a_server_that_is_no_file_is_refused_with_what_it_could_be(wrong: str) -> None:
    with pytest.raises(BenchError, match=r"no such file; a server is a configuration"):
        parse_subject(wrong)


def test_vllm_gets_the_engine_settings_of_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_ENGINE__DTYPE", raising=False)
    config = tmp_path / "c.yaml"
    config.write_text(
        "model_name: public\nengine: {model: org/m, dtype: float16, max_num_seqs: 8, compile: off,"
        " kv_cache_gib: 0.5, enable_prefix_caching: false, cpu_threads: 3, max_model_len: 512}\n"
    )

    ours, peer, environment = vllm_preset(config, model_path=None, has_gpu=False)

    assert ours.command[:4] == (sys.executable, "-m", "gateway", "serve")
    flags = " ".join(peer.command)
    for wanted in (
        "--model org/m", "--served-model-name public", "--dtype float16", "--max-num-seqs 8",
        "--max-model-len 512", "--kv-cache-memory-bytes 536870912", "--no-enable-prefix-caching",
        "--enable-chunked-prefill", "--enforce-eager", "--distributed-executor-backend uni",
    ):  # fmt: skip
        assert wanted in flags
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


@pytest.mark.parametrize("written", ["off", "'off'"])
def test_compile_off_is_eager_however_yaml_reads_it(tmp_path: Path, written: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"engine: {{model: org/m, compile: {written}}}\n")

    _, peer, _ = vllm_preset(config, model_path=None, has_gpu=False)

    assert "--enforce-eager" in peer.command


def test_one_prompt_has_as_much_of_a_step_in_both_servers() -> None:
    flags = " ".join(engine_flags({"max_num_batched_tokens": 1024}, has_gpu=True))

    assert "--long-prefill-token-threshold 512" in flags


def test_parallel_engines_on_gpus_keep_vllms_own_executor_and_environment() -> None:
    engine = {"parallel": {"tensor": 2}, "quantization": "awq"}

    flags = " ".join(engine_flags(engine, has_gpu=True))

    assert "--tensor-parallel-size 2" in flags
    assert "--quantization awq" in flags
    assert "--distributed-executor-backend" not in flags
    assert "--kv-cache-memory-bytes" not in flags
    assert engine_environment(engine, has_gpu=True) == {}


def test_a_simulated_engine_has_no_vllm_to_compare_with(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("engine: {kind: simulated}\n")

    with pytest.raises(BenchError, match="simulated"):
        vllm_preset(config, model_path=None, has_gpu=False)


def test_the_embedded_model_is_found_where_the_gateway_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tmp_path / "c.yaml"
    config.write_text("engine: {model: smollm2-135m-instruct}\n")
    with pytest.raises(BenchError, match="--model-path"):
        vllm_preset(config, model_path=None, has_gpu=False)
    made = tmp_path / "gateway" / "models" / "smollm2-135m-instruct-0123456789ab"
    made.mkdir(parents=True)
    (made / "config.json").touch()

    _, peer, _ = vllm_preset(config, model_path=None, has_gpu=False)

    assert str(made) in peer.command


async def test_a_started_server_is_ready_and_gone_afterwards() -> None:
    port = free_port()
    command = [sys.executable, "-m", "bench.fake", "--port", str(port)]

    async with running_server(command, port) as server:
        assert psutil.pid_exists(server.pid)
        assert server.cpu_s() > 0
        assert server.base_url == f"http://127.0.0.1:{port}/v1"

    assert not psutil.pid_exists(server.pid)
    assert server.cpu_s() == 0


async def test_a_server_that_ends_early_shows_the_end_of_its_output() -> None:
    command = [sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"]

    with pytest.raises(BenchError, match=r"exit code 3 .*\nno such model"):
        async with running_server(command, free_port()):
            pass


async def test_a_server_that_is_never_ready_is_stopped_with_what_it_started() -> None:
    script = (
        "import subprocess, sys, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE);"
        "print(child.pid, flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", script]

    with pytest.raises(BenchError, match="not ready after 1 s") as raised:
        async with running_server(command, free_port(), start_timeout_s=1, stop_timeout_s=0.2):
            pass

    grandchild = int(str(raised.value).split()[-1])
    psutil.wait_procs([psutil.Process(grandchild)] if psutil.pid_exists(grandchild) else [], 10)
    assert (
        not psutil.pid_exists(grandchild)
        or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    )


async def test_a_program_that_does_not_exist_is_named() -> None:
    with pytest.raises(BenchError, match="can't run /no/such/program"):
        async with running_server(["/no/such/program"], free_port()):
            pass


async def test_two_servers_are_started_compared_and_stopped(tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "markdown", "svg")}
    outputs = [part for name, file in files.items() for part in (f"--{name}", str(file))]

    child = await started(
        "--server", f"fast={FAKE}", "--server", f"slow={FAKE} --token-delay 0.01",
        "--concurrency", "2", "--requests", "4", "--output-tokens", "8", "--rounds", "2",
        "--env", "OMP_NUM_THREADS=1", *outputs,
        module="bench.compare",
    )  # fmt: skip
    out, err = await child.communicate()

    assert child.returncode == 0, err.decode()
    assert files["markdown"].read_text("utf-8") == out.decode()
    found = json.loads(files["json"].read_text("utf-8"))
    assert [one["order"] for one in found["rounds"]] == [["fast", "slow"], ["slow", "fast"]]
    assert found["environment"] == {"OMP_NUM_THREADS": "1"}
    first, second = (one["records"] for one in found["rounds"])
    assert first["fast"]["tokens"] == first["slow"]["tokens"]
    assert first["fast"]["settings"]["seed"] != second["fast"]["settings"]["seed"]
    assert first["fast"]["server_cpu"]["s"] is not None
    assert first["fast"]["idle_server_cores"] is not None
    assert ET.fromstring(files["svg"].read_text("utf-8")).tag.endswith("svg")
    ports = [one["records"]["fast"]["server"]["base_url"] for one in found["rounds"]]
    assert len(set(ports)) == 1


async def test_two_servers_are_named_without_an_option(
    start_fake: StartFake, tmp_path: Path
) -> None:
    (one, first), (other, second) = await start_fake(Script()), await start_fake(Script())

    child = await started(
        f"a={first}", f"b={second}", "--concurrency", "1", "--requests", "2", "--rounds", "1",
        "--output-tokens", "3", "--json", str(tmp_path / "out.json"),
        module="bench.compare",
    )  # fmt: skip
    _, err = await child.communicate()

    assert child.returncode == 0, err.decode()
    assert json.loads((tmp_path / "out.json").read_text("utf-8"))["names"] == ["a", "b"]
    assert len(one.seen.bodies) == len(other.seen.bodies) == 3
    assert one.seen.bodies == other.seen.bodies


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("http://h/v1",),
        ("http://h/v1", "http://h/v1"),
        ("http://h/v1", "http://i/v1", "--server", "c=http://j/v1"),
        ("http://h/v1", "--preset", "vllm", "--config", "configs/default.yaml"),
        ("--server", "a=http://h/v1"),
        ("--server", "a=http://h/v1", "--server", "a=http://i/v1"),
        ("--preset", "vllm"),
        ("--server", "a=http://h/v1", "--server", "b=http://i/v1", "--env", "X"),
    ],
)
async def test_wrong_usage_of_a_comparison_exits_2(wrong: tuple[str, ...]) -> None:
    child = await started(*wrong, module="bench.compare")
    _, err = await child.communicate()

    assert child.returncode == 2
    assert b"Traceback" not in err


def living_children() -> set[int]:
    """Process ids below this one."""
    found = psutil.Process(os.getpid()).children(recursive=True)
    return {one.pid for one in found if one.is_running()}


async def test_a_contender_that_does_not_start_exits_2_by_name() -> None:
    before = living_children()  # other tests may have left multiprocessing's tracker
    child = await started(
        "--server", f"good={FAKE}", "--server", "bad={python} -c 1/0 {port}",
        module="bench.compare",
    )  # fmt: skip
    _, err = await child.communicate()

    assert child.returncode == 2
    assert "bad: the server ended with exit code 1" in err.decode()
    assert "ZeroDivisionError" in err.decode()
    assert not living_children() - before
