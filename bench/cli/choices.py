"""What the options of the load come to."""

from __future__ import annotations

import argparse

from bench.datasets.replay import read_rows
from bench.errors import BenchError
from bench.measuring.settings import Dataset, DatasetKind, Settings
from bench.measuring.slo import parse_slo

_CONCURRENCY = 32
_TOKENS = 128
_TURNS = 4
_BURSTINESS = 0.25
_FROM_FILES = ("sharegpt", "replay")
# Options that say nothing to other datasets.
_ONLY_FOR = {
    "dataset_path": _FROM_FILES,
    "prefix_tokens": ("shared-prefix",),
    "prefixes": ("shared-prefix",),
    "turns": ("multi-turn",),
    "replay_speed": ("replay",),
    "input_tokens": ("random", "shared-prefix", "multi-turn"),
}


def settings_from(args: argparse.Namespace) -> Settings:
    """Raises BenchError: options that contradict each other, or a file that can't be used."""
    dataset = _dataset(args)
    open_loop = args.rate is not None or dataset.kind == "replay"
    concurrency = args.concurrency or _CONCURRENCY
    _check_arrivals(args)
    slo = parse_slo(args.slo)
    if args.no_stream and (slo.ttft_ms or slo.tpot_ms):
        raise BenchError("--slo ttft and tpot need streamed answers: leave out --no-stream")
    if dataset.kind == "multi-turn" and args.endpoint != "chat":
        raise BenchError("--dataset multi-turn needs --endpoint chat")
    requests = _requests(args, dataset, concurrency)
    if not open_loop and args.duration is None and requests < concurrency:
        raise BenchError(
            f"--requests {requests} is below --concurrency {concurrency}, which could then "
            "never be reached"
        )
    return Settings(
        endpoint=args.endpoint,
        input_tokens=args.input_tokens or _TOKENS,
        output_tokens=args.output_tokens or _TOKENS,
        concurrency=concurrency,
        requests=requests,
        warmup=concurrency if args.warmup is None else args.warmup,
        seed=args.seed,
        stream=not args.no_stream,
        temperature=args.temperature,
        timeout_s=args.timeout,
        rate=args.rate,
        arrivals=args.arrivals or "poisson",
        burstiness=args.burstiness or _BURSTINESS,
        rate_end=args.rate_end,
        max_in_flight=args.concurrency if open_loop else None,
        duration_s=args.duration,
        slo=slo,
        dataset=dataset,
    )


def _dataset(args: argparse.Namespace) -> Dataset:
    kind: DatasetKind = args.dataset
    for name, kinds in _ONLY_FOR.items():
        if getattr(args, name) is not None and kind not in kinds:
            raise BenchError(
                f"--{name.replace('_', '-')} is for --dataset {' or '.join(kinds)}, not {kind}"
            )
    if kind in _FROM_FILES and args.dataset_path is None:
        raise BenchError(f"--dataset {kind} needs --dataset-path FILE")
    return Dataset(
        kind=kind,
        path=args.dataset_path,
        prefix_tokens=args.prefix_tokens,
        prefixes=args.prefixes or 1,
        turns=args.turns or _TURNS,
        replay_speed=args.replay_speed or 1.0,
        recorded_lengths=args.output_tokens is None,
    )


def _check_arrivals(args: argparse.Namespace) -> None:
    for name, kind in (("burstiness", "burst"), ("rate_end", "ramp")):
        if getattr(args, name) is not None and args.arrivals != kind:
            raise BenchError(f"--{name.replace('_', '-')} is for --arrivals {kind}")
    if args.arrivals is not None and args.rate is None:
        raise BenchError(f"--arrivals {args.arrivals} needs --rate, in requests a second")
    if args.arrivals == "ramp" and args.rate_end is None:
        raise BenchError("--arrivals ramp needs --rate-end, the rate to end with")


def _requests(args: argparse.Namespace, dataset: Dataset, concurrency: int) -> int:
    if dataset.kind == "replay" and dataset.path is not None:
        recorded = len(read_rows(dataset.path))
        return min(args.requests or recorded, recorded)
    return args.requests or 4 * concurrency
