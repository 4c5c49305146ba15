"""Responses that are made while their client may be away.

::

    start ──► Run: queued ──► in_progress ──► ended, and stored so

A run belongs to this room until it has ended, however long the database fails meanwhile. Its
events, where they are to be streamed, are kept for a while longer; the last is told when the end is
stored. Several gateways may share a database: each runs and streams what it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from cachetools import TTLCache

from engine.base import EngineGenerateError
from gateway.call import Call, InterruptedCallError
from gateway.config import ResponsesConfig
from gateway.errors import APIError, OverloadedError, UnavailableError, as_api_error, draining
from gateway.generation import Generation
from gateway.pipeline import Pipeline
from gateway.responses import object as states
from gateway.responses.events import ResponseAnswer
from gateway.responses.object import Response
from gateway.store.responses import StoredResponses

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5.0
END_S: Final = 5.0
# Between two tries to store an end. Less than END_S: each has another one while a gateway closes.
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 4.0
REPLAYED_BYTES: Final = 64 * 1024 * 1024

T = TypeVar("T")
Keep = Callable[[Response], Awaitable[None]]


class Told:
    """The events of one response, and who follows them; it is kept for a while after the run.

    `log` are the events, each at the place of its number; None where nobody may stream them.
    """

    def __init__(self, owner: str, log: list[bytes] | None) -> None:
        self.owner = owner
        self.log = log
        self._followers: set[asyncio.Event] = set()
        self._ended = False
        self._unfollowed = asyncio.Event()
        self._unfollowed.set()

    @property
    def ended(self) -> bool:
        """Whether the response is stored as it ended, and the log is complete."""
        return self._ended

    def end(self) -> None:
        """It has ended."""
        self._ended = True
        self.notify()

    def follow(self) -> asyncio.Event:
        """An event that is set when there is more in the log, and at the end. Until `unfollow`."""
        news = asyncio.Event()
        self._followers.add(news)
        self._unfollowed.clear()
        return news

    def unfollow(self, news: asyncio.Event) -> None:
        self._followers.discard(news)
        if not self._followers:
            self._unfollowed.set()

    async def unfollowed(self) -> None:
        """Return once nobody follows."""
        await self._unfollowed.wait()

    def notify(self) -> None:
        """There is more in the log."""
        for news in self._followers:
            news.set()


class Run:
    """One response on its way, and what is `told` of it. Implements `pipeline.Outlet`."""

    def __init__(
        self,
        told: Told,
        opening: Response,
        answer: ResponseAnswer,
        pipeline: Pipeline,
        generation: Generation,
    ) -> None:
        self.told = told
        self._pipeline = pipeline
        self._opening = opening
        self._answer = answer
        self._generation = generation
        self._due = False
        # What went well, and is to be kept.
        self._whole: Response | None = None
        # Why its end isn't stored yet, though that was tried.
        self._unstored: UnavailableError | None = None
        self._tried = asyncio.Event()

    @property
    def id(self) -> str:
        found: str = self._opening["id"]
        return found

    async def over(self) -> None:
        """Return once it has ended. Raises UnavailableError where its end can't be stored now."""
        await self._tried.wait()
        if self._unstored is not None and not self.told.ended:
            raise self._unstored.again()

    def cancel(self) -> None:
        """Stop it, unless the model has ended already."""
        self._generation.interrupt("disconnect")

    def ready(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._tell)

    async def make(self, stored: StoredResponses, keep: Keep) -> None:
        """Generate, store, tell. Whatever happens, it has ended then."""
        try:
            await self._finish(stored, keep)
        except asyncio.CancelledError:
            logger.error(
                "the end of the background response %s is lost: this gateway closes before it is "
                "stored",
                self.id,
            )
            raise
        except Exception:
            logger.exception("the end of the background response %s is lost", self.id)
        finally:
            self.told.end()
            self._tried.set()

    async def _finish(self, stored: StoredResponses, keep: Keep) -> None:
        try:
            error = await self._made(stored)
            if error is None and self._whole is not None:
                error = await self._kept(keep, self._whole)
            await self._end(stored, error)
        except Exception as problem:
            logger.exception("the background response %s could not be ended as it was", self.id)
            # Nothing of its output: that may be what can't be stored.
            error = as_api_error(problem)
            kept = await self._put(stored, self._answer.fail(error, bare=True))
            if kept and self.told.log is not None:
                self._answer.failed(error, bare=True)

    async def _kept(self, keep: Keep, whole: Response) -> APIError | None:
        """Have the response kept; returns what went wrong."""
        try:
            await self._insist(partial(keep, whole))
        except Exception as problem:
            logger.error("the background response %s can't be kept: %r", self.id, problem)
            return as_api_error(problem)
        return None

    async def _made(self, stored: StoredResponses) -> APIError | None:
        """Generate; returns what went wrong."""
        answer, generation = self._answer, self._generation
        failure: BaseException | None = None
        try:
            await self._generate(stored)
            self._whole = answer.end(generation.take(), generation.usage)
        except InterruptedCallError as interrupted:
            failure = interrupted
            answer.cancel()
            return draining() if interrupted.cause == "shutdown" else None
        except Exception as problem:
            failure, error = problem, as_api_error(problem)
            if error.status >= 500:
                logger.error("the background response %s failed: %r", self.id, problem)
            return error
        finally:
            generation.reasoning_tokens = answer.reasoning_tokens
            self._pipeline.leave(generation, failure)
        return None

    async def _generate(self, stored: StoredResponses) -> None:
        generation = self._generation
        await generation.begin()
        self._answer.begin(generation.prompts)
        if self.told.log is not None:
            generation.outlet = self
            self._tell()
        if not await self._begin(stored):
            generation.interrupt("disconnect")
        await generation.end()
        generation.outlet = None
        if self.told.log is not None:
            self._tell()

    async def _begin(self, stored: StoredResponses) -> bool:
        """Store that it is worked on. False: cancelled through another gateway, or deleted."""
        try:
            return await stored.update(self.told.owner, states.started(self._opening))
        except UnavailableError:
            return True  # it is the end that matters, and is tried until it is stored

    async def _put(self, stored: StoredResponses, final: Response) -> bool:
        """Store the end as soon as the database can. False: cancelled elsewhere, or deleted."""
        return await self._insist(partial(stored.update, self.told.owner, final))

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, as soon as the database lets it."""
        pause = RETRY_S
        while True:
            try:
                return await work()
            except UnavailableError as error:
                if self._unstored is None:
                    logger.warning(
                        "the background response %s has ended and can't be stored now; this is "
                        "tried until it is: %s",
                        self.id,
                        error.message,
                    )
                self._unstored = error
                self._tried.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_S)

    async def _end(self, stored: StoredResponses, error: APIError | None) -> None:
        answer = self._answer
        final = answer.fail(error) if error is not None else answer.final
        if final is None or not await self._put(stored, final):
            return
        if self.told.log is None:
            return
        if error is not None:
            answer.failed(error)
        elif final["status"] != "cancelled":
            answer.finished(self._generation.usage)

    def _tell(self) -> None:
        """Write what has come to the log."""
        self._due = False
        if self._answer.final is not None:
            return
        try:
            for delta in self._generation.take():
                self._answer.events(delta)
        except Exception:
            logger.exception("a background response's tokens could not be told")
            self._generation.fail(EngineGenerateError("The answer could not be decoded."))
        self.told.notify()


class BackgroundResponses:
    """The runs of this gateway: at most `max_background` at once."""

    def __init__(
        self, config: ResponsesConfig, pipeline: Pipeline, stored: StoredResponses
    ) -> None:
        self._max = config.max_background
        self._pipeline = pipeline
        self._stored = stored
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: Any = TTLCache(REPLAYED_BYTES, config.replay_s, getsizeof=_size)

    async def start(
        self,
        owner: str,
        call: Call,
        opening: Response,
        answer: ResponseAnswer,
        items: Sequence[Mapping[str, Any]],
        *,
        keep: Keep,
        log: list[bytes] | None,
    ) -> Run:
        """Store `opening` with the input `items`, and begin. `keep` is given a response that went
        well, before it is stored. Raises APIError where it isn't taken."""
        if len(self._runs) >= self._max:
            raise OverloadedError(
                f"The server is at its limit of {self._max} background responses; retry shortly.",
                retry_after_s=RETRY_AFTER_S,
            )
        generation = self._pipeline.admit(call)
        run = Run(Told(owner, log), opening, answer, self._pipeline, generation)
        self._runs[run.id] = run
        try:
            await self._stored.create(owner, opening, items)
        except BaseException as failure:
            del self._runs[run.id]
            self._pipeline.leave(generation, failure)
            raise
        if log is not None:
            answer.announce()
        task = asyncio.create_task(run.make(self._stored, keep), name=f"response {run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._retire(run))
        return run

    def running(self, owner: str, response_id: str) -> Run | None:
        """The run of a response that hasn't ended."""
        run = self._runs.get(response_id)
        return run if run is not None and run.told.owner == owner else None

    def told(self, owner: str, response_id: str) -> Told | None:
        """What is told of a response whose events are still there."""
        run = self._runs.get(response_id)
        told = run.told if run is not None else self._ended.get(response_id)
        return told if told is not None and told.owner == owner else None

    async def close(self) -> None:
        """Return when every run has ended, as they do once their generations have and are stored,
        and those that read know it. What can't be stored by then is lost."""
        if not self._tasks:
            return
        all_told = [run.told for run in self._runs.values()]
        _, late = await asyncio.wait(self._tasks, timeout=END_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                for told in all_told:
                    await told.unfollowed()

    def _retire(self, run: Run) -> None:
        """Keep no more of it than its events: what it was made from can be much larger."""
        self._runs.pop(run.id, None)
        if run.told.log is not None:
            with contextlib.suppress(ValueError):  # larger than all there is room for
                self._ended[run.id] = run.told


def _size(told: Told) -> int:
    return sum(map(len, told.log or ()))
