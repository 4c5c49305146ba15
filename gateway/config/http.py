"""The HTTP side: where to listen, what a client may send and how long it may take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.config import Frozen

Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^\sA-Z/*,]+)$", max_length=256)]
HeaderName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9!#$%&'+.^_`|~-]+)$", max_length=128)]


class CorsConfig(Frozen):
    """Which web pages may call from a browser (CORS). With no origins: none."""

    allow_origins: tuple[Origin, ...] = Field(
        (), description="'*' for every page, or origins such as https://app.example.com"
    )
    allow_headers: tuple[HeaderName, ...] = Field(
        ("*",), description="request headers a page may send; '*': any"
    )
    allow_credentials: bool = Field(
        False, description="pages may send cookies and client certificates along"
    )
    max_age_s: int = Field(600, ge=0, le=86400, description="browsers remember the answer so long")

    @model_validator(mode="after")
    def _credentials_need_names(self) -> CorsConfig:
        if self.allow_credentials and "*" in self.allow_origins:
            raise ValueError(
                "allow_credentials with the origin '*' would let every web page act for its "
                "visitors: name the origins"
            )
        return self


class ServerConfig(Frozen):
    """The HTTP side. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free port")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    max_header_bytes: int = Field(32 * 1024, ge=1024)
    header_timeout_s: float = Field(10.0, gt=0, description="to receive all request headers")
    body_timeout_s: float = Field(30.0, gt=0, description="to receive the whole body")
    keep_alive_s: float = Field(75.0, gt=0, description="an idle connection is kept this long")
    write_timeout_s: float = Field(
        60.0, gt=0, description="a client that reads nothing for so long is cut off"
    )
    write_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="of one core's time, at most so much goes into writing events; with more "
        "streams than that allows, a stream's tokens share events; 1: each is an event",
    )
    drain_grace_s: float = Field(
        30.0,
        ge=0,
        description="after SIGTERM running requests may take so long to finish",
    )
    max_connections: int = Field(4096, ge=1)
    docs: bool = Field(True, description="serve /docs and /openapi.json")
    server_timing: bool = Field(
        False,
        description="completions say where their time went, in a `Server-Timing` header; streams "
        "say it again at their end, in a comment",
    )
    cors: CorsConfig = CorsConfig()
    unknown_fields: Literal["refuse", "ignore"] = Field(
        "refuse", description="what is done with request fields this server doesn't know"
    )

    def address(self, port: int | str) -> str:
        """As clients write it; `port` is what 0 became."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"
