"""Whatever bytes come in, the answer is a 4xx with an error object, and the next is served."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from gateway.errors import APIError
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.parse import NEVER_TAKEN, parse
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway
from tests.gateway.raw import request, send

CHAT, TOKENIZE = "/v1/chat/completions", "/tokenize"
USER = {"role": "user", "content": "Hi"}
BODY: dict[str, Any] = {"model": MODEL, "messages": [USER], "max_tokens": 2}
JSON = json.dumps(BODY).encode()
DEEP = 100_000


def post(body: bytes, *headers: str, path: str = CHAT) -> bytes:
    return request("POST", path, *headers, body=body)


def posted(body: bytes, *headers: str, path: str = CHAT) -> bytes:
    """A POST whose framing is all in `headers`."""
    return request("POST", path, "content-type: application/json", *headers) + body


def text(content: bytes) -> bytes:
    """A body whose message has `content` between its quotes."""
    return b'{"model":"test-model","messages":[{"role":"user","content":"%b"}]}' % content


def field(name: str, value: bytes) -> bytes:
    return JSON[:-1] + b',"%b":%b}' % (name.encode(), value)


FRAMING = {
    "content-length twice": posted(JSON, *[f"content-length: {len(JSON)}"] * 2),
    "two lengths": posted(JSON, "content-length: 5", "content-length: 6"),
    "length and chunks": posted(JSON, "content-length: 5", "transfer-encoding: chunked"),
    "a negative length": posted(JSON, "content-length: -1"),
    "a length in words": posted(JSON, "content-length: five"),
    "a length past 64 bits": posted(JSON, "content-length: 99999999999999999999"),
    "a chunk of no size": posted(b"zz\r\n{}\r\n0\r\n\r\n", "transfer-encoding: chunked"),
    "a chunk longer than said": posted(b"1\r\n{}\r\n0\r\n\r\n", "transfer-encoding: chunked"),
    "a chunk past 64 bits": posted(b"f" * 17 + b"\r\n", "transfer-encoding: chunked"),
    "another transfer coding": posted(JSON, "transfer-encoding: xchunked"),
    "a space in a header's name": request("GET", "/healthz", "a b: c"),
    "a space before the colon": request("GET", "/healthz", "a : c"),
    "a NUL in a header": request("GET", "/healthz", "a: \0"),
    "a line feed in a header": request("GET", "/healthz", "a: b\nc: d"),
    "no such method": request("BREW", "/healthz"),
    "a method in lower case": request("get", "/healthz"),
    "a tunnel": request("CONNECT", "x:80"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a path that is none": request("GET", "healthz"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("sent", FRAMING.values(), ids=FRAMING)
async def test_what_breaks_http_is_a_400(gateway: LiveGateway, sent: bytes) -> None:
    answer = await send(gateway, sent)
    assert (answer.status, answer.error["code"]) == (400, "invalid_http")
    assert answer.headers["connection"] == "close"
    await still_serving(gateway)


@pytest.mark.parametrize("path", [CHAT, TOKENIZE])
async def test_a_body_that_breaks_off_into_bad_chunks_is_a_400_while_it_is_read(
    gateway: LiveGateway, path: str
) -> None:
    head = posted(b"5\r\n{    \r\n", "transfer-encoding: chunked", path=path)
    answer = await send(gateway, head, b"nonsense\r\n")
    assert (answer.status, answer.error["code"]) == (400, "invalid_http")
    counted = await send(gateway, request("GET", "/metrics"))
    assert b'route="%b",status="400"} 1.0' % path.encode() in counted.body
    await still_serving(gateway)


NO_JSON = {
    "an array in an array in …": b"[" * DEEP,
    "an object in an object in …": b'{"a":' * DEEP,
    "a closed array in an array in …": b"[" * DEEP + b"]" * DEEP,
    "arrays in a field": field("metadata", b"[" * DEEP + b"]" * DEEP),
    "arrays in a message": text(b'","x":' + b"[" * DEEP),
    "NaN": field("temperature", b"NaN"),
    "Infinity": field("temperature", b"-Infinity"),
    "a number past any float": field("temperature", b"1e999"),
    "an integer of 5000 digits": field("seed", b"1" * 5000),
    "a lone high surrogate": text(rb"\ud83d"),
    "a lone low surrogate": text(rb"\ude00 x"),
    "surrogates the wrong way round": text(rb"\ude00\ud83d"),
    "a lone surrogate as a name": field(r"\ud83d", b"1"),
    "bytes that are no UTF-8": text(b"\xff"),
    "UTF-8 cut short": text(b"\xe2\x82"),
    "UTF-8 longer than it has to be": text(b"\xc0\xaf"),
    "a surrogate in UTF-8": text(b"\xed\xa0\x80"),
    "a control character": text(b"\x01"),
    "a line feed in a text": text(b"a\nb"),
    "an escape that is none": text(rb"\x41"),
    "a trailing comma": JSON[:-1] + b",}",
    "something behind it": JSON + b"{}",
    "a comment": JSON + b"// x",
    "single quotes": JSON.replace(b'"', b"'"),
    "UTF-16": JSON.decode().encode("utf-16"),
    "nothing": b"",
    "gzip that doesn't say so": gzip.compress(JSON),
    "a form": b"model=test-model",
}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", TOKENIZE])
@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
async def test_what_is_no_json_is_a_400(gateway: LiveGateway, path: str, body: bytes) -> None:
    answer = await send(gateway, post(body, path=path))
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert len(answer.body) < 1000
    await still_serving(gateway)


FINE = {
    "a name twice, of which the last counts": field("max_tokens", b"1"),
    "an emoji by its surrogates": text(rb"\ud83d\ude00"),
    "a NUL by its escape": text(rb"\u0000"),
    "U+FFFE": text("\ufffe".encode()),
    "space around it": b"\r\n\t " + JSON + b" \n",
}


@pytest.mark.parametrize("body", FINE.values(), ids=FINE)
async def test_what_is_odd_json_but_json_is_served(gateway: LiveGateway, body: bytes) -> None:
    assert (await send(gateway, post(body))).status == 200


@pytest.mark.parametrize("path", [CHAT, TOKENIZE])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
async def test_an_encoded_body_is_a_415_that_says_so(
    gateway: LiveGateway, path: str, coding: str
) -> None:
    sent = post(gzip.compress(JSON), f"content-encoding: {coding}", path=path)
    answer = await send(gateway, sent)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_content_encoding")
    assert answer.headers["accept-encoding"] == "identity"


async def test_an_encoding_that_changes_nothing_is_fine(gateway: LiveGateway) -> None:
    assert (await send(gateway, post(JSON, "content-encoding: Identity"))).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("content-type: text/plain", "content-length: 9"), 415),
        (("content-type: application/json", "content-length: 999999999"), 413),
        (("content-type: application/json", "content-encoding: br", "content-length: 9"), 415),
    ],
)
async def test_a_client_that_asks_first_is_refused_before_it_sends(
    gateway: LiveGateway, headers: tuple[str, ...], status: int
) -> None:
    answer = await send(gateway, request("POST", CHAT, "expect: 100-continue", *headers))
    assert answer.status == status
    assert answer.error["code"]


async def test_megabytes_of_headers_sent_at_once_still_get_their_431(gateway: LiveGateway) -> None:
    answer = await send(gateway, request("GET", "/healthz", *["a: " + "b" * 8000] * 500))
    assert (answer.status, answer.error["code"]) == (431, "headers_too_large")


async def test_nothing_behind_refused_headers_is_served(gateway: LiveGateway) -> None:
    large = request("GET", "/healthz", "a: " + "b" * 40_000)
    answer = await send(gateway, large + request("GET", "/version"))
    assert answer.status == 431
    assert b"HTTP/1.1" not in answer.body


@pytest.mark.parametrize("path", ["/%00", "/%ff", "/v1/models/%ff%00%0d%0a", "/a?%zz=%", "/;a#b"])
async def test_a_path_of_odd_bytes_is_a_404(gateway: LiveGateway, path: str) -> None:
    answer = await send(gateway, request("GET", path))
    assert answer.status == 404
    assert answer.error["code"] in {"unknown_url", "model_not_found"}


async def still_serving(gateway: LiveGateway) -> None:
    assert gateway.services.admission.inside == 0
    assert (await send(gateway, request("GET", "/healthz"))).status == 200


UNKNOWN = [
    ({"frobnicate": 1}, "frobnicate"),
    ({"messages": [{**USER, "frobnicate": [1]}]}, "messages[0].frobnicate"),
    ({"stream": True, "stream_options": {"frobnicate": {}}}, "stream_options.frobnicate"),
    ({f"x{i}": i for i in range(900)}, "x0"),
]


@pytest.mark.parametrize(("fields", "param"), UNKNOWN, ids=["top", "message", "options", "many"])
async def test_unknown_fields_are_refused_by_name_or_ignored_as_configured(
    start_gateway: StartGateway, fields: dict[str, Any], param: str
) -> None:
    sent = post(json.dumps({**BODY, **fields}).encode())
    refused = await send(await start_gateway(), sent)
    assert refused.status == 400
    assert (refused.error["code"], refused.error["param"]) == ("unknown_parameter", param)
    ignored = await send(await start_gateway(**{"server.unknown_fields": "ignore"}), sent)
    assert ignored.status == 200


@pytest.mark.parametrize("name", sorted(NEVER_TAKEN))
async def test_dangerous_fields_are_refused_also_where_unknown_ones_are_ignored(
    start_gateway: StartGateway, name: str
) -> None:
    gateway = await start_gateway(**{"server.unknown_fields": "ignore"})
    for fields in ({name: "x"}, {"messages": [{**USER, name: "x"}]}):
        answer = await send(gateway, post(json.dumps({"zzz": 1, **BODY, **fields}).encode()))
        assert (answer.status, answer.error["code"]) == (400, "unknown_parameter")
        assert answer.error["param"].endswith(name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"temperature": 9}, "temperature"), ({"messages": []}, "messages"), ({"model": 5}, "model")],
)
def test_what_is_wrong_besides_is_still_named(fields: dict[str, Any], param: str) -> None:
    body = json.dumps({"frobnicate": 1, **BODY, **fields}).encode()
    with pytest.raises(APIError) as refused:
        parse(ChatCompletionRequest, body, ignore_unknown=True)
    assert refused.value.param == param


def test_ignored_fields_are_not_in_what_is_parsed() -> None:
    body = json.dumps({**BODY, "frobnicate": 1}).encode()
    assert parse(ChatCompletionRequest, body, ignore_unknown=True) == ChatCompletionRequest(
        **{**BODY}
    )
