"""The engines that the contract's tests are tried on."""

from __future__ import annotations

import pytest


# Of session scope, so that pytest keeps the tests of one engine together: starting one takes long.
@pytest.fixture(
    params=[
        "simulated",
        pytest.param("smollm2", marks=pytest.mark.engine),
        pytest.param("public", marks=pytest.mark.engine),
    ],
    scope="session",
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
