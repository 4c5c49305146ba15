"""`gateway plan`: which precision of a model fits a device, and how fast it runs there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands import Exit, errors_in_json, fail, finite

if TYPE_CHECKING:
    from engine.models import CheckpointFacts
    from engine.planning import Load, Machine


def plan(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A local directory (its config.json suffices), a Hugging Face id, or the embedded "
            "model, which is the default.",
        ),
    ] = "smollm2-135m-instruct",
    gpu: Annotated[
        str,
        typer.Option(
            "--gpu",
            "-g",
            metavar="DEVICE",
            help="t4, a10, l4, a100-40g, a100-80g, h100, h200; or [b]cpu[/b]: this machine's, "
            "measured on the spot.",
        ),
    ] = "cpu",
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Requests at once.")
    ] = 32,
    input_tokens: Annotated[
        int, typer.Option("--input", min=1, metavar="TOKENS", help="Prompt tokens of a request.")
    ] = 128,
    output_tokens: Annotated[
        int,
        typer.Option("--output", min=1, metavar="TOKENS", help="Completion tokens of a request."),
    ] = 128,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="Only this one: bf16, fp16, fp8, w8a8, awq, gptq or fp32. [b]auto[/b]: all of "
            "them, and which to take.",
        ),
    ] = "auto",
    gpus: Annotated[
        int, typer.Option("--gpus", help="GPUs that share every layer: 1, 2, 4 or 8.")
    ] = 1,
    target: Annotated[
        float | None,
        typer.Option(
            "--target-tokens-per-s",
            min=0,
            metavar="N",
            callback=finite,
            help="Output tokens a second, of all requests together, that have to be reached.",
        ),
    ] = None,
    memory_gib: Annotated[
        float | None,
        typer.Option(
            "--memory-gib",
            min=0.1,
            max=1_000_000,
            callback=finite,
            help="Memory of one device, where it differs from the table.",
        ),
    ] = None,
    cpu_bandwidth: Annotated[
        float | None,
        typer.Option(
            "--cpu-bandwidth",
            min=0.1,
            metavar="GB/S",
            callback=finite,
            help="Instead of measuring it.",
        ),
    ] = None,
    cpu_flops: Annotated[
        float | None,
        typer.Option(
            "--cpu-flops",
            min=0.1,
            metavar="GFLOP/S",
            callback=finite,
            help="Instead of measuring it.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The plan as JSON.", callback=errors_in_json)
    ] = False,
) -> None:
    """Say which precision of a model fits a device, and how fast it runs there.

    One row for each precision the device runs: weights, KV cache, how many sequences it holds, and
    a roofline's prediction of times and tokens a second. Below it the precision to take, and the
    arithmetic with its numbers put in. Needs no GPU. docs/plan.md explains every term.

    [b]Examples[/b]

      gateway plan                                      the embedded model on this CPU
      gateway plan -m mistralai/Mistral-7B-Instruct-v0.3 --gpu t4 --target-tokens-per-s 200
      gateway plan -m ./my-model --gpu a10 -c 64 --input 1024 --output 256
      gateway plan -m meta-llama/Llama-3.1-8B-Instruct --gpu a10 --gpus 2 --precision fp16
      gateway plan --gpu cpu -c 8 --json | jq .rows

    [b]Exit codes[/b]  0 it fits (and reaches the target) · 2 wrong usage or unknown model ·
    3 no precision fits, or none reaches the target
    """
    from engine.models import ModelError, find_facts
    from engine.planning import (
        Load,
        PlanError,
        cpu_platform,
        find_precisions,
        gpu_platform,
        make_plan,
    )
    from gateway.commands.plan_output import as_record, print_plan

    try:
        precisions = find_precisions(precision)
        facts = find_facts(model, online=True)
        load = Load(concurrency, input_tokens, output_tokens)
        if gpu.strip().lower() != "cpu":
            platform = gpu_platform(gpu, gpus, memory_gib)
        elif gpus == 1:
            machine = _measure(facts, load, cpu_bandwidth, cpu_flops)
            platform = cpu_platform(machine, memory_gib)
        else:
            raise PlanError("--gpus: a CPU is one device; leave it out, or name a GPU with --gpu")
    except (ModelError, PlanError) as error:
        fail(str(error), Exit.INVALID)
    made = make_plan(facts, platform, load, precisions=precisions, target=target)
    if as_json:
        typer.echo(json.dumps(as_record(made), indent=2))
    else:
        print_plan(made)
    raise typer.Exit(Exit.OK if made.taken else Exit.DOES_NOT_FIT)


def _measure(
    facts: CheckpointFacts, load: Load, bandwidth_gb: float | None, gflops: float | None
) -> Machine:
    from rich.console import Console

    from engine.planning import measure

    with Console(stderr=True).status("Measuring what this machine reaches …"):
        return measure(facts, load, bandwidth_gb=bandwidth_gb, gflops=gflops)
