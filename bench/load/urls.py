"""URLs of servers, which may have an API key before their host: `http://KEY@127.0.0.1:8000`."""

from __future__ import annotations

from urllib.parse import urlsplit


def key_of(url: str) -> str | None:
    """The key before the host of `url`, if there is one."""
    return urlsplit(url).username


def without_key(url: str) -> str:
    """`url` as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
