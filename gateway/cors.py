"""Cross-origin requests: which web pages may read our answers.

Browsers ask before they send (a preflight), and show a page only those headers that are exposed.
Source: WHATWG Fetch, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway.config import CorsConfig
from gateway.errors import InvalidRequestError

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_EXPOSED = (
    "x-request-id",
    "request-id",
    "x-client-request-id",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "server-timing",
    "x-should-retry",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
)


class Cors(CORSMiddleware):
    """Answers preflights, and adds to every other answer of `app` what browsers want to see."""

    def __init__(self, app: ASGIApp, config: CorsConfig) -> None:
        super().__init__(
            app,
            allow_origins=config.allow_origins,
            allow_methods=_METHODS,
            allow_headers=config.allow_headers,
            allow_credentials=config.allow_credentials,
            allow_private_network=True,  # an allowed page may call a gateway in a home or office
            expose_headers=_EXPOSED,
            max_age=config.max_age_s,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        error = InvalidRequestError(f"{bytes(answer.body).decode()}.", code="cors_not_allowed")
        return Response(
            error.body(), error.status, self.preflight_headers, media_type="application/json"
        )


def refusal_headers(
    config: CorsConfig, request_headers: Iterable[tuple[bytes, bytes]]
) -> dict[str, str]:
    """What `Cors` would add to an answer, for one that is given below it."""
    asking = next((value.decode("latin-1") for n, value in request_headers if n == b"origin"), "")
    allowed = "*" if "*" in config.allow_origins else asking
    if allowed not in config.allow_origins:
        return {}
    headers = {
        "access-control-allow-origin": allowed,
        "access-control-expose-headers": ", ".join(_EXPOSED),
        "vary": "Origin",
    }
    if config.allow_credentials:
        headers["access-control-allow-credentials"] = "true"
    return headers
