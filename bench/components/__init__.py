"""Where the time of a request goes: `python -m bench.components`."""
