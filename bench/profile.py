"""`python -m bench.profile`: a flame graph of the serving process under streaming load."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from bench.cli.command import (
    Exit,
    at_least,
    command_parser,
    positive,
    run,
)
from bench.errors import BenchError
from bench.frontend.run import Served, load
from bench.frontend.servers import all_up, chosen_servers
from bench.frontend.work import Writer
from bench.tiny.servers import NAME, tiny_servers

_OUTPUT_TOKENS = 128
_TURNS = 2
_SEQUENCES = 256
_SAMPLES_PER_S = 200

_DESCRIPTION = """\
Start a server on a tiny model, keep it busy with streams, and draw where the Python code of its
serving process spends its time: a flame graph, by py-spy, that a browser shows. Every answer is
verified. The sampling itself costs the server some time: for figures there is bench.frontend.
"""

_EPILOG = """\
exit codes:
  0    the graph is written and no answer was wrong
  1    an answer was wrong
  2    wrong usage, the server doesn't start, or py-spy can't read it
  130  stopped by Ctrl-C
"""

_NO_RIGHTS = """\
py-spy may not read another process here. Run this as root, or allow it:
  sudo sysctl kernel.yama.ptrace_scope=0     until the next start of the machine
  docker run --cap-add SYS_PTRACE …          in a container (Kubernetes: capabilities.add)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = command_parser("python -m bench.profile", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("profile.svg"), metavar="FILE",
        help="default: profile.svg",
    )  # fmt: skip
    parser.add_argument(
        "--server", default="gateway", metavar="NAME[=COMMAND]",
        help=f"gateway, vllm, or a command that serves {{model}} as {NAME!r} on {{port}} "
        "(default: gateway)",
    )  # fmt: skip
    parser.add_argument(
        "--concurrency", type=at_least(1), default=256, metavar="N", help="default: 256"
    )
    parser.add_argument("--seconds", type=at_least(1), default=20, metavar="S", help="default: 20")
    parser.add_argument(
        "--start-timeout", type=positive, default=300.0, metavar="S",
        help="seconds to wait until the server is ready (default: 300)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    return run(lambda: _profile(args))


async def _profile(args: argparse.Namespace) -> Exit:
    spy = _py_spy()
    console = Console(stderr=True)
    with TemporaryDirectory(prefix="bench-profile-") as directory:
        engine = {"max_num_seqs": max(_SEQUENCES, args.concurrency)}
        tiny = tiny_servers(Path(directory), [], engine=engine, server={})
        contenders = chosen_servers([args.server], tiny)
        async with all_up(contenders, [], tiny.environment, args.start_timeout, console) as found:
            ((server, _),) = found
            streams = _Streams(server, Writer(tiny.model, NAME, seed=0), args.concurrency)
            with console.status(f"{args.concurrency:,} streams for {args.seconds} s"):
                await streams.some()  # the first ones would show what is done but once
                recording = asyncio.create_task(_record(spy, server.pid, args))
                try:
                    while not recording.done():
                        await streams.some()
                    await recording
                finally:
                    recording.cancel()
    print(f"{args.output}: {server.name}, {args.concurrency:,} streams, {args.seconds} s")
    for fault in streams.faults[:1]:
        print(f"{len(streams.faults)} wrong answers; the first: {fault}")
    return Exit.FAILED_REQUESTS if streams.faults else Exit.OK


class _Streams:
    """Load on a server, and what was wrong with its answers."""

    def __init__(self, server: Served, writer: Writer, concurrency: int) -> None:
        self.faults: list[str] = []
        self._server = server
        self._writer = writer
        self._concurrency = concurrency

    async def some(self) -> None:
        """Stream for a few seconds. Raises BenchError: the server is gone."""
        requests = self._writer.long(_TURNS * self._concurrency, _OUTPUT_TOKENS)
        done = await load(self._server, requests, self._concurrency, lambda _tokens: None)
        self.faults += done.faults()


def _py_spy() -> str:
    beside = str(Path(sys.executable).parent)
    found = shutil.which("py-spy") or shutil.which("py-spy", path=beside)
    if found is None:
        raise BenchError("py-spy is not installed: make setup-dev installs it")
    return found


async def _record(spy: str, pid: int, args: argparse.Namespace) -> None:
    """Raises BenchError: py-spy can't read the process, or write the file."""
    options = ["--format", "flamegraph", "--rate", str(_SAMPLES_PER_S)]
    options += ["--duration", str(args.seconds), "--output", str(args.output)]
    process = await asyncio.create_subprocess_exec(
        *(spy, "record", "--pid", str(pid), *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
    if process.returncode != 0:
        text = said.decode(errors="replace").strip()
        refused = "Permission denied" in text or "not permitted" in text
        raise BenchError(f"py-spy: {text}" + (f"\n{_NO_RIGHTS}" if refused else ""))


if __name__ == "__main__":
    sys.exit(main())
