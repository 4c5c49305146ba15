"""Download from the Hugging Face hub, with errors that say what to do.

Which files are wanted is decided from the repository's own list, so that weights come once even
where a repository holds them in several formats.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import httpx2
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.std import tqdm  # type: ignore[import-untyped]

from engine.models.directory import check_directory, weight_files
from engine.models.errors import ModelError
from engine.models.progress import Progress, Track

_SIDE_FILES = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_NO_ANSWER = (httpx2.TransportError, OfflineModeIsEnabled)


class Check(Protocol):
    """Raises ModelError unless a directory is complete."""

    def __call__(self, path: Path, *, weights: bool = True) -> None: ...


def wanted_files(names: Iterable[str], *, weights: bool = True) -> list[str]:
    """Of a repository's files those an engine reads: all top-level configuration and tokenizer
    files, and one set of weights."""
    listed = list(names)
    side = [
        name
        for name in listed
        if "/" not in name
        and (name.endswith(_SIDE_FILES) or name.startswith("tokenizer.model"))
        and (weights or not name.endswith(".index.json"))
    ]
    return side + (weight_files(listed) if weights else [])


def download(
    name: str,
    revision: str | None,
    progress: Progress,
    *,
    weights: bool = True,
    check: Check = check_directory,
) -> Path:
    """Bring a repository's wanted files into the Hugging Face cache; return the snapshot.

    With HF_HUB_OFFLINE, or where the hub doesn't answer, a complete cached copy is used. `check`
    says what is complete. Raises ModelError.
    """
    if constants.is_offline_mode():
        offline = "HF_HUB_OFFLINE is set; unset it to download"
        return _cached(name, revision, offline, check, weights=weights)
    try:
        path = _fetch(name, revision, progress, weights=weights)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _refused(name, revision, error) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise _refused(name, revision, error) from error
        reason = f"the hub at {constants.ENDPOINT} answered {status}"
        path = _cached(name, revision, reason, check, weights=weights, cause=error)
        progress.say(f"{name}: {reason}; using the copy in the cache.")
    except (*_NO_ANSWER, LocalEntryNotFoundError) as error:
        reason = f"the hub at {constants.ENDPOINT} can't be reached"
        path = _cached(name, revision, reason, check, weights=weights, cause=error)
        progress.say(f"{name}: {reason}; using the copy in the cache.")
    except OSError as error:
        raise ModelError(
            f"{name} can't be written to {constants.HF_HUB_CACHE}: {error.strerror or error}; "
            "make room, or set HF_HOME to a directory that can be written"
        ) from error
    check(path, weights=weights)
    return path


def _fetch(name: str, revision: str | None, progress: Progress, *, weights: bool) -> Path:
    info = HfApi().model_info(name, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = wanted_files(sizes, weights=weights)
    if weights and not weight_files(wanted):
        raise ModelError(f"{name} holds no weights an engine can load (*.safetensors)")
    total = sum(sizes[file] for file in wanted)
    progress.say(f"Fetching {name} ({_readable(total)}), unless it is in the cache already.")
    with progress.track("Downloading", total, "bytes") as track:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[glob.escape(file) for file in wanted],
                tqdm_class=_bar_class(track, total),
            )
        )


def _cached(
    name: str,
    revision: str | None,
    reason: str,
    check: Check,
    *,
    weights: bool,
    cause: Exception | None = None,
) -> Path:
    try:
        path = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:
        # Judged by what an engine needs, not by all that the repository holds.
        path = Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{name} is not in the cache ({constants.HF_HUB_CACHE}) and {reason}"
        ) from cause
    try:
        check(path, weights=weights)
    except ModelError as error:
        raise ModelError(f"{error}; {reason}") from cause
    return path


def _refused(name: str, revision: str | None, error: HfHubHTTPError) -> ModelError:
    page = f"{constants.ENDPOINT}/{name}"
    has_token = bool(os.environ.get("HF_TOKEN")) or Path(constants.HF_TOKEN_PATH).is_file()
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{name} has no revision {revision!r}; see {page}/tree/main")
    if isinstance(error, GatedRepoError):
        if has_token:
            return ModelError(
                f"{name} is gated and your token has no access yet: ask for it at {page}"
            )
        return ModelError(
            f"{name} is gated: accept its terms at {page}, then set HF_TOKEN to a token from "
            f"{constants.ENDPOINT}/settings/tokens (or run `hf auth login`)"
        )
    if isinstance(error, RepositoryNotFoundError):
        hint = "your token can't see it" if has_token else "it is private: then set HF_TOKEN"
        return ModelError(f"{name} doesn't exist at {constants.ENDPOINT}, or {hint}")
    return ModelError(f"{constants.ENDPOINT} refused access to {name}: check HF_TOKEN")


def _bar_class(track: Track, total: int) -> type[Any]:
    class Reporter(tqdm):  # type: ignore[misc]
        """Several byte bars count the same download; the furthest one tells how far it is."""

        monitor_interval = 0
        furthest = 0.0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs |= {"disable": False, "file": io.StringIO(), "mininterval": 0.2}
            kwargs.pop("name", None)
            super().__init__(*args, **kwargs)

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if self.unit == "B" and self.n > Reporter.furthest:
                Reporter.furthest = self.n
                track.update(min(self.n, total), total)
            return True

    return Reporter


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
