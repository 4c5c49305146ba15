"""`POST /v1/rerank` and `POST /v1/score` over HTTP, with a simulated embedder."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.conftest import LiveGateway, StartGateway
from tests.gateway.several import chat_model, embedder

DOCUMENTS = ["zzzz", "the capital of France", "capital"]


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> LiveGateway:
    return await start_gateway(models=[embedder(), chat_model("chat")])


async def rerank(gateway: LiveGateway, **fields: Any) -> tuple[int, Any]:
    body = {"model": "embedder", "query": "capital of France", "documents": DOCUMENTS, **fields}
    return await gateway.post("/v1/rerank", body)


async def score(gateway: LiveGateway, **fields: Any) -> tuple[int, Any]:
    return await gateway.post("/v1/score", {"model": "embedder", **fields})


async def test_documents_come_the_most_relevant_first(gateway: LiveGateway) -> None:
    status, answer = await rerank(gateway)
    assert status == 200
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all("document" not in result for result in answer["results"])
    assert answer["model"] == "embedder"
    read = sum(len(text) + 1 for text in [*DOCUMENTS, "capital of France"])
    assert answer["usage"] == {"prompt_tokens": read, "total_tokens": read}


async def test_top_n_and_return_documents_are_heeded(gateway: LiveGateway) -> None:
    documents = [{"text": DOCUMENTS[0]}, DOCUMENTS[1]]
    _, answer = await rerank(gateway, documents=documents, top_n=1, return_documents=True)
    assert [result["document"] for result in answer["results"]] == [{"text": DOCUMENTS[1]}]
    assert len((await rerank(gateway, top_n=99))[1]["results"]) == 3


async def test_equal_documents_keep_their_order(gateway: LiveGateway) -> None:
    _, answer = await rerank(gateway, documents=["same", "same", "same"])
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": [""]}, "documents[0]"),
        ({"documents": [{"text": "a", "title": "b"}]}, "documents[0].title"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"documents": ["a" * 600]}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"model": "chat"}, "model"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_what_is_wrong_with_a_rerank_is_a_400_that_names_it(
    gateway: LiveGateway, fields: dict[str, Any], param: str
) -> None:
    status, answer = await rerank(gateway, **fields)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_scores_are_for_one_with_one_one_with_many_and_pairs(gateway: LiveGateway) -> None:
    _, one = await score(gateway, text_1="abc", text_2="abc")
    assert [item["score"] for item in one["data"]] == [pytest.approx(1.0)]
    _, many = await score(gateway, text_1="abc", text_2=["abc", "xyz"])
    _, pairs = await score(gateway, text_1=["abc", "abc"], text_2=["abc", "xyz"])
    assert many["data"] == pairs["data"]
    assert [item["index"] for item in many["data"]] == [0, 1]
    assert many["data"][0]["score"] > many["data"][1]["score"]
    assert (many["object"], many["usage"]["total_tokens"]) == ("list", 8)


async def test_texts_that_dont_pair_up_are_a_400(gateway: LiveGateway) -> None:
    for first, second in [(["a", "b"], "c"), (["a", "b"], ["c"]), ([], "a"), ("", "a"), ("a", [])]:
        assert (await score(gateway, text_1=first, text_2=second))[0] == 400
    status, answer = await score(gateway, text_1="a", text_2="b" * 600)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert answer["error"]["param"] == "text_2"


async def test_a_query_is_read_with_each_document_and_counts_with_each(
    gateway: LiveGateway,
) -> None:
    status, answer = await rerank(gateway, query="q" * 2_000, documents=["d"] * 1_000)
    assert (status, answer["error"]["param"]) == (400, "documents")
    assert "2,000,000 characters" in answer["error"]["message"]
