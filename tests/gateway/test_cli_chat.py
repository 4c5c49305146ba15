"""`gateway chat` as it is used: in pipes, in a terminal, against a server, with the real engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import psutil
import pytest

from bench.servers.server import free_port
from gateway.commands.remote import normalised_url
from tests.gateway.conftest import MODEL, LiveGateway, StartGateway

TEXT = "The quick brown fox jumps over the lazy dog."
CHAT = [sys.executable, "-m", "gateway", "chat"]
DEADLINE_S = 60


def simulated(**settings: object) -> list[str]:
    """Options for an engine that answers `TEXT` at once."""
    defaults = {"engine.kind": "simulated", "engine.simulated.step_ms": 1}
    chosen = defaults | {f"engine.{key}": value for key, value in settings.items()}
    return [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]


def ask(
    options: Sequence[str], stdin: str, timeout: float = DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHAT, *options], input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )


def test_in_a_pipe_stdout_is_the_answer_alone_and_stderr_its_performance() -> None:
    ran = ask(simulated(), "What is 2+2?\n")
    assert (ran.returncode, ran.stdout) == (0, TEXT + "\n")
    figures = ran.stderr.splitlines()[-1]
    assert figures.startswith("16 prompt + 45 answer tokens · first token ")
    assert "tokens/s in total" in figures


def test_all_of_stdin_is_one_prompt() -> None:
    ran = ask([*simulated(), "--json"], "two\nlines\n")
    (turn,) = [json.loads(line) for line in ran.stdout.splitlines()]
    assert turn["prompt_tokens"] == len("two\nlines") + 4


def test_with_lines_every_line_that_is_not_blank_is_a_turn_of_one_conversation() -> None:
    ran = ask([*simulated(), "--lines", "--json"], "one\n\ntwo\n")
    turns = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [turn["answer"] for turn in turns] == [TEXT, TEXT]
    assert turns[1]["prompt_tokens"] > turns[0]["prompt_tokens"] + len(TEXT)
    assert ran.stderr.splitlines()[-1].startswith("2 turns · ")


def test_json_has_the_performance() -> None:
    ran = ask([*simulated(), "--json", "--max-tokens", "5", "--system", "abc"], "Hi")
    turn = json.loads(ran.stdout)
    assert turn["answer"] == TEXT[:5]
    assert turn["finish_reason"] == "length"
    assert (turn["prompt_tokens"], turn["completion_tokens"]) == (11, 5)
    assert 0 < turn["time_to_first_token_s"] < turn["elapsed_s"]
    assert turn["total_tokens_per_second"] == pytest.approx(16 / turn["elapsed_s"], rel=0.1)
    assert turn["tokens_per_second"] > 0


@pytest.mark.parametrize("options", [[], ["--lines"]])
def test_an_empty_pipe_gets_no_answer(options: list[str]) -> None:
    ran = ask([*simulated(), *options], "\n")
    assert ran.stdout == ""
    assert ran.returncode == 2
    assert "stdin is empty" in ran.stderr


def test_a_prompt_too_long_for_the_model_is_said_and_exit_code_1() -> None:
    ran = ask(simulated(max_model_len=64), "x" * 100)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "maximum context length is 64 tokens" in ran.stderr


def test_an_engine_that_dies_is_exit_code_1_after_what_it_said() -> None:
    ran = ask(simulated(**{"simulated.die_after_tokens": 9}), "Hi")
    assert ran.returncode == 1
    assert "engine died" in ran.stderr
    assert TEXT.startswith(ran.stdout.strip())


def test_a_model_that_is_not_there_is_exit_code_1() -> None:
    ran = ask(["./no/such/model"], "Hi")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "error: no/such/model" in ran.stderr


def test_ctrl_c_in_a_pipe_is_exit_code_130() -> None:
    with subprocess.Popen(
        [*CHAT, *simulated(**{"simulated.step_ms": 50})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"Hi")
        child.stdin.close()
        child.stdout.read(3)
        child.send_signal(signal.SIGINT)
        assert child.wait(DEADLINE_S) == 130


class Terminal:
    """The program in a pseudo-terminal."""

    def __init__(self, *options: str) -> None:
        self._fd, slave = pty.openpty()
        self.child = subprocess.Popen(
            [*CHAT, *options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def interrupt(self) -> None:
        self.child.send_signal(signal.SIGINT)

    def see(self, expected: str) -> str:
        """Wait until `expected` appears; returns all up to and with it and looks no further."""
        deadline = time.monotonic() + DEADLINE_S
        while expected not in self.screen:
            assert self._read(deadline - time.monotonic()), f"no {expected!r} in {self.screen!r}"
        seen, _, self.screen = self.screen.partition(expected)
        return seen + expected

    def interrupt_until(self, expected: str) -> None:
        """Ctrl-C at the prompt. Python misses a signal between showing a prompt and waiting for
        keys: then press again, as a person would."""
        deadline = time.monotonic() + DEADLINE_S
        while expected not in self.screen:
            assert time.monotonic() < deadline, f"no {expected!r} in {self.screen!r}"
            if not self._read(1.0):
                self.interrupt()

    def _read(self, seconds: float) -> bool:
        """False where nothing came in that time, or the program has ended."""
        if not select.select([self._fd], [], [], max(seconds, 0))[0]:
            return False
        try:
            self.screen += os.read(self._fd, 4096).decode(errors="replace")
        except OSError:  # the other side is closed
            return False
        return True

    def leave(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self._fd)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A chat at its first prompt; slow enough to be interrupted."""
    opened = Terminal(*simulated(**{"simulated.step_ms": 20}))
    try:
        opened.see("> ")
        yield opened
    finally:
        opened.leave()


