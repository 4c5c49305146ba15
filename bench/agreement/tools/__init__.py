"""The load tools, by name. Ours is the measure, the others are what is compared."""

from __future__ import annotations

from pathlib import Path

from bench.agreement.tool import Tool
from bench.agreement.tools.guidellm import GuideLLM
from bench.agreement.tools.k6 import K6
from bench.agreement.tools.locust import Locust
from bench.agreement.tools.throughput import Throughput
from bench.agreement.tools.vllm import VllmBenchServe

OURS: Tool = Throughput()
NAMES = ("vllm", "guidellm", "locust", "k6")


def other_tools(home: Path) -> dict[str, Tool]:
    """All of NAMES; `home` is the environment the Python ones are installed in."""
    tools: tuple[Tool, ...] = (VllmBenchServe(home), GuideLLM(home), Locust(home), K6())
    return {tool.name: tool for tool in tools}


def missing(name: str, home: Path) -> str:
    """What to say of a tool that isn't installed."""
    if name == "k6":
        return (
            "there is no k6 on PATH; install it as "
            "https://grafana.com/docs/k6/latest/set-up/install-k6/ says"
        )
    return f"it isn't installed in {home}; install it with `make load-tools`"
