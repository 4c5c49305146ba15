"""The requests whose answers have to be the same everywhere, drawn from a seed."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.prompts.words import WORDS
from bench.tiny.model import END, SPECIAL, TinyModel
from bench.tiny.walk import REPLACEMENT, walk

MAX_CHOICES: Final = 3
_MAX_STOPS: Final = 4
# Characters of two to four bytes, of several code points, and those a terminal doesn't show.
_ODD_WORDS: Final = (
    "😀", "🎉", "👩\u200d👧", "🏳\ufe0f\u200d🌈", "漢字", "字", "日本語", "é", "e\u0301",
    "Z\u0351\u0324", "नमस्ते", "ﷺ", "\u200d", "\u202eabc", "\n\n", "\t", '"\\', "\u2028", "\x07",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One request. `body` lacks only `stream`; `prompt_tokens` is its exact count.

    `start` is the token after which the walk of its greedy choices begins, None where they can't
    be foretold. `stops_by` says which of the plan's ways to stop it has.
    """

    number: int
    chat: bool
    body: Mapping[str, Any]
    prompt_tokens: int
    start: int | None
    stops_by: str | None

    @property
    def path(self) -> str:
        """Below the base URL, which ends in `/v1`."""
        return "/chat/completions" if self.chat else "/completions"

    @property
    def greedy(self) -> bool:
        """Whether every choice takes the likeliest token."""
        return bool(self.body["temperature"] == 0)

    @property
    def choices(self) -> int:
        """How many choices the answer has to have."""
        prompt = self.body.get("prompt")
        listed = isinstance(prompt, list) and not isinstance(prompt[0], int)
        return int(self.body.get("n", 1)) * (len(prompt) if prompt and listed else 1)

    @property
    def max_tokens(self) -> int:
        """How long each choice may be."""
        return int(self.body.get("max_completion_tokens") or self.body["max_tokens"])

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, in their order."""
        stop = self.body.get("stop", ())
        return (stop,) if isinstance(stop, str) else tuple(stop)

    @property
    def vllm_takes_it(self) -> bool:
        """vLLM's server refuses several choices that can only be the same."""
        return not (self.greedy and self.body.get("n", 1) > 1)

    def encoded(self, *, stream: bool) -> bytes:
        """The body as it is sent."""
        mode = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return json.dumps({**self.body, **mode}, ensure_ascii=False).encode()


def plan(
    model: TinyModel,
    name: str,
    count: int,
    seed: int,
    *,
    max_tokens: int = 256,
    max_words: int = 300,
) -> list[Case]:
    """`count` requests for the model served as `name`; a number has the same request whatever
    the count. `max_tokens` is the highest limit of an answer, `max_words` the longest prompt."""
    longest = (max_tokens, max_words)
    return [
        _Draft(model, name, f"{seed} {number}", longest).case(number) for number in range(count)
    ]