def test_a_person_talks_over_several_turns_and_leaves_with_totals(terminal: Terminal) -> None:
    terminal.type("Hello\n")
    terminal.see(TEXT)
    terminal.see("9 prompt + 45 answer tokens")
    terminal.see("> ")
    terminal.type("Again\n")
    terminal.see("62 prompt + 45 answer tokens")
    terminal.see("> ")
    terminal.type("/reset\n")
    terminal.see("starts over")
    terminal.see("> ")
    terminal.type("Hello\n")
    terminal.see("9 prompt + 45 answer tokens")
    terminal.see("> ")
    terminal.type("\x04")
    terminal.see("3 turns · 80 prompt + 135 answer tokens")
    assert terminal.child.wait(DEADLINE_S) == 0


def test_ctrl_c_stops_the_answer_and_the_next_one_comes(terminal: Terminal) -> None:
    terminal.type("Hello\n")
    terminal.see("The quick")
    terminal.interrupt()
    assert "lazy dog" not in terminal.see("Stopped.")
    terminal.see("> ")
    terminal.type("/reset\n")
    terminal.see("> ")
    terminal.type("Hello\n")
    terminal.see(TEXT)
    terminal.see("> ")
    terminal.interrupt_until("2 turns")
    assert terminal.child.wait(DEADLINE_S) == 0


def test_commands_are_listed_and_unknown_ones_refused(terminal: Terminal) -> None:
    terminal.type("/what\n")
    terminal.see("/what is no command")
    terminal.see("/reset")
    terminal.see("> ")
    terminal.type("/stats\n")
    terminal.see("Nothing asked yet.")
    terminal.see("> ")
    terminal.type("/quit\n")
    assert terminal.child.wait(DEADLINE_S) == 0


def test_sigterm_ends_the_chat(terminal: Terminal) -> None:
    terminal.type("Hello\n")
    terminal.see("The quick")
    terminal.child.send_signal(signal.SIGTERM)
    assert terminal.child.wait(DEADLINE_S) == 128 + signal.SIGTERM


async def ask_url(
    url: str, *options: str, stdin: str = "Hi", key: str = "none"
) -> tuple[int, str, str]:
    child = await asyncio.create_subprocess_exec(
        *CHAT,
        *("--url", url, *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENAI_API_KEY": key},
    )
    async with asyncio.timeout(DEADLINE_S):
        out, err = await child.communicate(stdin.encode())
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


async def test_by_url_a_servers_first_model_answers_and_is_measured(gateway: LiveGateway) -> None:
    code, out, err = await ask_url(gateway.url)
    assert (code, out) == (0, TEXT + "\n")
    assert f"{MODEL} at {gateway.url}/v1" in err
    assert "6 prompt + 45 answer tokens · first token " in err


async def test_by_url_options_reach_the_server(gateway: LiveGateway) -> None:
    options = ("--json", "--max-tokens", "4", "--seed", "1", "--system", "abc")
    code, out, _ = await ask_url(f"127.0.0.1:{gateway.port}/", *options)
    turn = json.loads(out)
    assert code == 0
    assert (turn["answer"], turn["finish_reason"]) == (TEXT[:4], "length")
    assert (turn["prompt_tokens"], turn["completion_tokens"]) == (11, 4)


async def test_by_url_a_wrong_model_or_a_long_prompt_is_exit_code_1(gateway: LiveGateway) -> None:
    code, out, err = await ask_url(gateway.url, "another-model")
    assert (code, out) == (1, "")
    assert "404" in err
    assert "another-model" in err
    code, _, err = await ask_url(gateway.url, stdin="x" * 600)
    assert code == 1
    assert "maximum context length" in err


async def test_by_url_the_api_key_is_sent_and_a_refusal_is_clear(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "a-key-of-more-than-twenty-four-characters"
    monkeypatch.setenv("CHAT_TEST_KEY", key)
    locked = await start_gateway(**{"auth.api_keys": [{"name": "a", "env": "CHAT_TEST_KEY"}]})
    code, out, _ = await ask_url(locked.url, key=key)
    assert (code, out) == (0, TEXT + "\n")
    code, out, err = await ask_url(locked.url, key="wrong")
    assert (code, out) == (1, "")
    assert "refused the API key" in err


@pytest.mark.parametrize("url", ["", "http://"])
async def test_an_unreachable_server_is_exit_code_1_and_says_so(url: str) -> None:
    code, out, err = await ask_url(f"{url}127.0.0.1:{free_port()}")
    assert (code, out) == (1, "")
    assert "Is the server running?" in err


@pytest.mark.parametrize(
    "given",
    ["h:1", "http://h:1", "http://h:1/", " http://h:1/v1/ ", "http://h:1/v1/chat/completions"],
)
def test_every_way_to_write_a_url_means_the_same(given: str) -> None:
    assert normalised_url(given) == "http://h:1/v1"


@pytest.mark.engine
def test_the_real_model_answers_in_a_pipe_and_leaves_no_process() -> None:
    options = [
        "--eager",
        "--temperature",
        "0",
        "--max-tokens",
        "20",
        "--set",
        "engine.warmup=false",
    ]
    with subprocess.Popen(
        [*CHAT, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        out, err = child.communicate("What is the capital of Japan?\n", timeout=300)
    assert child.returncode == 0, err
    assert out == "The capital of Japan is Tokyo.\n"
    assert "37 prompt + 8 answer tokens" in err
    # The session outlives its leader in the engine's processes, were any left.
    _, left = psutil.wait_procs(in_session(child.pid), timeout=10)
    assert not left


def in_session(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found
