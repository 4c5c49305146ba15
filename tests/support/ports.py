"""Free ports, for servers in processes of their own."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port nobody listens on now; the kernel won't hand it out again soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