class _Draft:
    """A request on its way: what is drawn later depends on what was drawn before."""

    def __init__(self, model: TinyModel, name: str, seed: str, longest: tuple[int, int]) -> None:
        self._model = model
        self._max_tokens, self._max_words = longest
        self._rng = random.Random(seed)
        self._body: dict[str, Any] = {"model": name}
        self._start: int | None = None
        self._stops_by: str | None = None

    def case(self, number: int) -> Case:
        rng = self._rng
        chat = rng.random() < 0.5
        prompt_tokens = self._chat() if chat else self._completion()
        self._sampling(chat)
        limit = int(self._body.get("max_completion_tokens") or self._body["max_tokens"])
        known = self._start in self._model.successors
        ahead = self._ahead(limit)
        self._stopping(ahead)
        if rng.random() < 0.15:
            self._body["min_tokens"] = rng.randint(0, limit)
        return Case(
            number=number,
            chat=chat,
            body=self._body,
            prompt_tokens=prompt_tokens,
            start=self._start if known and self._foretold(ahead) else None,
            stops_by=self._stops_by,
        )

    def _chat(self) -> int:
        content = self._text()
        self._body["messages"] = [{"role": "user", "content": content}]
        tokens = self._model.prompt(content)
        self._start = tokens[-1]
        return len(tokens)

    def _completion(self) -> int:
        one = self._text if self._rng.random() < 0.5 else self._tokens
        if self._rng.random() < 0.1:
            prompts = [one(), one()]
            self._body["prompt"] = prompts
            return sum(len(self._encoded(prompt)) for prompt in prompts)
        prompt = self._body["prompt"] = one()
        tokens = self._encoded(prompt)
        self._start = tokens[-1]
        return len(tokens)

    def _encoded(self, prompt: str | Sequence[int]) -> Sequence[int]:
        return self._model.tokenizer.encode(prompt).ids if isinstance(prompt, str) else prompt

    def _text(self) -> str:
        """As often short as long; two in five with odd characters."""
        rng = self._rng
        count = round(self._max_words ** rng.random())
        odd = 0.2 if rng.random() < 0.4 else 0.0
        return " ".join(
            rng.choice(_ODD_WORDS if rng.random() < odd else WORDS) for _ in range(count)
        )

    def _tokens(self) -> list[int]:
        """Token ids that need not be text; half of them lead straight to the end of sequence.

        The last is whole text. After a part of a character servers don't agree what belongs to
        the answer: vLLM 0.32 begins it with the end of the prompt.
        """
        rng = self._rng
        count = round(self._max_words ** rng.random())
        ids = range(len(SPECIAL), self._model.tokenizer.get_vocab_size())
        found = rng.choices(ids, k=count)
        if rng.random() < 0.5:
            before = {token: previous for previous, token in self._model.successors.items()}
            found[-1] = END
            for _ in range(rng.randint(1, self._max_tokens)):
                found[-1] = before[found[-1]]
        while REPLACEMENT in self._model.tokenizer.decode([found[-1]]):
            found[-1] = rng.choice(ids)
        return found

    def _sampling(self, chat: bool) -> None:
        rng = self._rng
        limit = rng.randint(1, self._max_tokens if rng.random() < 0.8 else min(self._max_tokens, 8))
        name = "max_completion_tokens" if chat and rng.random() < 0.3 else "max_tokens"
        self._body[name] = limit
        (self._body["temperature"],) = rng.choices((0, 1, 2), (5, 2, 3))
        self._body["seed"] = rng.randrange(2**31)
        self._body["ignore_eos"] = rng.random() < 0.5
        if rng.random() < 0.15:
            self._body["n"] = rng.randint(2, MAX_CHOICES)

    def _ahead(self, limit: int) -> list[int]:
        """The walk of a greedy answer; one like it where the prompt doesn't begin one."""
        start = self._start
        if start is None or start not in self._model.successors:
            start = self._rng.choice(list(self._model.successors))
        return walk(self._model, start, limit)

    def _stopping(self, ahead: Sequence[int]) -> None:
        rng = self._rng
        if rng.random() < 0.15:
            ids = range(self._model.tokenizer.get_vocab_size())
            self._body["stop_token_ids"] = [
                rng.choice(ahead),
                *rng.choices(ids, k=rng.randint(0, 2)),
            ]
        if rng.random() < 0.5:
            ways: dict[str, Callable[[str], list[str]]] = {
                "a slice": self._slices,
                "overlapping slices": self._overlapping,
                "a character of several tokens": self._spread,
                "two letters": self._letters,
                "what never comes": self._never,
                "a replacement character": lambda _text: [REPLACEMENT],
            }
            (self._stops_by,) = rng.choices(list(ways), (40, 20, 15, 10, 10, 5))
            text = self._model.tokenizer.decode(ahead).strip(REPLACEMENT)
            found = ways[self._stops_by](text or "a")[:_MAX_STOPS]
            self._body["stop"] = found[0] if len(found) == 1 and rng.random() < 0.5 else found

    def _slice(self, text: str) -> str:
        """A few characters: most slices of more than two hold a border between tokens."""
        first = self._rng.randrange(len(text))
        return text[first : first + self._rng.randint(1, 12)]

    def _slices(self, text: str) -> list[str]:
        return [self._slice(text) for _ in range(self._rng.randint(1, _MAX_STOPS))]

    def _overlapping(self, text: str) -> list[str]:
        """A slice, parts of it and more than it, in any order."""
        whole = self._slice(text)
        cut = self._rng.randint(0, len(whole) - 1)
        found = list({whole, whole[cut:], whole[: cut + 1], f"{whole}{self._slice(text)}"})
        self._rng.shuffle(found)
        return found

    def _spread(self, text: str) -> list[str]:
        """An ideograph or emoji of the text with what surrounds it, or one that may never come."""
        places = [place for place, character in enumerate(text) if ord(character) > 0x2FF]
        if not places:
            return [self._rng.choice(("😀", "🎉", "漢", "字", "\u0301"))]
        place = self._rng.choice(places)
        before, after = self._rng.randint(0, 3), self._rng.randint(1, 3)
        return [text[max(place - before, 0) : place + after]]

    def _letters(self, _text: str) -> list[str]:
        letters = string.ascii_lowercase + " "
        return ["".join(self._rng.choices(letters, k=2)) for _ in range(_MAX_STOPS)]

    def _never(self, _text: str) -> list[str]:
        count = self._rng.randint(1, _MAX_STOPS)
        return ["".join(self._rng.choices(string.ascii_letters, k=24)) for _ in range(count)]

    def _foretold(self, ahead: Sequence[int]) -> bool:
        """A token that may not come yet is replaced by the second likeliest, which isn't known."""
        barred = {END, *self._body.get("stop_token_ids", ())}
        early = ahead[: self._body.get("min_tokens", 0)]
        return self._body["temperature"] == 0 and not barred.intersection(early)
