"""Hugging Face ids, against a hub of our own on a loopback socket.

The client reads its environment when it is imported, so each question is asked by a process of
its own, as a user's start would be.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"# tiny",
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 1000,
    "consolidated.safetensors": b"the same again",
    "pytorch_model.bin": b"and again",
    "original/params.json": b"{}",
}
SCRIPT = """
import json, sys
from engine.models import ModelError, resolve
name, options = sys.argv[1], json.loads(sys.argv[2])
try:
    found = resolve(name, **options)
except ModelError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({"path": str(found.path), "source": found.source}))
"""


@dataclass
class Hub:
    """Serves `FILES` as org/tiny; other names fail as the real hub does."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    broken: int = 0

    def refusal(self, path: str) -> tuple[int, str] | None:
        if self.broken:
            return self.broken, ""
        if "org/gated" in path:
            # The real hub shows the listing of a gated repository and refuses its files.
            return (403, "GatedRepo") if "/resolve/" in path else None
        if "org/tiny" not in path:
            return 401, "RepoNotFound"
        if "no-such-branch" in path:
            return 404, "RevisionNotFound"
        return None


class Answer(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.requests.append(self.path)
        refused = self.hub.refusal(self.path)
        if refused is not None:
            self.reply(refused[0], b"{}", {"X-Error-Code": refused[1]} if refused[1] else {})
        elif "/tree/" in self.path:
            entries = [
                {"type": "file", "path": name, "size": len(body), "oid": f"{index:040x}"}
                for index, (name, body) in enumerate(FILES.items())
            ]
            self.reply(200, json.dumps(entries).encode(), {})
        elif self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name, "size": len(body)} for name, body in FILES.items()]
            info = {"id": "org/tiny", "sha": COMMIT, "siblings": siblings}
            self.reply(200, json.dumps(info).encode(), {})
        else:
            name = self.path.partition(f"/resolve/{COMMIT}/")[2]
            headers = {"ETag": f'"{zlib.crc32(name.encode()):x}"', "X-Repo-Commit": COMMIT}
            self.reply(200, FILES[name], headers)

    def do_HEAD(self) -> None:
        self.do_GET()

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()
    answer = type("BoundAnswer", (Answer,), {"hub": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def ask(
    name: str, home: Path, endpoint: str, options: dict[str, Any] | None = None, **extra: str
) -> tuple[dict[str, str], str]:
    """What `resolve` answers in a fresh process, and what it wrote to stderr."""
    dropped = ("HF_", "HTTP", "http", "ALL_PROXY", "all_proxy", "TRANSFORMERS_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, json.dumps(options or {})],
        env=environment | extra,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer, done.stderr


def test_a_repository_is_downloaded_without_its_duplicates(hub: Hub, tmp_path: Path) -> None:
    answer, stderr = ask("org/tiny", tmp_path, hub.url)
    path = Path(answer["path"])
    assert answer["source"] == "hub"
    assert sorted(file.name for file in path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert stderr == "Fetching org/tiny (256 kB), unless it is in the cache already.\n"


def test_a_second_start_downloads_nothing_again(hub: Hub, tmp_path: Path) -> None:
    first, _ = ask("org/tiny", tmp_path, hub.url)
    hub.requests.clear()
    second, _ = ask("org/tiny", tmp_path, hub.url)
    assert first == second
    assert not [path for path in hub.requests if "/resolve/" in path]


def test_offline_uses_the_cache_and_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    first, _ = ask("org/tiny", tmp_path, hub.url)
    hub.requests.clear()
    second, _ = ask("org/tiny", tmp_path, hub.url, HF_HUB_OFFLINE="1")
    assert first == second
    assert hub.requests == []


def test_offline_and_not_cached_says_how_to_download(hub: Hub, tmp_path: Path) -> None:
    answer, _ = ask("org/tiny", tmp_path, hub.url, HF_HUB_OFFLINE="1")
    assert "org/tiny is not in the cache" in answer["error"]
    assert "HF_HUB_OFFLINE is set" in answer["error"]
    assert hub.requests == []


def test_a_hub_that_can_not_be_reached_is_said_so(tmp_path: Path) -> None:
    with socket.socket() as bound:
        # Ours, but not listening: connections are refused.
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        answer, _ = ask("org/tiny", tmp_path, endpoint)
    assert f"{endpoint} can't be reached" in answer["error"]


@pytest.mark.parametrize("status", [500, 503])
def test_a_failing_hub_leaves_the_cached_copy_usable(hub: Hub, tmp_path: Path, status: int) -> None:
    first, _ = ask("org/tiny", tmp_path, hub.url)
    hub.broken = status
    second, stderr = ask("org/tiny", tmp_path, hub.url)
    assert first == second
    assert f"answered {status}; using the copy in the cache" in stderr


def test_an_incomplete_cached_copy_is_not_used(hub: Hub, tmp_path: Path) -> None:
    first, _ = ask("org/tiny", tmp_path, hub.url)
    (Path(first["path"]) / "model.safetensors").unlink()
    answer, _ = ask("org/tiny", tmp_path, hub.url, HF_HUB_OFFLINE="1")
    assert "lacks weights" in answer["error"]


def test_a_missing_repository_is_said_to_be_missing(hub: Hub, tmp_path: Path) -> None:
    answer, _ = ask("org/nothing", tmp_path, hub.url)
    assert "org/nothing doesn't exist" in answer["error"]
    assert "HF_TOKEN" in answer["error"]


def test_a_missing_revision_is_said_to_be_missing(hub: Hub, tmp_path: Path) -> None:
    answer, _ = ask("org/tiny", tmp_path, hub.url, {"revision": "no-such-branch"})
    assert "no revision 'no-such-branch'" in answer["error"]


def test_a_gated_repository_without_a_token_asks_for_one(hub: Hub, tmp_path: Path) -> None:
    answer, _ = ask("org/gated", tmp_path, hub.url)
    assert f"accept its terms at {hub.url}/org/gated, then set HF_TOKEN" in answer["error"]


def test_a_gated_repository_with_a_token_asks_for_access(hub: Hub, tmp_path: Path) -> None:
    answer, _ = ask("org/gated", tmp_path, hub.url, HF_TOKEN="hf_wrong")
    assert "your token has no access yet" in answer["error"]
    assert "hf_wrong" not in answer["error"]


def test_random_weights_are_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    answer, _ = ask("org/tiny", tmp_path, hub.url, {"weights": False})
    names = sorted(file.name for file in Path(answer["path"]).iterdir())
    assert names == ["config.json", "tokenizer.json"]
