"""`/admin/v1/…` of a running gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, LiveGateway, StartGateway, start_gateway
from tests.gateway.several import ADMIN, ADMIN_KEYS

__all__ = ["start_gateway"]

NOT_THERE = "key_000000000000000000000000"


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> LiveGateway:
    return await start_gateway(**{"auth.admin_keys": ADMIN_KEYS})


async def admin(
    gateway: LiveGateway, method: str, path: str, body: Any = None, headers: Any = ADMIN
) -> tuple[int, Any]:
    url = f"{gateway.url}/admin/v1{path}"
    sent: dict[str, Any] = {} if body is None else {"json": body}
    async with gateway.http.request(method, url, headers=headers, **sent) as answer:
        return answer.status, await answer.json()


async def created(gateway: LiveGateway, path: str, **fields: Any) -> Any:
    status, answer = await admin(gateway, "POST", path, fields)
    assert status == 200, answer
    return answer


async def models_as(gateway: LiveGateway, secret: str | None) -> int:
    """The status of a list of models, asked with a key."""
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    async with gateway.http.get(gateway.url + "/v1/models", headers=headers) as answer:
        return answer.status


async def test_a_key_opens_the_gateway_from_the_answer_that_has_it_to_the_one_that_ends_it(
    gateway: LiveGateway,
) -> None:
    assert await models_as(gateway, None) == 200
    key = await created(gateway, "/keys", name="app", rpm=1000)
    assert await models_as(gateway, None) == 401
    assert await models_as(gateway, key["value"]) == 200
    status, revoked = await admin(gateway, "POST", f"/keys/{key['id']}/revoke")
    assert (status, revoked["status"], "value" in revoked) == (200, "revoked", False)
    assert await models_as(gateway, key["value"]) == 401


async def test_a_key_serves_requests_and_opens_no_administrators_route(
    gateway: LiveGateway,
) -> None:
    key = await created(gateway, "/keys")
    headers = {"authorization": f"Bearer {key['value']}"}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    assert (await gateway.post("/v1/chat/completions", body, headers=headers))[0] == 200
    for path in ("/keys", "/teams", "/audit", "/adapters"):
        assert (await admin(gateway, "GET", path, headers=headers))[0] == 401
    assert (await gateway.post("/v1/chat/completions", body, headers=ADMIN))[0] == 401


async def test_a_key_is_retrieved_updated_and_listed_without_its_secret(
    gateway: LiveGateway,
) -> None:
    key = await created(gateway, "/keys", name="app", tpm=5)
    known = {name: value for name, value in key.items() if name != "value"}
    assert await admin(gateway, "GET", f"/keys/{key['id']}") == (200, known)
    change = {"tpm": None, "budgets": [{"unit": "cost", "amount": 0.25, "window": "day"}]}
    status, changed = await admin(gateway, "POST", f"/keys/{key['id']}", change)
    assert (status, changed) == (200, known | change)
    other = await created(gateway, "/keys")
    _, page = await admin(gateway, "GET", "/keys?limit=1")
    assert (page["object"], page["data"], page["has_more"]) == ("list", [changed], True)
    _, page = await admin(gateway, "GET", f"/keys?after={page['last_id']}&status=active")
    assert ([item["id"] for item in page["data"]], page["has_more"]) == ([other["id"]], False)


async def test_a_rotated_key_has_a_grace_where_asked(gateway: LiveGateway) -> None:
    first = await created(gateway, "/keys")
    second = await created(gateway, f"/keys/{first['id']}/rotate", grace_s=60)
    assert (second["id"], second["value"] == first["value"]) == (first["id"], False)
    assert await models_as(gateway, first["value"]) == 200
    third = await created(gateway, f"/keys/{first['id']}/rotate")
    statuses = [await models_as(gateway, each["value"]) for each in (first, second, third)]
    assert statuses == [401, 401, 200]


async def test_a_team_is_made_changed_and_deleted_with_its_keys_access(
    gateway: LiveGateway,
) -> None:
    team = await created(gateway, "/teams", name="research", tpm=1000, weight=2)
    key = await created(gateway, "/keys", team=team["id"])
    assert await admin(gateway, "GET", f"/teams/{team['id']}") == (200, team)
    status, changed = await admin(gateway, "POST", f"/teams/{team['id']}", {"rpm": 5})
    assert (status, changed) == (200, team | {"rpm": 5})
    assert (await admin(gateway, "GET", "/teams"))[1]["data"] == [changed]
    assert await models_as(gateway, key["value"]) == 200
    gone = {"id": team["id"], "object": "team", "deleted": True}
    for _ in range(2):
        assert await admin(gateway, "DELETE", f"/teams/{team['id']}") == (200, gone)
    assert await models_as(gateway, key["value"]) == 401
    assert (await admin(gateway, "GET", "/teams"))[1]["data"] == []
    assert (await admin(gateway, "GET", f"/teams/{team['id']}"))[0] == 404
    _, page = await admin(gateway, "GET", f"/keys?team={team['id']}")
    assert [item["status"] for item in page["data"]] == ["team_deleted"]
    for asked, count in (("team_deleted", 1), ("active", 0), ("expired", 0), ("revoked", 0)):
        _, page = await admin(gateway, "GET", f"/keys?status={asked}")
        assert len(page["data"]) == count


async def test_a_lost_pepper_is_a_503_that_says_so_and_makes_no_other(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    state = {"state.url": f"sqlite:///{tmp_path}/kept.db"}
    gateway = await start_gateway(**{"auth.admin_keys": ADMIN_KEYS, **state})
    key = await created(gateway, "/keys")
    pepper = tmp_path / "kept.db.pepper"
    pepper.unlink()
    for path in ("/keys", f"/keys/{key['id']}/rotate"):
        status, answer = await admin(gateway, "POST", path, {})
        assert (status, answer["error"]["code"]) == (503, "keys_not_configured")
        assert "is gone: put" in answer["error"]["message"]
    assert not pepper.exists()
    assert await models_as(gateway, key["value"]) == 200


async def test_deleting_a_key_is_revoking_it_and_may_be_said_twice(gateway: LiveGateway) -> None:
    key = await created(gateway, "/keys")
    gone = {"id": key["id"], "object": "key", "deleted": True}
    for _ in range(2):
        assert await admin(gateway, "DELETE", f"/keys/{key['id']}") == (200, gone)
    assert (await admin(gateway, "GET", f"/keys/{key['id']}"))[1]["status"] == "revoked"
    assert await models_as(gateway, key["value"]) == 401


async def test_the_log_has_what_was_done_a_page_at_a_time(gateway: LiveGateway) -> None:
    team = await created(gateway, "/teams", name="research")
    key = await created(gateway, "/keys", team=team["id"])
    await admin(gateway, "DELETE", f"/keys/{key['id']}")
    _, page = await admin(gateway, "GET", "/audit?limit=2")
    assert [event["action"] for event in page["data"]] == ["key.revoke", "key.create"]
    assert {event["actor"] for event in page["data"]} == {"admin:root"}
    assert page["data"][1]["detail"]["team"] == team["id"]
    assert key["value"] not in str(page)
    _, page = await admin(gateway, "GET", f"/audit?after={page['last_id']}")
    assert [event["target"] for event in page["data"]] == [team["id"]]
    _, page = await admin(gateway, "GET", f"/audit?object={key['id']}&order=asc")
    assert [event["action"] for event in page["data"]] == ["key.create", "key.revoke"]
    assert (await admin(gateway, "GET", "/audit?until=1"))[1]["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("POST", "/keys", {"rmp": 5}, 400, "unknown_parameter", "rmp"),
        ("POST", "/keys", {"rpm": 0}, 400, "integer_below_min_value", "rpm"),
        ("POST", "/keys", {"team": "team_none"}, 404, "team_not_found", "team"),
        ("POST", "/keys", [], 400, "invalid_type", None),
        ("POST", "/keys", None, 415, "unsupported_content_type", None),
        ("POST", "/teams", {}, 400, "missing_required_parameter", "name"),
        ("POST", "/teams", {"name": "taken"}, 409, "name_taken", "name"),
        ("GET", "/keys?status=odd", None, 400, "invalid_value", "status"),
        ("GET", "/keys?limit=0", None, 400, "integer_below_min_value", "limit"),
        ("GET", "/keys?mine=1", None, 400, "unknown_parameter", "mine"),
        ("GET", "/audit?after=key_1", None, 400, "invalid_value", "after"),
        ("GET", "/audit?after=audit_999999", None, 400, "invalid_value", "after"),
        ("GET", "/keys?after=nope", None, 400, "invalid_value", "after"),
        ("GET", "/teams?after=nope", None, 400, "invalid_value", "after"),
        ("POST", "/keys", {"weight": 1e-320}, 400, "decimal_below_min_value", "weight"),
        ("GET", "/audit?since=x", None, 400, "invalid_type", "since"),
        ("GET", f"/keys/{NOT_THERE}", None, 404, "key_not_found", None),
        ("POST", f"/keys/{NOT_THERE}", {"rpm": 1}, 404, "key_not_found", None),
        ("POST", f"/keys/{NOT_THERE}/rotate", {}, 404, "key_not_found", None),
        ("POST", f"/keys/{NOT_THERE}/revoke", None, 404, "key_not_found", None),
        ("DELETE", f"/keys/{NOT_THERE}", None, 404, "key_not_found", None),
        ("DELETE", "/teams/team_none", None, 404, "team_not_found", None),
        ("PUT", "/keys", {}, 405, "method_not_supported", None),
    ],
)
async def test_what_cant_be_is_refused_in_openais_words(
    gateway: LiveGateway,
    method: str,
    path: str,
    body: Any,
    status: int,
    code: str,
    param: str | None,
) -> None:
    await created(gateway, "/teams", name="taken")
    found, answer = await admin(gateway, method, path, body)
    error = answer["error"]
    assert (found, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"


async def test_an_unknown_field_is_refused_whatever_the_configuration_says(
    start_gateway: StartGateway,
) -> None:
    settings = {"auth.admin_keys": ADMIN_KEYS, "server.unknown_fields": "ignore"}
    gateway = await start_gateway(**settings)
    status, answer = await admin(gateway, "POST", "/keys", {"rmp": 5})
    assert (status, answer["error"]["code"]) == (400, "unknown_parameter")


async def test_without_an_administrators_key_the_routes_dont_exist(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway()
    for path in ("/keys", "/teams", "/audit", "/adapters"):
        assert (await admin(gateway, "GET", path))[0] == 404


async def test_a_wrong_administrators_key_is_a_401(gateway: LiveGateway) -> None:
    for headers in ({}, {"authorization": "Bearer " + "x" * 32}):
        for method, path in [("GET", "/keys"), ("POST", "/keys"), ("DELETE", "/teams/a")]:
            status, answer = await admin(gateway, method, path, headers=headers)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
