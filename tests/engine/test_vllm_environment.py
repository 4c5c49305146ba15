"""What vLLM, torch and the loader are told of this machine's paths."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.vllm_environment import compiler_problem, engine_processes, preloads_undone

CACHE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a machine on which models can be compiled."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    return {"CXX": sys.executable, CACHE: str(tmp_path)}


def test_nothing_is_compiled_where_a_path_can_not_be_given_to_the_compiler(
    compiler: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiler_problem(compiler) is None
    assert "a space or a quote: /a b/cache" in str(
        compiler_problem({**compiler, CACHE: "/a b/cache"})
    )
    for name in ("prefix", "base_prefix"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, "/john's/.venv")
            assert "/john's/.venv" in str(compiler_problem(compiler))


@pytest.mark.parametrize("folder", ["/a b", "/ab"])
def test_the_engine_preloads_only_what_the_loader_finds(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preloads = f"/users/own.so:{folder}/libgomp.so"
    monkeypatch.setattr(sys, "prefix", folder)
    monkeypatch.setenv("LD_PRELOAD", preloads)
    with engine_processes(EngineConfig(), str(tmp_path), cpu=True, in_process=True):
        assert os.environ["LD_PRELOAD"] == ("/users/own.so" if " " in folder else preloads)
    assert os.environ["LD_PRELOAD"] == preloads


@pytest.mark.parametrize("before", [None, "/users/own.so"])
def test_what_vllm_preloads_into_its_engine_is_not_inherited_by_others(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    if before:
        monkeypatch.setenv("LD_PRELOAD", before)
    with preloads_undone():
        monkeypatch.setenv("LD_PRELOAD", "libgomp.so")
    assert os.environ.get("LD_PRELOAD") == before
