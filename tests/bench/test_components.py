"""Where a request's time goes: the parts, what they add up to, and the command."""

from __future__ import annotations

import asyncio
import json
import signal
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from bench.client import Failure
from bench.components.chart import to_svg
from bench.components.exchange import Trace
from bench.components.findings import Case, Cell, names, parts_ms
from bench.components.report import to_markdown
from bench.components.timing import ServerTiming, parse, parse_stream
from bench.fake import FakeServer, Script
from tests.bench.conftest import StartFake
from tests.bench.test_throughput import started

SMALL = ("--concurrency", "1,2", "--requests", "3", "--output-tokens", "4")
# A quarter of a millisecond of the total is nobody's.
TOLD = "auth;dur=0.125, parse;dur=0.25, prefill;dur=0.5, total;dur=1.125"
UNEXPLAINED_MS = 0.25


class TimedFake(FakeServer):
    """Says where its time went, as the gateway does."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(script)
        self.app.on_response_prepare.append(self._tell)

    async def _tell(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server-Timing"] = TOLD

    async def _stream(
        self, request: web.Request, body: Mapping[str, Any], usage: Mapping[str, int], fault: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        text = {"choices": [{"index": 0, "delta": {"content": " word"}}]}
        events = [f"data: {json.dumps(text)}"] * body["max_tokens"]
        events += [f": server-timing {TOLD}", f"data: {json.dumps({'usage': usage})}"]
        await response.write("\n\n".join([*events, "data: [DONE]", ""]).encode())
        return response


async def components(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `python -m bench.components`."""
    child = await started(*arguments, module="bench.components")
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


def request(total_ms: float, connect_ms: float = 0.0, **stages: float) -> Trace:
    """A request whose server accounts for all of `stages` and a quarter of a millisecond more."""
    server = ServerTiming(stages, sum(stages.values()) + UNEXPLAINED_MS)
    return Trace(8, 4, None, None, total_ms / 1000, connect_s=connect_ms / 1000, server=server)


def cell(*outcomes: Trace | Failure, stream: bool = True, concurrency: int = 1) -> Cell:
    return Cell(Case(stream, concurrency), outcomes)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("a;dur=1.5, total;dur=2", ServerTiming({"a": 1.5}, 2.0)),
        ('a;desc="x";dur=1,total;dur=2;desc="y"', ServerTiming({"a": 1.0}, 2.0)),
        ("miss, total;dur=2", ServerTiming({}, 2.0)),
        ("a;dur=1.5", None),
        ("", None),
    ],
)
def test_a_header_is_read_as_its_specification_says(
    told: str, expected: ServerTiming | None
) -> None:
    assert parse(told) == expected


def test_a_streams_comment_is_told_from_what_its_events_say() -> None:
    said = b'data: {"content": ": server-timing a;dur=9, total;dur=9"}\n\n'
    assert parse_stream(said) is None
    assert parse_stream(said + b": server-timing a;dur=1, total;dur=2\n\ndata: [DONE]\n\n") == (
        ServerTiming({"a": 1.0}, 2.0)
    )


def test_the_parts_of_a_request_add_up_to_what_its_client_saw() -> None:
    parts = parts_ms(request(10.0, connect_ms=1.0, parse=0.5, decode=6.0))
    assert parts == {
        "connect": 1.0,
        "network": 2.25,
        "parse": 0.5,
        "decode": 6.0,
        "unexplained": UNEXPLAINED_MS,
    }
    assert sum(parts.values()) == 10.0


def test_parts_are_named_in_the_order_of_a_requests_life_new_ones_behind_them() -> None:
    cells = [cell(request(9.0, tomorrow=1.0, decode=2.0, parse=1.0)), cell(request(9.0, auth=0.0))]
    assert names(cells) == ["network", "parse", "decode", "tomorrow", "unexplained"]


