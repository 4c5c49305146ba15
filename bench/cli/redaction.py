"""What others may read of a command: no keys and no passwords."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HIDDEN = "REDACTED"
_SECRETS = {"key", "keys", "apikey", "token", "secret", "secrets", "password", "passwd"}
# Before the host of a URL: a password after its user, or a key alone.
_CREDENTIAL = re.compile(r"(://(?:[^/?#\s:@]*:)?)[^/?#\s]+@")


def redacted(words: Sequence[str]) -> list[str]:
    """A command as others may read it: no values of options and variables whose names say that
    they are secret, alone or within a command that is one word, and no password or key of a URL."""
    shown, hidden = [], False
    for word in words:
        if hidden:
            shown.append(_HIDDEN)
        elif re.search(r"\s", word):
            parts = re.split(r"(\s+)", word)
            parts[::2] = redacted(parts[::2])
            shown.append("".join(parts))
        else:
            name, is_assignment, value = word.partition("=")
            if is_assignment:
                word = f"{name}={_HIDDEN if is_secret(name) else redacted([value])[0]}"
            shown.append(_CREDENTIAL.sub(rf"\1{_HIDDEN}@", word))
        hidden = not hidden and word.startswith("-") and "=" not in word and is_secret(word)
    return shown


def is_secret(name: str) -> bool:
    """`--api-key`, `HF_TOKEN`, but not `--max-tokens`."""
    return not _SECRETS.isdisjoint(re.split(r"[^a-z]+", name.lower()))
