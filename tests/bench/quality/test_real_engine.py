"""What the API tells of a real engine, against the same checkpoint computed directly."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.bench.quality.known import content, measured
from tests.engines import Engines
from tests.gateway.conftest import LiveGateway, tiny_gateway

__all__ = ["tiny_gateway"]


@pytest.mark.engine
@pytest.mark.asyncio(loop_scope="session")
async def test_perplexity_over_the_api_is_that_of_transformers(
    tiny_gateway: LiveGateway,
    engines: Engines,
    tmp_path: Path,
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = tmp_path / "squares.txt"
    file.write_text(" ".join(f"The square of {n} is {n * n}." for n in range(130)))
    record = await measured(
        f"{tiny_gateway.url}/v1",
        tmp_path / "r.json",
        *("--perplexity", "--text", file, "--length", "128", "--stride", "96", "--windows", "8"),
    )

    path = engines.path("tiny")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(path)(content(file), add_special_tokens=False).input_ids
    expected, counts = [], []
    with torch.no_grad():
        for number in range(8):
            window = torch.tensor(ids[number * 96 : number * 96 + 128])
            scored_from = 1 if number == 0 else 32
            logprobs = model(window[None]).logits[0, :-1].log_softmax(-1)
            chosen = logprobs.gather(1, window[1:, None])[scored_from - 1 :, 0]
            expected.append(-chosen.sum().item())
            counts.append(len(chosen))
    found = record["perplexity"]["windows"]
    assert [window["tokens"] for window in found] == counts
    # Both compute in float32, with kernels that add in another order: about 1e-6 of a logit.
    assert [window["nll"] for window in found] == pytest.approx(expected, rel=1e-4)
    total = math.exp(sum(expected) / sum(counts))
    assert record["perplexity"]["value"] == pytest.approx(total, rel=1e-3)