def test_the_request_that_is_drawn_is_the_one_of_median_duration() -> None:
    found = cell(*(request(total, decode=1.0) for total in (9.0, 3.0, 5.0, 4.0)))
    assert found.typical is not None
    assert 1000 * found.typical.e2el_s == 4.0


def test_a_part_that_some_requests_lack_counts_as_nothing_there() -> None:
    summary = cell(request(9.0, queue=4.0), request(9.0), request(9.0)).summary("queue")
    assert summary is not None
    assert (summary.count, summary.p50, summary.max) == (3, 0.0, 4.0)


def test_the_tables_have_every_part_of_every_case_and_what_is_unexplained() -> None:
    cells = [
        cell(request(5.0, decode=2.0)),
        cell(request(8.0, decode=4.0), Failure("http_500", "why", 0.1), concurrency=8),
        cell(request(6.0, decode=3.0), stream=False),
    ]
    text = to_markdown(cells, 0.5)
    streamed, whole = text.split("whole answers", 1)
    assert "| decode | 2.000 | 2.000 | 4.000 | 4.000 |" in streamed
    assert "| **total** | 5.000 | 5.000 | 8.000 | 8.000 |" in streamed
    assert "| unexplained | 0.250 | 0.250 |" in whole
    assert "but for at most 0.250 ms" in whole
    assert "round trip to the server takes 0.50 ms" in whole
    assert "streamed, 8 at once: 1 requests failed (http_500); the first: why" in whole


def test_the_picture_has_a_bar_for_every_part_as_long_as_its_share() -> None:
    found = cell(request(10.0, parse=2.5, decode=5.0))
    picture = ET.fromstring(to_svg("Time <of> it", [found], names([found])))
    texts = [one.text for one in picture.iter() if one.tag.endswith("text")]
    assert "streamed, 1 at once: 10.000 ms" in texts
    assert "5.000 ms, 50.00%" in texts
    bars = [one for one in picture.iter() if one.get("stroke-width") == "12"]
    spans = [[float(spot.split(",")[0]) for spot in bar.attrib["points"].split()] for bar in bars]
    # After the legend network, parse, decode and unexplained, then the same without decode.
    network, parse_bar, decode, _, *closer = spans[-7:]
    assert parse_bar[0] == pytest.approx(network[1], abs=0.1)
    assert decode[0] == pytest.approx(parse_bar[1], abs=0.1)
    assert decode[1] - decode[0] == pytest.approx(2 * (parse_bar[1] - parse_bar[0]), abs=0.3)
    assert "without prefill and decode: 5.000 ms" in texts
    assert closer[1][1] - closer[1][0] == pytest.approx(decode[1] - decode[0], abs=0.3)


def test_a_case_without_a_request_is_said_to_have_none() -> None:
    found = cell(Failure("timeout", "late", 1.0))
    assert "no request succeeded" in to_svg("Time", [found], ["network"])


async def test_each_case_is_measured_and_its_parts_are_reported(
    start_fake: StartFake, tmp_path: Path
) -> None:
    fake, url = await start_fake(Script(), TimedFake)
    files = {name: tmp_path / f"found.{name}" for name in ("json", "svg", "markdown")}
    options = [part for name, file in files.items() for part in (f"--{name}", str(file))]

    code, out, err = await components("--base-url", url, *SMALL, *options)

    assert code == 0, err
    report = json.loads(files["json"].read_text("utf-8"))
    cases = report["cases"]
    assert [(one["answers"], one["concurrency"], one["succeeded"]) for one in cases] == [
        ("streamed", 1, 3),
        ("streamed", 2, 3),
        ("whole", 1, 3),
        ("whole", 2, 3),
    ]
    for one in cases:
        assert one["parts_ms"]["prefill"]["p50"] == 0.5
        assert one["unexplained_most_ms"] == UNEXPLAINED_MS
        parts = one["median_request_ms"]
        assert set(parts) >= {"network", "auth", "parse", "prefill", "unexplained"}
        assert sum(parts.values()) == pytest.approx(one["total_ms"]["p50"])
    assert files["markdown"].read_text("utf-8") == out
    assert ET.parse(files["svg"]).getroot().tag.endswith("svg")
    assert len(fake.seen.bodies) == 1 + 2 * (1 + 2) + 4 * 3
    prompts = {json.dumps(body["messages"]) for body in fake.seen.bodies}
    assert len(prompts) == len(fake.seen.bodies)


