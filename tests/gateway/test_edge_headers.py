"""What every answer carries besides its body: ids, times, CORS; and HEAD, OPTIONS, HTTP/1.0."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from gateway.config import ConfigError, load_config
from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.raw import RawAnswer, request, send
from tests.gateway.test_hangups import LONG

CHAT = "/v1/chat/completions"
OURS = re.compile(r"req_[0-9a-f]{32}")
SHORT = {**LONG, "max_tokens": 3}
PAGE = "https://app.example.com"


def chat(*headers: str, version: str = "1.1", **fields: Any) -> bytes:
    body = json.dumps({**SHORT, **fields}).encode()
    return request("POST", CHAT, *headers, body=body, version=version)


ANSWERS = [
    pytest.param(chat(), 200, id="whole"),
    pytest.param(chat(stream=True), 200, id="streamed"),
    pytest.param(chat(max_tokens=0), 400, id="refused"),
    pytest.param(chat(model="nope"), 404, id="no such model"),
    pytest.param(request("GET", "/v1/models"), 200, id="models"),
    pytest.param(request("GET", "/nothing"), 404, id="no such path"),
    pytest.param(request("DELETE", CHAT), 405, id="wrong method"),
    pytest.param(request("GET", "/healthz"), 200, id="probe"),
]


def with_headers(sent: bytes, *headers: str) -> bytes:
    first, rest = sent.split(b"\r\n", 1)
    return b"\r\n".join([first, *(line.encode("latin-1") for line in headers), rest])


@pytest.mark.parametrize(("sent", "status"), ANSWERS)
async def test_every_answer_has_an_id_its_time_and_the_apis_version(
    gateway: LiveGateway, sent: bytes, status: int
) -> None:
    answer = await send(gateway, sent)
    assert answer.status == status
    assert OURS.fullmatch(answer.headers["x-request-id"])
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert answer.headers["openai-version"] == "2020-10-01"


@pytest.mark.parametrize(("sent", "status"), ANSWERS)
async def test_ids_of_the_client_come_back_with_every_answer(
    gateway: LiveGateway, sent: bytes, status: int
) -> None:
    own = with_headers(sent, "X-Request-Id: 4bf92f35-77b3:a/b", "X-Client-Request-Id: my id 1")
    answer = await send(gateway, own)
    assert answer.status == status
    assert answer.headers["x-request-id"] == "4bf92f35-77b3:a/b"
    assert answer.headers["x-client-request-id"] == "my id 1"


async def test_an_id_for_our_logs_is_not_taken_for_the_answers_own(gateway: LiveGateway) -> None:
    answer = await send(gateway, chat("x-client-request-id: abc"))
    assert OURS.fullmatch(answer.headers["x-request-id"])
    assert answer.headers["x-client-request-id"] == "abc"


@pytest.mark.parametrize(
    "given", ["a" * 129, "two words", 'a"b', "a<b>", "-a", "é", "a\tb", "", "a,b"]
)
async def test_a_request_id_that_is_not_well_formed_is_replaced_by_ours(
    gateway: LiveGateway, given: str
) -> None:
    answer = await send(gateway, request("GET", "/v1/models", f"x-request-id: {given}"))
    assert answer.status == 200
    assert OURS.fullmatch(answer.headers["x-request-id"])


@pytest.mark.parametrize("given", ["a" * 513, "é", "a\tb"])
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
async def test_a_client_request_id_that_is_not_well_formed_is_a_400(
    gateway: LiveGateway, path: str, given: str
) -> None:
    answer = await send(
        gateway, request("POST", path, f"x-client-request-id: {given}", body=b'{"prompt":"a"}')
    )
    assert (answer.status, answer.error["code"]) == (400, "invalid_header")
    assert "x-client-request-id" not in answer.headers


def access_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [line for line in caplog.records if line.name == "gateway.access"]


async def test_the_log_has_our_id_and_the_clients(
    gateway: LiveGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.access")
    await send(gateway, chat("x-request-id: theirs", "x-client-request-id: a b=c"))
    (line,) = access_lines(caplog)
    assert OURS.search(line.getMessage())
    assert "theirs" not in line.getMessage()
    facts = vars(line)
    assert (facts["given_request_id"], facts["client_request_id"]) == ("theirs", "a b=c")


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz", "/metrics"])
async def test_probes_are_no_lines_of_the_access_log(
    gateway: LiveGateway, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.DEBUG, "gateway.access")
    await send(gateway, request("GET", path))
    await send(gateway, request("GET", "/v1/models"))
    assert [line.levelname for line in access_lines(caplog)] == ["DEBUG", "INFO"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/models", "/version"])
async def test_head_answers_like_get_without_the_body(gateway: LiveGateway, path: str) -> None:
    got, head = [await send(gateway, request(method, path)) for method in ("GET", "HEAD")]
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # which has counted the first one
        assert head.headers["content-length"] == str(len(got.body))


async def test_head_of_what_can_only_be_posted_is_a_405(gateway: LiveGateway) -> None:
    answer = await send(gateway, request("HEAD", "/v1/completions"))
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST", b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_connection_goes_on_after_a_head(gateway: LiveGateway, method: str) -> None:
    first = request("HEAD", "/v1/models").replace(b"connection: close\r\n", b"")
    answer = await send(gateway, first + request(method, "/healthz"))
    assert answer.body.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("OPTIONS", CHAT, "POST"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("PUT", "/tokenize", "POST"),
    ],
)
async def test_a_method_that_is_not_taken_is_a_405_that_names_those_that_are(
    gateway: LiveGateway, method: str, path: str, allow: str
) -> None:
    answer = await send(gateway, request(method, path, f"origin: {PAGE}"))
    assert (answer.status, answer.error["code"]) == (405, "method_not_supported")
    assert set(allow.split(", ")) <= set(answer.headers["allow"].split(", "))
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/v1/models/", f"{CHAT}/", "/healthz/", "/v1", "/%2e%2e/", "//"])
async def test_a_path_is_taken_to_the_letter(gateway: LiveGateway, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await send(gateway, request(method, path))
        assert answer.status in {404, 405}
        assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_http_1_0_gets_no_chunks(gateway: LiveGateway, stream: bool) -> None:
    new = await send(gateway, chat(stream=stream))
    old = await send(gateway, chat("expect: 100-continue", version="1.0", stream=stream))
    assert "transfer-encoding" not in old.headers
    assert old.headers["connection"] == "close"
    assert said(old) == said(new) != ""


def said(answer: RawAnswer) -> str:
    """The text of an answer, streamed or not."""
    if answer.headers["content-type"] == "application/json":
        return str(answer.json()["choices"][0]["message"]["content"])
    events = answer.body.decode().removesuffix("data: [DONE]\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if event]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


@pytest.fixture
async def open_gateway(start_gateway: StartGateway) -> LiveGateway:
    """Pages of one origin may call it."""
    return await start_gateway(**{"server.cors.allow_origins": [PAGE], "server.cors.max_age_s": 77})


@pytest.mark.parametrize(("sent", "status"), ANSWERS)
async def test_an_allowed_page_may_read_every_answer_and_its_headers(
    open_gateway: LiveGateway, sent: bytes, status: int
) -> None:
    answer = await send(open_gateway, with_headers(sent, f"Origin: {PAGE}"))
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "Origin" in answer.headers["vary"]
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "openai-processing-ms", "retry-after", "retry-after-ms"} <= set(exposed)
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(("sent", "status"), ANSWERS)
async def test_another_page_may_not(open_gateway: LiveGateway, sent: bytes, status: int) -> None:
    answer = await send(open_gateway, with_headers(sent, "Origin: https://evil.example.com"))
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n\r\n", request("GET", "/healthz", "x: " + "a" * 40_000)],
    ids=["no HTTP", "headers too large"],
)
async def test_a_page_may_read_what_is_refused_below_the_application(
    start_gateway: StartGateway, sent: bytes
) -> None:
    gateway = await start_gateway(**{"server.cors.allow_origins": ["*"]})
    answer = await send(gateway, with_headers(sent, f"origin: {PAGE}"))
    assert answer.status in {400, 431}
    assert answer.headers["access-control-allow-origin"] == "*"


def preflight(path: str, *headers: str, origin: str = PAGE, method: str = "POST") -> bytes:
    asked = (f"origin: {origin}", f"access-control-request-method: {method}")
    return request("OPTIONS", path, *asked, *headers)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize", "/v1/models"])
async def test_a_preflight_is_answered_without_a_key(
    start_gateway: StartGateway, path: str
) -> None:
    key = [{"name": "one", "sha256": "0" * 64}]
    gateway = await start_gateway(
        **{"auth.api_keys": key, "server.cors.allow_origins": [PAGE], "server.cors.max_age_s": 77}
    )
    wanted = "access-control-request-headers: authorization, content-type, x-stainless-os"
    answer = await send(
        gateway, preflight(path, wanted, "access-control-request-private-network: true")
    )
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-max-age"] == "77"
    assert OURS.fullmatch(answer.headers["x-request-id"])


@pytest.mark.parametrize(
    "sent",
    [
        preflight(CHAT, origin="https://evil.example.com"),
        preflight(CHAT, origin="null"),
        preflight(CHAT, method="TRACE"),
    ],
    ids=["origin", "null", "method"],
)
async def test_a_preflight_that_is_not_allowed_is_a_400(
    open_gateway: LiveGateway, sent: bytes
) -> None:
    answer = await send(open_gateway, sent)
    assert (answer.status, answer.error["code"]) == (400, "cors_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


async def test_named_headers_are_the_only_ones_a_page_may_send(
    start_gateway: StartGateway,
) -> None:
    allowed = {
        "allow_origins": [PAGE],
        "allow_headers": ["authorization"],
        "allow_credentials": True,
    }
    gateway = await start_gateway(**{"server.cors": allowed})
    named = await send(
        gateway, preflight(CHAT, "access-control-request-headers: content-type,authorization")
    )
    other = await send(gateway, preflight(CHAT, "access-control-request-headers: x-other"))
    assert (named.status, other.status) == (200, 400)
    assert named.headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize(
    "cors",
    [
        {"allow_origins": ["https://app.example.com/"]},
        {"allow_origins": ["app.example.com"]},
        {"allow_origins": ["https://*.example.com"]},
        {"allow_origins": ["*"], "allow_credentials": True},
        {"allow_headers": ["two words"]},
    ],
    ids=str,
)
def test_origins_that_no_browser_sends_are_a_configuration_error(cors: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"server\.cors"):
        load_config(overrides={"server.cors": cors}, environ={})
