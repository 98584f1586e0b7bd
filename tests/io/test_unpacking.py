"""Test that packed answers of servers are refused, and are not unpacked first."""

import asyncio
import tracemalloc

import packing_server
import pytest

from cv3jax.serving.load import client
from data_pipeline.chat.answers import MALFORMED
from data_pipeline.chat.endpoint import Endpoint
from data_pipeline.io.errors import InputError


async def ask(url: str) -> str:
    async with Endpoint(f"{url}/v1", key=None, timeout=60, connections=1) as endpoint:
        reply = await endpoint.ask({"messages": []}, identity="a", last=True)
    assert reply.outcome.reason == MALFORMED
    return reply.outcome.detail


async def measure(url: str) -> str:
    async with client.client(url) as session:
        with pytest.raises(InputError) as caught:
            await client.get_json(session, "/v1/models")
        assert await client.draw_of(session)({}) == "DecodingError"
    return str(caught.value)


@pytest.mark.parametrize("encoding", packing_server.PACKED)
@pytest.mark.parametrize("read", [ask, measure])
def test_a_packed_answer_is_refused_without_being_unpacked(read, encoding):
    with packing_server.serving(encoding) as url:
        tracemalloc.start()
        try:
            line = asyncio.run(read(url))
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert f"packed by {encoding}, unasked" in line
    assert most < packing_server.SIZE / 8


def test_an_answer_that_is_too_long_is_read_no_further(monkeypatch):
    monkeypatch.setattr(client, "MAX_BODY", 1000)
    monkeypatch.setitem(packing_server.PACKED, "identity", lambda: bytes(2**20))
    with packing_server.serving("identity") as url, pytest.raises(InputError, match="more than 1"):
        asyncio.run(get(url))


async def get(url: str) -> None:
    async with client.client(url) as session:
        await client.get(session, "/v1/models")
