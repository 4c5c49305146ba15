"""The server under test, as `python -m tests.conformance` names it in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Target:
    """`root` is the server's address without `/v1`. `second_model` answers too, under a name of
    its own; `embedding_model` is empty where there is none."""

    root: str
    api_key: str
    model: str
    second_model: str
    embedding_model: str

    @property
    def base_url(self) -> str:
        """What OpenAI's clients want."""
        return self.root + "/v1"


TARGET: Final = Target(
    root=os.environ["CONFORMANCE_URL"],
    api_key=os.environ["CONFORMANCE_API_KEY"],
    model=os.environ["CONFORMANCE_MODEL"],
    second_model=os.environ["CONFORMANCE_SECOND_MODEL"],
    embedding_model=os.environ["CONFORMANCE_EMBEDDING_MODEL"],
)

# Long enough for a slow machine; a client's own retries would hide what fails.
TIMEOUT_S: Final = 120
