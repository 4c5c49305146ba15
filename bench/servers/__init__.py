"""The servers that are measured: found running, or started as people named them, and stopped."""
