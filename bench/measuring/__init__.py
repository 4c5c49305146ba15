"""One measurement: its settings, when its requests go out, what comes back, and what it cost."""
