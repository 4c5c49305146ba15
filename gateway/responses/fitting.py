"""From a request and its context to the turn that answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.base import ContextLengthError, Engine, InvalidPromptError
from engine.checks import completion_room
from gateway.protocol.responses import InputBody
from gateway.responses.history import Item, later, messages, most_dropped
from gateway.turn import Turn, plan


def turn(engine: Engine, body: InputBody, items: Sequence[Item]) -> Turn:
    """The turn that answers `items`, all of them. Raises InvalidRequestError,
    InvalidPromptError."""
    reasoning = body.reasoning
    return plan(
        engine,
        messages(items, body.instructions),
        tools=body.offered_tools,
        choice=body.choice(),
        parallel=body.parallel_tool_calls is not False,
        structure=body.structure,
        reasoning_effort=reasoning.effort if reasoning is not None else None,
    )


async def fitted_turn(
    engine: Engine, body: InputBody, items: Sequence[Item], max_tokens: int | None
) -> Turn:
    """The same with as many of the oldest items left out as have to be, to make room for
    `max_tokens`, or for one.

    Cut before one of the user's turns rather than within the last one. A message, or a call with
    its output, is always kept: where even the last of them is too long nothing is left out, and the
    engine will refuse it.
    """
    whole = turn(engine, body, items)
    if await _fits(engine, whole, max_tokens):
        return whole
    asked = [place for place in range(1, len(items)) if _is_asked(items[place])]
    last = asked[-1] if asked else 0
    # Beyond that nothing is left to answer: it would fit, and be no answer to what was asked.
    for places in (asked, range(last + 1, most_dropped(items) + 1)):
        found = await _first(
            places, lambda place: turn(engine, body, later(items, place)), engine, max_tokens
        )
        if found is not None:
            return found
    return whole


async def _first(
    places: Sequence[int], planned: Callable[[int], Turn], engine: Engine, max_tokens: int | None
) -> Turn | None:
    """The turn of the first place that fits, given that then all after it do; None: none does."""
    low, high = 0, len(places)
    best = None
    while low < high:
        middle = (low + high) // 2
        candidate = planned(places[middle])
        if await _fits(engine, candidate, max_tokens):
            best, high = candidate, middle
        else:
            low = middle + 1
    return best


async def _fits(engine: Engine, planned: Turn, max_tokens: int | None) -> bool:
    try:
        prompt = await engine.render(planned.conversation)
    except ContextLengthError:
        return False
    room: int = engine.info.max_model_len - len(prompt.token_ids)
    return room >= (max_tokens or 1)


def _is_asked(item: Item) -> bool:
    return bool(item["type"] == "message" and item["role"] == "user")


async def require_room(engine: Engine, planned: Turn, max_tokens: int | None) -> None:
    """Raises ContextLengthError, or what else the engine has against the prompt."""
    prompt = await engine.render(planned.conversation)
    completion_room(len(prompt.token_ids), max_tokens, engine.info.max_model_len)


async def input_tokens(engine: Engine, body: InputBody, items: Sequence[Item]) -> int:
    """How many tokens the prompt has, also where they are too many to be answered."""
    try:
        return len((await engine.render(turn(engine, body, items).conversation)).token_ids)
    except ContextLengthError as error:
        return error.prompt_tokens


def blame_input(error: InvalidPromptError) -> InvalidPromptError:
    """The engine knows conversations as `messages`; here they come from `input`."""
    if error.param == "messages" or isinstance(error, ContextLengthError):
        error.param = "input"
    return error
