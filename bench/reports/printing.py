"""A measurement as people read it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

_LATENCIES = ("ttft", "tpot", "itl", "e2el")
_COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")
_LATE_MS = 5.0


def print_report(record: dict[str, Any], console: Console) -> None:
    """The tables of a record as `report.to_record` makes it, and what to know of them."""
    for line in (_server(record), _load(record), _requests(record), *record["prompts"]["notes"]):
        console.print(line)
    console.print(_throughput_table(record))
    console.print(_latency_table(record))
    if record["servers"]:
        console.print(_servers_table(record))
    for line in (*_goodput(record), *_open_loop(record), *_remarks(record)):
        console.print(line)
    if record["failures"]:
        console.print(_failure_table(record))
    else:
        console.print("[green]0 failures[/]")


def _server(record: dict[str, Any]) -> str:
    server, servers = record["server"], record["servers"]
    version = " ".join(str(part) for part in (server["header"], server["version"]) if part)
    where = ", then ".join(one["base_url"] for one in servers) or server["base_url"]
    return f"[bold]{server['model']}[/] at {where} ({version or 'no version'})"


def _load(record: dict[str, Any]) -> str:
    settings, requests = record["settings"], record["requests"]
    mode = "streamed" if settings["stream"] else "not streamed"
    dataset = settings["dataset"]["kind"]
    return (
        f"{settings['endpoint']}, {mode}, {dataset}, {_lengths(settings)}, {_pace(settings)} "
        f"(in flight: mean {requests['in_flight_mean']:.1f}, peak {requests['in_flight_peak']}), "
        f"seed {settings['seed']}"
    )


def _lengths(settings: dict[str, Any]) -> str:
    dataset = settings["dataset"]
    from_file = dataset["kind"] in ("sharegpt", "replay")
    prompts = "recorded" if from_file else settings["input_tokens"]
    answers = "recorded" if from_file and dataset["recorded_lengths"] else settings["output_tokens"]
    return f"{prompts} in / {answers} out"


def _pace(settings: dict[str, Any]) -> str:
    limit = settings["max_in_flight"]
    most = f", at most {limit} in flight" if limit is not None else ""
    if settings["rate"] is not None:
        end = f" to {settings['rate_end']:g}" if settings["rate_end"] is not None else ""
        return f"{settings['rate']:g}{end} requests/s, {settings['arrivals']}{most}"
    if settings["dataset"]["kind"] == "replay":
        return f"replayed at {settings['dataset']['replay_speed']:g} times the speed{most}"
    return f"concurrency {settings['concurrency']}"


def _requests(record: dict[str, Any]) -> str:
    settings, requests = record["settings"], record["requests"]
    warmup = requests["warmup_succeeded"] + requests["warmup_failed"]
    interrupted = " [yellow](interrupted)[/]" if record["interrupted"] else ""
    total, begun = settings["requests"], ""
    if settings["duration_s"] is not None:
        total = requests["succeeded"] + requests["failed"] + requests["abandoned"]
        begun = f" begun within {settings['duration_s']:g} s, over"
    return (
        f"{requests['succeeded']} of {total} requests{begun} in {record['duration_s']:.2f} s, "
        f"after {warmup} of warm-up{interrupted}"
    )


def _throughput_table(record: dict[str, Any]) -> Table:
    table = Table(title="Throughput", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rates = record["throughput"]
    table.add_row("total tokens/s (in + out)", f"[bold]{rates['total_tokens_per_s']:,.1f}[/]")
    table.add_row("output tokens/s", f"{rates['output_tokens_per_s']:,.1f}")
    table.add_row("input tokens/s", f"{rates['input_tokens_per_s']:,.1f}")
    table.add_row("requests/s", f"{rates['requests_per_s']:,.3f}")
    return table


def _latency_table(record: dict[str, Any]) -> Table:
    table = Table(title="Latency, ms", title_justify="left")
    table.add_column()
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    rows = {name.upper(): record["latency_ms"][name] for name in _LATENCIES}
    if record["open_loop"] is not None:
        due = record["open_loop"]["latency_from_due_ms"]
        rows |= {"TTFT from due": due["ttft"], "E2EL from due": due["e2el"]}
        rows |= {"sent late": record["open_loop"]["sent_late_ms"]}
    for name, summary in rows.items():
        table.add_row(name, *(f"{summary[column]:,.1f}" if summary else "-" for column in _COLUMNS))
    return table


def _servers_table(record: dict[str, Any]) -> Table:
    table = Table(title="Each server", title_justify="left")
    table.add_column(no_wrap=True)
    for column in ("requests", "failed", "total tok/s", "TTFT p50", "TPOT p50", "E2EL p99"):
        table.add_column(column, justify="right")
    for server in record["servers"]:
        latency = server["latency_ms"]
        cells = (("ttft", "p50"), ("tpot", "p50"), ("e2el", "p99"))
        table.add_row(
            urlsplit(server["base_url"]).netloc,
            str(server["requests"]["succeeded"]),
            str(server["requests"]["failed"]),
            f"{server['throughput']['total_tokens_per_s']:,.1f}",
            *(f"{latency[name][rank]:,.1f}" if latency[name] else "-" for name, rank in cells),
        )
    return table


def _failure_table(record: dict[str, Any]) -> Table:
    table = Table(title="[red]Failures[/], warm-up included", title_justify="left")
    table.add_column("kind")
    table.add_column("count", justify="right")
    table.add_column("the first one")
    for kind, seen in record["failures"].items():
        # Text from a server is shown as it is, not read as markup.
        table.add_row(kind, str(seen["count"]), seen["example"].replace("[", r"\["))
    return table


def _goodput(record: dict[str, Any]) -> list[str]:
    goodput, slo = record["goodput"], record["settings"]["slo"]
    if goodput is None:
        return []
    bounds = ", ".join(
        f"{name.removesuffix('_ms').upper()} ≤ {ms:g} ms" for name, ms in slo.items() if ms
    )
    share = "none" if goodput["share"] is None else f"{goodput['share']:.1%}"
    return [
        f"[bold]{share}[/] met {bounds}: goodput {goodput['requests_per_s']:,.3f} requests/s, "
        f"{goodput['output_tokens_per_s']:,.1f} output tokens/s"
    ]


def _open_loop(record: dict[str, Any]) -> list[str]:
    found, limit = record["open_loop"], record["settings"]["max_in_flight"]
    if found is None:
        return []
    lines = []
    if found["held_by_limit"]:
        lines.append(
            f"[yellow]{found['held_by_limit']} requests were sent late, as {limit} were in flight:"
            "[/] the server, or --concurrency, is below the rate."
        )
    if found["never_sent"]:
        lines.append(f"[yellow]{found['never_sent']} were due and had no room until the end.[/]")
    late = found["sent_late_ms"]
    if late and late["p99"] > _LATE_MS and not found["held_by_limit"]:
        lines.append(
            f"[yellow]The client sent late by itself (p99 {late['p99']:.1f} ms):[/] it, or the "
            "machine, is too busy for this rate."
        )
    return lines


def _remarks(record: dict[str, Any]) -> list[str]:
    tokens, remarks = record["tokens"], []
    lengths = [tokens["input_per_request"], tokens["output_per_request"]]
    if any(one and one["min"] < one["max"] for one in lengths):
        means, longest = (tuple(one[name] for one in lengths) for name in ("mean", "max"))
        remarks.append(
            f"A request has {means[0]:,.1f} tokens in and {means[1]:,.1f} out on average, "
            f"{longest[0]:,.0f} and {longest[1]:,.0f} at most."
        )
    per_chunk, cached = tokens["per_chunk"], tokens["input_cached"]
    if per_chunk is not None and per_chunk > 1.05:
        remarks.append(
            f"{per_chunk:.2f} tokens per chunk: ITL is the time between chunks, not tokens."
        )
    if per_chunk is not None and per_chunk < 1:
        remarks.append(
            f"[yellow]{1 / per_chunk:.2f} chunks with text per token:[/] the server sends text "
            "more than once, or states fewer tokens than there are."
        )
    if cached:
        share = cached / tokens["input"]
        remarks.append(f"{share:.1%} of the input tokens came from the server's prefix cache.")
    client = record["client"]
    if client["may_be_bottleneck"]:
        lag = client["loop_lag_ms"]
        late = f", and its event loop was late (p99 {lag['p99']:.0f} ms)" if lag else ""
        remarks.append(
            f"[yellow]The client may be the bottleneck:[/] it used "
            f"{client['cpu_share_of_one_core']:.0%} of a core{late}. Latencies may be too long by "
            "as much; give it a core or a machine of its own."
        )
    return remarks
