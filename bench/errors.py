"""What stops a benchmark before there is anything to report."""

from __future__ import annotations


class BenchError(Exception):
    """The benchmark can't start or go on; the message is ready to print. Exit code 2."""
