"""Every error a client can see, and the one map to OpenAI error bodies and HTTP statuses.

::

    APIError                    carries status, type, code, param, message, headers
    ├── InvalidRequestError     400, or the given 4xx
    ├── AuthenticationError     401
    ├── PermissionDeniedError   403
    ├── NotFoundError           404
    ├── DeadlineError           408: not in the time the request has
    ├── OverloadedError         429: there is capacity, but it is contended
    ├── RateLimitError          429: the caller's own rate or concurrency limit is reached
    ├── QuotaExceededError      429: the caller's own budget is spent
    └── UnavailableError        503: no serving capacity (loading, draining, dead)

`as_api_error` turns engine errors and anything unforeseen into one of these.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Literal, Self

import msgspec

from engine.base import (
    ContextLengthError,
    EngineBusyError,
    EngineDeadError,
    EngineError,
    InvalidPromptError,
)

CLIENT_CLOSED = 499
"""Of a client that has gone: nobody is told."""

RETRY_AFTER_CAP_S = 60.0
RETRY_JITTER = 1.25
DRAINING_RETRY_S = 2.0
ENGINE_RETRY_S = 10.0


class APIError(Exception):
    """An answer that is an OpenAI error object."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.code = code or self.code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The error object of the OpenAI API, as JSON."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})

    def again(self) -> Self:
        """The same for one more client, who is told another time to come back."""
        same = type(self).__new__(type(self), *self.args)
        same.__dict__.update(self.__dict__)
        if (milliseconds := self.headers.get("retry-after-ms")) is not None:
            same.headers = self.headers | retry_headers(int(milliseconds) / 1000)
        return same


class InvalidRequestError(APIError):
    """The request can't be served as sent; the message says what was expected."""

    status = 400
    type = "invalid_request_error"
    code = None


class AuthenticationError(APIError):
    """No key, or not one of ours."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class PermissionDeniedError(APIError):
    """One of our keys, but not for this."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_permissions"


class NotFoundError(APIError):
    """No such route, model or object."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class DeadlineError(APIError):
    """408: the request's time is over, or would be before its first token. Not to be repeated:
    nobody waits for the answer any more."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"

    def __init__(
        self, message: str = "The request's time was over before its answer was complete."
    ) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class OverloadedError(APIError):
    """429: try again after `retry_after_s`."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, headers=retry_headers(retry_after_s))


class RateLimitError(APIError):
    """429: the caller's limit of requests or tokens is reached. Try again after `retry_after_s`;
    None: never, what was asked for is more than the limit could ever hold."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, kind: Literal["requests", "tokens"], retry_after_s: float | None
    ) -> None:
        never = {"x-should-retry": "false"}
        headers = never if retry_after_s is None else retry_headers(retry_after_s)
        super().__init__(message, headers=headers)
        self.type = kind


class QuotaExceededError(APIError):
    """429: the caller's budget is spent, and trying again is in vain until it is renewed."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class UnavailableError(APIError):
    """503: nothing here can serve now; try again after `retry_after_s`."""

    status = 503
    type = "server_error"
    code = "service_unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: float) -> None:
        super().__init__(message, code=code, headers=retry_headers(retry_after_s))


def draining() -> UnavailableError:
    """503 for what a shutdown refuses or cuts off."""
    return UnavailableError(
        "The server is shutting down and takes no new requests.",
        code="server_draining",
        retry_after_s=DRAINING_RETRY_S,
    )


def retry_headers(seconds: float) -> dict[str, str]:
    """`retry-after` (whole seconds, and none too few) and `retry-after-ms`, jittered up by at most
    a quarter so that refused clients don't return together, at most 60 s."""
    jittered = min(seconds * random.uniform(1.0, RETRY_JITTER), RETRY_AFTER_CAP_S)
    return {
        "retry-after": str(max(1, math.ceil(jittered))),
        "retry-after-ms": str(max(1, round(jittered * 1000))),
    }


def as_api_error(error: Exception) -> APIError:
    """The one table from what went wrong to what the client is told.

    The text of unforeseen errors stays in the log: it may hold what a client must not see.
    """
    if isinstance(error, APIError):
        return error
    if isinstance(error, ContextLengthError):
        known = InvalidRequestError(str(error), code="context_length_exceeded", param=error.param)
        known.__cause__ = error  # whose numbers may be told in other words
        return known
    if isinstance(error, InvalidPromptError):
        return InvalidRequestError(str(error), code="invalid_value", param=error.param)
    if isinstance(error, EngineBusyError):
        return OverloadedError(str(error), retry_after_s=error.retry_after_s)
    if isinstance(error, EngineDeadError):
        return UnavailableError(
            "The model's engine has stopped under this request, which can't be continued.",
            code="engine_dead",
            retry_after_s=ENGINE_RETRY_S,
        )
    if isinstance(error, EngineError):
        return APIError("The engine failed while generating.", code="engine_error")
    return APIError("The server had an error while answering your request.")
