from __future__ import annotations

import asyncio
import json
import signal
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bench.errors import BenchError
from bench.variants.__main__ import main
from bench.variants.variant import Variant, chosen, read_variants, shared_out
from gateway.config import load_config
from tests.bench.test_throughput import started

ROOT = Path(__file__).parents[2]
SERVER = f"{sys.executable} -m tests.bench.variant_server"
SMALL = ("--concurrency", "2", "--requests", "4", "--warmup", "0", "--output-tokens", "4")
BASE: dict[str, Any] = {"name": "base"}


class Bench:
    """Runs the command on a list of variants, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.json, self.seen = directory / "out.json", directory / "seen"
        self.markdown, self.svg = directory / "out.md", directory / "out.svg"
        self._list, self._config = directory / "variants.yaml", directory / "config.yaml"
        self._config.write_text("engine: {kind: simulated, cpu_threads: 6}\n", "utf-8")
        self._directory = directory

    async def start(self, variants: object, *more: str) -> asyncio.subprocess.Process:
        self._list.write_text(yaml.safe_dump(variants), "utf-8")
        return await started(
            *("--config", str(self._config), "--variants", str(self._list)),
            *("--checkpoints", str(self._directory / "none"), "--server", SERVER),
            *("--json", str(self.json), "--markdown", str(self.markdown), "--svg", str(self.svg)),
            *SMALL,
            *more,
            module="bench.variants",
            SEEN=str(self.seen),
        )

    async def run(self, variants: object, *more: str) -> tuple[int | None, str, str]:
        """Exit code, standard output and standard error."""
        child = await self.start(variants, *more)
        out, err = await child.communicate()
        return child.returncode, out.decode(), err.decode()

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.json.read_text("utf-8"))
        return found

    def notes(self, kind: str) -> list[str]:
        """What the servers wrote down, in order, without the state that all of them have."""
        lines = self.seen.read_text("utf-8").splitlines() if self.seen.exists() else []
        rest = [line.removeprefix(kind) for line in lines if line.startswith(kind)]
        return [line.replace(" state.url=sqlite://", "").strip() for line in rest]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_variants_are_measured_in_turns_between_two_runs_of_the_baseline(
    bench: Bench,
) -> None:
    slow = {"name": "slow", "about": "no compiler", "set": {"engine.compile": "off"}}

    code, out, err = await bench.run([BASE, slow], "--rounds", "2", "--seed", "5")

    assert code == 0, err
    assert bench.notes("start") == ["", "engine.compile=off", "", "engine.compile=off", ""]
    assert out == bench.markdown.read_text("utf-8")
    assert ET.fromstring(bench.svg.read_text("utf-8")).tag.endswith("svg")
    base, other = bench.record["variants"]
    assert [run["round"] for run in other["runs"]] == [1, 2]
    assert other["runs"][0]["report"]["settings"]["seed"] == 5
    assert other["figures"]["ttft_p50_ms"] > 20
    assert other["figures"]["speed_ratio"] < 1
    assert base["figures"]["speed_ratio"] == 1
    assert base["figures"]["memory_peak"] > 1024**2
    assert base["figures"]["start_s"] > 0
    assert bench.record["drift"] > 0
    told = [line.split(":")[0] for line in err.splitlines() if "total tokens/s" in line]
    assert told == [
        *("round 1 of 2, base", "round 1 of 2, slow"),
        *("round 2 of 2, base", "round 2 of 2, slow"),
        "base again",
    ]
    assert "no compiler (`engine.compile=off`)" in out


async def test_what_cannot_be_measured_is_shown_with_its_reason(bench: Bench) -> None:
    variants = [
        BASE,
        {"name": "impossible", "set": {"engine.dtype": "impossible"}},
        {"name": "failing", "set": {"engine.quantization": "broken"}},
    ]

    code, out, _ = await bench.run(variants)

    assert code == 1
    found = {entry["name"]: entry for entry in bench.record["variants"]}
    assert found["impossible"]["figures"]["total_tokens_per_s"] is None
    assert "exit code 1" in found["impossible"]["reason"]
    assert "this engine has no such dtype" in out
    assert found["failing"]["figures"]["failed_requests"] == 4
    assert "**failing**: requests failed" in out
    assert found["base"]["figures"]["total_tokens_per_s"] > 0


async def test_servers_of_one_variant_share_the_load_and_the_threads(bench: Bench) -> None:
    unmade = {"name": "unmade", "set": {"engine.model": "{checkpoints}/awq"}}

    code, out, err = await bench.run([BASE, {"name": "pair", "replicas": 2}, unmade])

    assert code == 0, err
    assert bench.notes("start") == ["", "engine.cpu_threads=3", "engine.cpu_threads=3", ""]
    alone, *pair, again = map(int, bench.notes("served"))
    assert sum(pair) == alone == again
    assert min(pair) > 0
    # A checkpoint that nobody has made is no failure.
    assert "**unmade was not measured**" in out


async def test_a_baseline_that_does_not_start_ends_it(bench: Bench) -> None:
    base = {"name": "base", "set": {"engine.dtype": "impossible"}}

    code, out, err = await bench.run([base])

    assert (code, out) == (2, "")
    assert "the baseline, base" in err
    assert "this engine has no such dtype" in err


async def test_ctrl_c_keeps_what_was_measured(bench: Bench) -> None:
    endless = {"name": "endless", "set": {"engine.dtype": "endless"}}
    child = await bench.start([BASE, endless])
    async with asyncio.timeout(120):
        while "engine.dtype=endless" not in bench.notes("start"):
            await asyncio.sleep(0.05)
    below = psutil.Process(child.pid).children(recursive=True)

    child.send_signal(signal.SIGINT)
    out, _ = await child.communicate()

    assert child.returncode == 130
    base, other = bench.record["variants"]
    assert base["figures"]["total_tokens_per_s"] > 0
    assert other["reason"] == "not measured before the end"
    assert "| endless | - |" in out.decode()
    assert not psutil.wait_procs(below, 10)[1]


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"name": "x"}, "expected a list"),
        ([{"about": "nameless"}], "entry 1: expected a mapping with a name"),
        ([BASE, {"name": "x", "sets": {}}], "entry 2: unknown key sets"),
        ([BASE, {"name": "x", "set": ["a"]}], "KEY: VALUE"),
        ([BASE, {"name": "x", "replicas": 0}], "at least 1"),
        ([BASE, BASE], "two of base"),
    ],
)
def test_a_list_that_can_not_be_read_says_where(
    tmp_path: Path, variants: object, said: str
) -> None:
    file = tmp_path / "list.yaml"
    file.write_text(yaml.safe_dump(variants), "utf-8")

    with pytest.raises(BenchError, match=said):
        read_variants(file)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--only", "base,none"), "no variant none; there are: base"),
        (("--previous", "configs/default.yaml"), "--previous configs/default.yaml: can't be read"),
        (("--previous", "bench/throughput.schema.json"), "not what --json of bench.variants"),
        (("--markdown", "/no/such/directory/x.md"), "there is no directory"),
        (("--rounds", "0"), "at least 1"),
        (("--concurency", "1"), "--concurency"),
    ],
)
def test_wrong_usage_exits_2_before_anything_is_started(
    more: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "list.yaml"
    file.write_text(yaml.safe_dump([BASE]), "utf-8")
    monkeypatch.chdir(ROOT)

    try:
        code = main(["--variants", str(file), "--server", "/no/such/program", *more])
    except SystemExit as exit:  # argparse's own way
        code = int(exit.code or 0)

    assert code == 2
    assert said in capfd.readouterr().err


def test_only_keeps_the_baseline() -> None:
    variants = [Variant("base"), Variant("a"), Variant("b")]

    assert [one.name for one in chosen(variants, "b")] == ["base", "b"]
    assert chosen(variants, None) == variants


def test_threads_that_are_given_are_not_shared_out(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("engine: {cpu_threads: 5}\n", "utf-8")
    given = Variant("x", settings={"engine.cpu_threads": 4}, replicas=2)

    assert shared_out(given, config) == given
    assert shared_out(Variant("x"), config) == Variant("x")
    assert shared_out(Variant("x", replicas=8), config).settings == {"engine.cpu_threads": 1}


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "variants").glob("*.yaml")))
def test_the_lists_that_are_shipped_name_keys_of_the_configuration(
    file: Path, tmp_path: Path
) -> None:
    for name in ("awq", "gptq", "w8a8", "fp8"):
        (tmp_path / name).mkdir()

    for variant in read_variants(file):
        pairs = (text.partition("=") for text in variant.assignments(tmp_path))
        load_config(overrides={key: yaml.safe_load(value) for key, _, value in pairs}, environ={})
