"""`/v1/responses` and what is below it.

Creating one is plain ASGI, as with the other endpoints that generate.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.base import InvalidPromptError
from gateway import exchange
from gateway.api.lists import answered, asked, listed, query_parameters
from gateway.api.schemas import documented
from gateway.call import Call
from gateway.errors import APIError, InvalidRequestError, NotFoundError
from gateway.ledger import Entry
from gateway.protocol.conversations import ItemsQuery
from gateway.protocol.lists import parse_query
from gateway.protocol.responses import CountInputTokens, CreateResponse, RetrieveQuery
from gateway.responses import object as states
from gateway.responses.context import recall
from gateway.responses.events import ResponseAnswer
from gateway.responses.fitting import blame_input, fitted_turn, input_tokens, require_room, turn
from gateway.responses.following import Following
from gateway.responses.ids import new_response_id
from gateway.services import (
    PrincipalDep,
    Services,
    ServicesDep,
    counted,
    deadline_of,
    identify,
    is_returning,
    open_entry,
    read_json,
    resolve,
)
from gateway.store.responses import RUNNING
from gateway.tenants import Principal

logger = logging.getLogger(__name__)

router = APIRouter(tags=["responses"])

T = TypeVar("T")

_PATH: Final = "/v1/responses"
_ONE: Final = _PATH + "/{response_id}"
_RESPONSE: Final = "openai.types.responses:Response"
_EVENT: Final = "openai.types.responses:ResponseStreamEvent"
_EXAMPLE: Final = {"model": "", "input": "What is the capital of Japan?", "max_output_tokens": 32}


@dataclass(frozen=True, slots=True)
class _Task:
    """One response to be made, for `owner`; `items` are its input."""

    room: Services
    owner: str
    body: CreateResponse
    items: Sequence[Mapping[str, Any]]
    opening: states.Response
    answer: ResponseAnswer
    call: Call
    log: list[bytes] | None

    async def keep(self, final: states.Response) -> None:
        """Add what was said to the conversation, if it is part of one."""
        conversation = self.body.conversation_id
        if conversation is not None:
            said = [*self.items, *final["output"]]
            await self.room.store.conversations.add_items(self.owner, conversation, said)

    async def store(self, final: states.Response) -> None:
        if self.body.stored:
            await self.room.store.responses.create(self.owner, final, self.items)


class ResponsesEndpoint:
    """The ASGI application of `POST /v1/responses`. Raises APIError, EngineError before its first
    byte."""

    path: str = _PATH
    summary: str = "Answer, whole, as a stream or in the background."
    documentation: Mapping[str, Any] = documented(
        CreateResponse, answer=_RESPONSE, event=_EVENT, example=_EXAMPLE
    )

    def __init__(self, room: Services) -> None:
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, room = Request(scope, receive), self._room
        who = identify(request, room)
        entry = open_entry(request, who, self.path)
        deadline = deadline_of(request, room, scope["state"]["arrived"])
        returning = is_returning(request)
        body = await read_json(request, room, CreateResponse)
        entry.streamed = bool(body.stream)
        try:
            task = await self._task(body, who, entry, deadline, returning, scope)
            if body.background:
                await self._background(task, scope, receive, send)
            else:
                await self._answer(task, scope, send)
        except InvalidPromptError as error:
            raise blame_input(error) from None

    async def _task(
        self,
        body: CreateResponse,
        who: Principal,
        entry: Entry,
        deadline: float | None,
        returning: bool | None,
        scope: Scope,
    ) -> _Task:
        body.require_consistent()
        room, owner = self._room, who.owner
        deployment = resolve(room, who, body.model)
        entry.model = deployment.name
        room.lifecycle.require_open()
        engine = deployment.engine()
        # Recalling and rendering may take long, and come before the call is admitted: who would be
        # refused then has to be refused before them. Nothing is taken of the limits yet.
        room.limiter.check(who.accounts)
        context = await recall(room.store, owner, body)
        sampling = body.options()
        if body.truncation == "auto":
            planned = await fitted_turn(engine, body, context.items, sampling.max_tokens)
        else:
            planned = turn(engine, body, context.items)
        if body.background:  # later there is nobody to be told what is wrong
            await require_room(engine, planned, sampling.max_tokens)
        opening = states.opening(body, response_id=new_response_id(), model=deployment.name)
        log: list[bytes] | None = [] if body.background and body.stream else None
        call = Call(
            request_id=opening["id"],
            deployment=deployment,
            principal=who,
            entry=entry,
            sources=[planned.conversation],
            sampling=planned.sampling(sampling),
            param="input",
            arrived=scope["state"].get("arrived", time.perf_counter()),
            deadline=deadline,
            returning=returning,
            loose=planned.loose,
        )
        answer = ResponseAnswer(opening, planned.form, logprobs=body.logprobs, log=log)
        return _Task(room, owner, body, context.given, opening, answer, call, log)

    async def _answer(self, task: _Task, scope: Scope, send: Send) -> None:
        """Answer while the client waits; one that goes ends it."""
        answer, where = task.answer, exchange.of(scope)

        async def keep(_body: bytes) -> None:
            if answer.final is not None:
                # The conversation first, as it may refuse: then the response is stored as failed.
                await task.keep(answer.final)
                await task.store(answer.final)

        if not task.body.stream:
            await self._room.reply.whole(task.call, answer, where, send, keep=keep)
            return
        await self._room.reply.stream(task.call, answer, where, send, keep=keep)
        # Who knows its id may ask for it, however it ended.
        if answer.announced and answer.final is None:
            answer.cancel()
        if answer.final is not None and answer.final["status"] in ("cancelled", "failed"):
            try:
                await task.store(answer.final)
            except APIError as error:
                logger.warning("a response that ended early is not stored: %s", error.message)

    async def _background(self, task: _Task, scope: Scope, receive: Receive, send: Send) -> None:
        run = await self._room.background.start(
            task.owner,
            task.call,
            task.opening,
            task.answer,
            task.items,
            keep=task.keep,
            log=task.log,
        )
        scope["state"].pop("entry", None)  # it is the run's, which may outlive this request
        queued = answered(msgspec.json.encode(task.opening))
        answer = Following(run.told) if task.body.stream else queued
        await answer(scope, receive, send)


@router.post(
    _PATH + "/input_tokens",
    openapi_extra=documented(
        CountInputTokens,
        answer="openai.types.responses:InputTokenCountResponse",
        example={"model": "", "input": "Hello"},
    ),
)
async def count(request: Request, room: ServicesDep, caller: PrincipalDep) -> Response:
    """How many input tokens a response would have."""
    body = await read_json(request, room, CountInputTokens)
    body.require_input()
    deployment = resolve(room, caller, body.model)
    engine = deployment.engine()
    room.lifecycle.require_open()
    context = await recall(room.store, caller.owner, body)
    try:
        async with counted(room, caller):
            tokens = await input_tokens(engine, body, context.items)
    except InvalidPromptError as error:
        raise blame_input(error) from None
    found = {"object": "response.input_tokens", "input_tokens": tokens}
    return answered(msgspec.json.encode(found))


@router.get(
    _ONE,
    openapi_extra={
        **documented(answer=_RESPONSE, event=_EVENT),
        **query_parameters(RetrieveQuery),
    },
)
async def retrieve(
    response_id: str, request: Request, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """One response as it is now; or its events, if it was made to be streamed in the background."""
    query = parse_query(RetrieveQuery, request.query_params.multi_items())
    found = await room.store.responses.retrieve(caller.owner, response_id)
    body = _found(found, response_id)
    if query.stream != "true":
        return answered(body)
    told = room.background.told(caller.owner, response_id)
    if told is None or told.log is None:
        raise InvalidRequestError(
            f"The events of response '{response_id[:128]}' can't be streamed: only those of a "
            "response that was created with both 'background' and 'stream' can, until a while "
            "after it has ended.",
            code="invalid_value",
            param="stream",
        )
    return Following(told, query.starting_after + 1)


@router.delete(_ONE, openapi_extra=documented(answer="gateway.protocol.answers:ResponseDeleted"))
async def delete(response_id: str, room: ServicesDep, caller: PrincipalDep) -> Response:
    """Delete a response with its input items; one that is being made ends."""
    run = room.background.running(caller.owner, response_id)
    deleted = await room.store.responses.delete(caller.owner, response_id)
    _found(deleted or None, response_id)
    if run is not None:
        run.cancel()
    told = {"id": response_id, "object": "response", "deleted": True}
    return answered(msgspec.json.encode(told))


@router.post(_ONE + "/cancel", openapi_extra=documented(answer=_RESPONSE))
async def cancel(response_id: str, room: ServicesDep, caller: PrincipalDep) -> Response:
    """End a background response; one that is cancelled already is told again."""
    stored = room.store.responses
    run = room.background.running(caller.owner, response_id)
    if run is not None:
        run.cancel()
        await run.over()
    body = _found(await stored.retrieve(caller.owner, response_id), response_id)
    response = msgspec.json.decode(body)
    if not response["background"]:
        raise InvalidRequestError("Cannot cancel a synchronous response.")
    if response["status"] in RUNNING:  # it is another gateway's, whose end of it won't count
        response = states.cancelled(response)
        if not await stored.update(caller.owner, response):
            body = _found(await stored.retrieve(caller.owner, response_id), response_id)
            response = msgspec.json.decode(body)
    if response["status"] != "cancelled":
        raise InvalidRequestError(f"Cannot cancel a {response['status']} response.")
    return answered(msgspec.json.encode(response))


@router.get(
    _ONE + "/input_items",
    openapi_extra={
        **documented(answer="openai.types.responses:ResponseItem", listed=True),
        **query_parameters(ItemsQuery),
    },
)
async def input_items(
    response_id: str, request: Request, room: ServicesDep, caller: PrincipalDep
) -> Response:
    """What a response was asked with, the newest first where nothing else is asked."""
    query = parse_query(ItemsQuery, request.query_params.multi_items())
    found = await room.store.responses.input_items(caller.owner, response_id, asked(query))
    return listed(_found(found, response_id))


def _found(value: T | None, response_id: str) -> T:
    """Raises NotFoundError (404)."""
    if value is None:
        raise NotFoundError(f"Response with id '{response_id[:128]}' not found.")
    return value
