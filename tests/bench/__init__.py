"""The benchmark client against scripted servers."""