async def test_a_server_that_does_not_say_where_its_time_goes_exits_2(
    start_fake: StartFake,
) -> None:
    _, url = await start_fake(Script())
    code, _, err = await components("--base-url", url, *SMALL)
    assert code == 2
    assert "server.server_timing=true" in err


async def test_a_failed_request_exits_1_and_is_explained(start_fake: StartFake) -> None:
    script = Script(fault=lambda number: "500" if number == 4 else None)
    _, url = await start_fake(script, TimedFake)
    code, out, _ = await components("--base-url", url, *SMALL, "--answers", "whole")
    assert code == 1
    assert "1 requests failed (http_500)" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--concurrency", "1,x"), "--concurrency"),
        (("--concurrency", "0"), "must be at least 1"),
        (("--svg", "/no/such/directory/a.svg"), "there is no directory"),
        (("--input-tokens", "4000", "--output-tokens", "4000"), "context"),
    ],
)
async def test_bad_options_exit_2_and_are_named(
    start_fake: StartFake, options: tuple[str, ...], said: str
) -> None:
    _, url = await start_fake(Script(), TimedFake)
    code, _, err = await components("--base-url", url, *options)
    assert code == 2
    assert said in " ".join(err.split())


async def test_ctrl_c_prints_what_was_measured_and_exits_130(
    start_fake: StartFake, tmp_path: Path
) -> None:
    stuck, file = asyncio.Event(), tmp_path / "found.json"

    def fault(number: int) -> str | None:
        # The first is the probe's, the second the warm-up's.
        if number <= 4:
            return None
        stuck.set()
        return "hang"

    _, url = await start_fake(Script(fault=fault), TimedFake)
    child = await started("--base-url", url, *SMALL, "--json", str(file), module="bench.components")
    await stuck.wait()
    child.send_signal(signal.SIGINT)
    out, _ = await child.communicate()

    assert child.returncode == 130
    assert "| **total** |" in out.decode()
    assert "Interrupted" in out.decode()
    report = json.loads(file.read_text("utf-8"))
    assert report["interrupted"] is True
    assert [one["succeeded"] for one in report["cases"]] == [2]


async def test_help_teaches_by_examples() -> None:
    code, out, _ = await components("--help")
    assert code == 0
    assert "--serve configs/default.yaml" in out
    assert "exit codes:" in out


async def test_a_gateway_that_is_started_for_it_tells_its_stages(tmp_path: Path) -> None:
    config, report = tmp_path / "gateway.yaml", tmp_path / "found.json"
    engine = {"kind": "simulated", "max_model_len": 512, "simulated": {"step_ms": 1}}
    config.write_text(yaml.safe_dump({"engine": engine, "state": {"url": "sqlite://"}}), "utf-8")

    code, _, err = await components(
        "--serve", str(config), *SMALL, "--input-tokens", "64", "--json", str(report)
    )

    assert code == 0, err
    found = json.loads(report.read_text("utf-8"))
    assert found["idle_round_trip_ms"] > 0
    for one in found["cases"]:
        stages = {"auth", "parse", "render", "queue", "prefill", "decode", "detokenize", "frame"}
        assert stages <= set(one["parts_ms"])
        # Of three requests the middle one is the median.
        total = one["total_ms"]["p50"]
        assert sum(one["median_request_ms"].values()) == pytest.approx(total, rel=1e-6)
        assert one["unexplained_most_ms"] < 0.05  # stages are rounded to a microsecond
