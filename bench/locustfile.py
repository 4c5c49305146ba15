"""Locust users that stream completions from an OpenAI-compatible server.

    locust -f bench/locustfile.py --host http://127.0.0.1:8000
    locust -f bench/locustfile.py --host http://127.0.0.1:8000 --headless -u 8 -r 8 --requests 64

The first opens Locust's web page, the second sends 64 requests, 8 at a time, and ends. Next to
Locust's own row for the request, whose time is that of the whole answer (E2EL), there are two more
of type LLM: TTFT, request sent to first text, and TPOT, (E2EL - TTFT) / (completion tokens - 1).
Locust rounds the percentiles it shows to two digits; --report keeps every value.
"""

from __future__ import annotations

import gc
import json
import logging
import urllib.request
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import FastHttpUser, events  # type: ignore[import-not-found]
from locust.exception import StopUser  # type: ignore[import-not-found]

from bench.locust_run import Answer, RefusedAnswerError, Run, read_answer

_WRONG_SETTINGS = 2

logger = logging.getLogger("bench.locustfile")


class _Current:
    """The test that runs; Locust gives its users no other place to share it."""

    run = Run()


def _one_request(user: CompletionUser) -> None:
    """Locust's task. Raises StopUser when all requests have been given out."""
    options = user.environment.parsed_options
    run = _Current.run
    prompt = run.take(options.input_tokens)
    if prompt is None:
        raise StopUser
    answer = _send(user, run.model, prompt)
    if answer is not None:
        _fire(user, "TTFT", answer.ttft_s)
        if answer.tpot_s is not None:
            _fire(user, "TPOT", answer.tpot_s)
    if run.ended(answer):
        _finish(user.environment)


def _send(user: CompletionUser, model: str, prompt: dict[str, Any]) -> Answer | None:
    options = user.environment.parsed_options
    body = {
        "model": model,
        **prompt,
        "max_tokens": options.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if not options.natural_end:
        body |= {"min_tokens": options.output_tokens, "ignore_eos": True}
    kind = "chat/completions" if "messages" in prompt else "completions"
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    start = perf_counter()
    with user.client.post(
        f"{_prefix(user.host)}/{kind}",
        data=json.dumps(body),
        headers={**headers, **_authorization(options.api_key)},
        stream=True,
        catch_response=True,
    ) as response:
        try:
            if response.status_code != 200:
                raise RefusedAnswerError(f"HTTP {response.status_code}: {_beginning(response)}")
            lines = iter(lambda: response.stream.readline(b"\n"), b"")
            answer = read_answer(lines, start)
        except Exception as error:
            # Whatever cuts an answer short, such as a parser's own kind of error, is a failure.
            response.failure(f"{type(error).__name__}: {error}")
            return None
        # Locust's own row would end at the headers.
        response.request_meta["response_time"] = 1000 * answer.e2el_s
        response.success()
        return answer


def _beginning(response: Any) -> str:
    error = getattr(response, "error", None)
    return str(error) if error else str(response.text)[:300]


def _fire(user: CompletionUser, name: str, seconds: float) -> None:
    user.environment.events.request.fire(
        request_type="LLM",
        name=name,
        response_time=1000 * seconds,
        response_length=0,
        exception=None,
        context={},
    )


class CompletionUser(FastHttpUser):  # type: ignore[misc]
    """Sends a request, reads its answer to the end, thinks, and sends the next."""

    tasks = [_one_request]  # noqa: RUF012  (Locust's own way to name them)
    network_timeout = 600.0

    def wait_time(self) -> float:
        return float(self.environment.parsed_options.think_time)


def _add_options(parser: Any) -> None:
    add = parser.add_argument
    add("--model", default="", help="default: the first the server lists", env_var="LLM_MODEL")
    add(
        "--api-key",
        default="",
        env_var="OPENAI_API_KEY",
        is_secret=True,
        help="sent as a bearer token, where there is one",
    )
    add(
        "--requests",
        type=int,
        default=0,
        env_var="LLM_REQUESTS",
        help="end after so many, of each Locust process (0: go on until stopped)",
    )
    add(
        "--input-tokens",
        type=int,
        default=128,
        env_var="LLM_INPUT_TOKENS",
        help="words of a random prompt: about so many tokens",
    )
    add(
        "--output-tokens",
        type=int,
        default=128,
        env_var="LLM_OUTPUT_TOKENS",
        help="tokens of each answer",
    )
    add(
        "--natural-end",
        action="store_true",
        env_var="LLM_NATURAL_END",
        help="let the model end its answers; else min_tokens and ignore_eos are sent, which vLLM "
        "and the gateway know and other APIs may refuse",
    )
    add(
        "--think-time",
        type=float,
        default=0.0,
        env_var="LLM_THINK_TIME",
        help="seconds a user waits between an answer and the next request",
    )
    add(
        "--prompts",
        default="",
        env_var="LLM_PROMPTS",
        help='file of prompts, one JSON object a line: {"messages": [...]} or {"prompt": "..."}; '
        "each is sent once, then all again",
    )
    add(
        "--report",
        default="",
        env_var="LLM_REPORT",
        include_in_web_ui=False,
        help="write every TTFT, TPOT and E2EL, and the tokens, to this file as JSON",
    )


def _begin(environment: Any, **_kwargs: Any) -> None:
    options = environment.parsed_options
    try:
        prompts = [json.loads(line) for line in _lines(options.prompts)]
        model = _chosen_model(environment.host, options.model, options.api_key)
    except (OSError, ValueError, LookupError) as error:
        logger.error("can't start: %s", error)
        environment.process_exit_code = _WRONG_SETTINGS
        _Current.run = Run(left=0)
        _finish(environment)
        return
    # What has been imported need not be gone through again while users wait for their first token.
    gc.collect()
    gc.freeze()
    _Current.run = Run(model, prompts, left=options.requests or None)


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if path else []


def _chosen_model(host: str, wanted: str, api_key: str) -> str:
    """Asked for before the users start, who then find resolver and server warm."""
    request = urllib.request.Request(  # noqa: S310  (the address is the operator's)
        f"{host.rstrip('/').removesuffix('/v1')}/v1/models", headers=_authorization(api_key)
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        names = [str(entry["id"]) for entry in json.load(answer)["data"]]
    if not names:
        raise LookupError("the server lists no models")
    if wanted and wanted not in names:
        raise LookupError(f"the server has no model {wanted!r}; it has: {', '.join(names)}")
    return wanted or names[0]


def _authorization(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _prefix(host: str) -> str:
    """Where the API begins: `--host` is taken with and without its /v1."""
    return "" if host.rstrip("/").endswith("/v1") else "/v1"


def _finish(environment: Any) -> None:
    """End the test; of a greenlet of its own, as the user that is last would stop itself first."""
    runner = environment.runner
    gevent.spawn(runner.quit if environment.web_ui is None else runner.stop)


def _report(environment: Any, **_kwargs: Any) -> None:
    path = environment.parsed_options.report
    if path:
        Path(path).write_text(json.dumps(_Current.run.record()) + "\n", encoding="utf-8")


events.init_command_line_parser.add_listener(_add_options)
events.test_start.add_listener(_begin)
events.test_stop.add_listener(_report)
