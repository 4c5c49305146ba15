"""The quantizing process: started, followed, and ended with this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from engine.models import Progress
from engine.quantize.errors import QuantizeError
from engine.quantize.job import Job

_ROOT = Path(__file__).resolve().parents[2]
_STAGES = {
    "load": "Loading the model",
    "quantize": "Quantizing layer by layer",
    "write": "Writing the checkpoint",
}


def run(job: Job, packages: Path, progress: Progress) -> dict[str, Any]:
    """Carry out `job`; returns what the process found out. Whatever happens, it has ended.

    Raises QuantizeError, with the log's last lines where the process died.
    """
    descriptor, log = tempfile.mkstemp(prefix="gateway-quantize-", suffix=".log")
    with os.fdopen(descriptor, "w") as written, tempfile.TemporaryDirectory() as scratch:
        order = Path(scratch) / "job.json"
        job.write(order)
        with subprocess.Popen(
            [sys.executable, "-m", "engine.quantize.worker", str(order)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
            env=_environment(packages),
        ) as child:
            try:
                said = _follow(child, job, progress)
            except BaseException:
                os.unlink(log)
                raise
            finally:
                child.terminate()
    if "facts" in said:
        os.unlink(log)
        facts: dict[str, Any] = said["facts"]
        return facts
    if "error" in said:
        os.unlink(log)
        raise QuantizeError(said["error"])
    raise QuantizeError(_why(child.returncode, Path(log)))


def _follow(child: subprocess.Popen[str], job: Job, progress: Progress) -> dict[str, Any]:
    """Show what the process says until it has ended; returns its last words."""
    words: dict[str, Any] = {}
    with progress.track(f"Quantizing with {job.settings.method}", None) as track:
        for line in child.stdout or ():
            words = json.loads(line)
            if "done" in words:
                track.update(words["done"], words["total"])
            elif "stage" in words:
                progress.say(_STAGES[words["stage"]])
    child.wait()
    return words


def _environment(packages: Path) -> dict[str, str]:
    """llm-compressor's packages go before those of this environment; nothing is fetched."""
    path = os.pathsep.join([str(packages), str(_ROOT)])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that wait by spinning take the CPU from those that work, where they are many.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        "LLM_COMPRESSOR_LOG_LEVEL": "WARNING",
    }


def _why(code: int, log: Path) -> str:
    with log.open(errors="replace") as lines:
        last = deque((line.rstrip() for line in lines if line.strip()), maxlen=5)
    tail = "\n".join(f"  {line}" for line in last)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    memory = "; the machine may be short of memory" if code == -9 else ""
    return f"the quantizing process {how}{memory}:\n{tail}\nAll of its output is in {log}"
