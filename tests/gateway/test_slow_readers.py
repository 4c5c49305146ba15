"""Whoever reads slowly takes no place from others."""

from __future__ import annotations

import asyncio
import socket

from tests.gateway.conftest import StartGateway
from tests.gateway.test_hangups import LONG, request_bytes


async def test_a_finished_answer_that_nobody_reads_keeps_nobody_waiting(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **{
            "engine.simulated.step_ms": 0.01,
            "engine.simulated.text": "x" * 4000 + " ",
            "engine.max_model_len": 200_000,
            "engine.max_num_seqs": 4,
            "admission.margin": 0,
            "server.write_timeout_s": 30,
        }
    )
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    slow.connect(("127.0.0.1", gateway.port))
    much = {"max_tokens": 5000, "n": 4, "logprobs": True, "top_logprobs": 2}
    slow.sendall(request_bytes({**LONG, "stream": True, **much}))
    try:
        async with asyncio.timeout(40):
            while not gateway.engine.stats().generation_tokens_total:
                await asyncio.sleep(0.05)
            while gateway.engine.stats().running:
                await asyncio.sleep(0.05)
        assert gateway.services.admission.inside
        async with asyncio.timeout(5):
            status, _ = await gateway.chat(max_tokens=3, ignore_eos=True)
        assert status == 200
    finally:
        slow.close()
