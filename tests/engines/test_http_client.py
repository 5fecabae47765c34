"""The HTTP client of policies, and servers that answer in parts, too much, or not to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from grpcgw.engines.http_client import MAX_ANSWER_BYTES, HttpClient
from grpcgw.model.endpoints import Endpoint
from grpcgw.policy.contract import HttpAnswer, HttpCall
from grpcgw.policy.verdicts import ALLOW

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
BEGINNING = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 10\r\n\r\nhello"


async def fetch_from(answer: Answer, times: int = 1) -> tuple[list[HttpAnswer], int]:
    """The answers of a server that does `answer` for each request; how many connections it got."""
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    client = HttpClient()
    call = HttpCall("/a.S/M", (("host", "a.test"),), b"", lambda _: ALLOW)
    try:
        return [await client.fetch(endpoint, None, 5.0, call) for _ in range(times)], len(connections)
    finally:
        await client.close()
        server.close()
        for writer in connections:
            writer.close()
        await server.wait_closed()


async def in_two_parts(writer: asyncio.StreamWriter) -> None:
    writer.write(BEGINNING)
    for _ in range(50):  # turns of the loop, in which the client reads the first part
        await asyncio.sleep(0)
    writer.write(b"world")


async def not_to_the_end(writer: asyncio.StreamWriter) -> None:
    writer.write(BEGINNING)
    await writer.drain()
    writer.close()


async def too_much(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n" + b"x" * 200_000)
    await writer.drain()


def test_a_body_in_parts_is_read_to_its_end_and_the_connection_is_used_again() -> None:
    answers, connections = asyncio.run(fetch_from(in_two_parts, times=3))
    assert [one.body for one in answers] == [b"helloworld"] * 3
    assert connections == 1


def test_an_answer_that_breaks_off_is_none() -> None:
    with pytest.raises(ConnectionError, match="gave no answer"):
        asyncio.run(fetch_from(not_to_the_end))


def test_of_a_large_body_the_beginning_is_read_and_the_connection_is_not_used_again() -> None:
    answers, connections = asyncio.run(fetch_from(too_much, times=2))
    assert [one.body for one in answers] == [b"x" * MAX_ANSWER_BYTES] * 2
    assert connections == 2
