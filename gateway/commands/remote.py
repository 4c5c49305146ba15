"""A model behind an OpenAI-compatible URL, for `gateway chat --url`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import httpx2
import openai

from engine.base import ChatMessage
from gateway.commands.conversation import (
    AnswerError,
    AnswerOptions,
    ContextFullError,
    Piece,
)

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam


def normalised_url(url: str) -> str:
    """`localhost:8000`, `http://localhost:8000/`, … as `http://localhost:8000/v1`."""
    url = url.strip().rstrip("/")
    if "://" not in url:
        url = f"http://{url}"
    url = url.removesuffix("/chat/completions")
    return url if url.endswith("/v1") else f"{url}/v1"


class RemoteModel:
    """A model of a running server."""

    def __init__(self, client: openai.AsyncOpenAI, name: str) -> None:
        self.client = client
        self.name = name
        self.url = str(client.base_url).rstrip("/")

    @classmethod
    async def connect(cls, url: str, api_key: str, name: str | None) -> RemoteModel:
        """Reach the server and choose its first model where no `name` is given.

        Raises AnswerError: it can't be reached, refuses the key, or serves no model.
        """
        url = normalised_url(url)
        if not api_key.isascii():
            raise AnswerError("the API key has characters that no key has", fatal=True)
        with _explained(url):
            # A repeated request would count into the measured time: no retries.
            client = openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0)
        try:
            with _explained(url):
                models = await client.models.list()
            if not models.data and name is None:
                raise AnswerError(f"{url} serves no model")
        except AnswerError:
            await client.close()
            raise
        return cls(client, name or models.data[0].id)

    async def answer(
        self, messages: Sequence[ChatMessage], options: AnswerOptions
    ) -> AsyncGenerator[Piece, None]:
        """See `Model.answer`. Token counts come with the last piece, from `usage`."""
        wire = [{"role": message.role, "content": message.content} for message in messages]
        with _explained(self.url):
            stream = await self.client.chat.completions.create(
                model=self.name,
                messages=cast("list[ChatCompletionMessageParam]", wire),
                stream=True,
                stream_options={"include_usage": True},
                temperature=options.temperature,
                top_p=options.top_p,
                seed=openai.omit if options.seed is None else options.seed,
                max_completion_tokens=openai.omit
                if options.max_tokens is None
                else options.max_tokens,
            )
            async with stream:
                async for chunk in stream:
                    yield _piece(chunk)

    async def close(self) -> None:
        await self.client.close()


def _piece(chunk: ChatCompletionChunk) -> Piece:
    choice = chunk.choices[0] if chunk.choices else None
    usage = chunk.usage
    details = usage.prompt_tokens_details if usage else None
    return Piece(
        text=(choice.delta.content or "") if choice else "",
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        cached_tokens=details.cached_tokens if details else None,
        finish_reason=choice.finish_reason if choice else None,
    )


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """The SDK's errors as ours, saying what to do."""
    try:
        yield
    except openai.APITimeoutError as error:
        raise AnswerError(f"{url} did not answer in time") from error
    except openai.APIConnectionError as error:
        reason = f": {error.__cause__}" if error.__cause__ else ""
        raise AnswerError(f"can't reach {url}{reason}. Is the server running?") from error
    except openai.AuthenticationError as error:
        raise AnswerError(
            f"{url} refused the API key; set OPENAI_API_KEY or --api-key", fatal=True
        ) from error
    except openai.APIError as error:
        if error.code == "context_length_exceeded" or "maximum context length" in error.message:
            raise ContextFullError(error.message) from error
        status = f" ({error.status_code})" if isinstance(error, openai.APIStatusError) else ""
        raise AnswerError(f"{url} refused{status}: {error.message}") from error
    except httpx2.InvalidURL as error:
        raise AnswerError(f"{url} is no URL: {error}") from error
    except httpx2.TransportError as error:
        # The SDK passes on as it is what happens in the middle of a stream.
        raise AnswerError(f"{url} broke off the answer: {error}") from error
