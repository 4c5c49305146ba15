"""Random requests, of which it is known what they have to be answered."""

from __future__ import annotations

import json
from random import Random
from typing import Any, Final

from bench.chaos.exchange import Ask
from bench.prompts.words import WORDS
from bench.tiny.model import MAX_MODEL_LEN, TinyModel

_CHAT: Final = "/v1/chat/completions"
_COMPLETIONS: Final = "/v1/completions"
_MODEL: Final = "tiny"


class Traffic:
    """Draws requests; the same ones for the same seed."""

    def __init__(self, model: TinyModel, seed: int) -> None:
        self._model = model
        self._random = Random(seed)

    def draw(self) -> Ask:
        """One of a mixed crowd: streamed or not, patient, hanging up, stalled or wrong."""
        lot = self._random.random()
        if lot < 0.1:
            return self.wrong()
        if lot < 0.25:
            return self._asked(hang_up_s=self._random.expovariate(1 / 0.3) + 1e-3)
        if lot < 0.3:
            return self._asked(stall_s=self._random.uniform(0.05, 1.0))
        return self._asked()

    def long(self, max_tokens: int, **fields: Any) -> Ask:
        """A greedy stream of exactly so many tokens, whose text is known; with penalties, say, in
        `fields` it isn't."""
        content = self._words(self._random.randint(4, 60))
        text, _ = self._model.answer(self._model.prompt(content), max_tokens)
        body = self._body(max_tokens, messages=[{"role": "user", "content": content}])
        known = None if fields else text
        return Ask(_CHAT, _encoded(body, True, **fields), stream=True, text=known)

    def short(self) -> Ask:
        """One token, not streamed."""
        body = self._body(1, prompt=self._words(4))
        return Ask(_COMPLETIONS, _encoded(body, False))

    def _asked(self, *, hang_up_s: float | None = None, stall_s: float = 0.0) -> Ask:
        random = self._random
        # Who stalls is asked more, so that there is something to stall.
        most = 400 if stall_s else 48
        max_tokens = min(1 + int(random.expovariate(1 / 20)), most) if not stall_s else most
        content = self._words(1 + min(int(random.expovariate(1 / 40)), 600))
        greedy = random.random() < 0.7
        n = 2 if random.random() < 0.08 else 1
        fields: dict[str, Any] = {} if greedy else {"temperature": 2}
        if random.random() < 0.1:
            greedy, fields["presence_penalty"] = False, 0.5
        if random.random() < 0.15:
            greedy, fields["ignore_eos"] = False, False
        chat = random.random() < 0.7
        body = (
            self._body(max_tokens, messages=[{"role": "user", "content": content}], n=n)
            if chat
            else self._body(max_tokens, prompt=content, n=n)
        )
        prompt = self._model.prompt(content) if chat else self._tokens(content)
        text = self._model.answer(prompt, max_tokens)[0] if greedy and n == 1 else None
        stream = bool(stall_s) or random.random() < 0.6
        path = _CHAT if chat else _COMPLETIONS
        return Ask(path, _encoded(body, stream, **fields), stream, hang_up_s, stall_s, text=text)

    def wrong(self) -> Ask:
        """One that has to be refused."""
        body = self._body(8, messages=[{"role": "user", "content": self._words(8)}])
        kinds: list[bytes] = [
            b'{"model": "tiny", "messages": [',
            _encoded({**body, "model": "gpt-x"}, False),
            _encoded({**body, "messages": []}, False),
            _encoded({**body, "temperature": 9}, True),
            _encoded({**body, "max_tokens": MAX_MODEL_LEN + 1}, False),
            _encoded({**body, "max_tokens": -1}, True),
        ]
        return Ask(_CHAT, self._random.choice(kinds), wrong=True)

    def _body(self, max_tokens: int, **fields: Any) -> dict[str, Any]:
        fixed = {"model": _MODEL, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        return {**fixed, **fields}

    def _words(self, number: int) -> str:
        return " ".join(self._random.choices(WORDS, k=number))

    def _tokens(self, text: str) -> list[int]:
        return list(self._model.tokenizer.encode(text, add_special_tokens=False).ids)


def _encoded(body: dict[str, Any], stream: bool, **fields: Any) -> bytes:
    streaming = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return json.dumps({**body, **streaming, **fields}).encode()
