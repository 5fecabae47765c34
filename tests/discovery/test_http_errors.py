"""Why a server could not be reached: said in our words, without what a library thinks of its own arguments."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl

import aiohttp
import pytest

from grpcgw.discovery.http_errors import explain_failure
from tests.consul_agents import free_port

REFUSED = f"the connection failed ({os.strerror(errno.ECONNREFUSED)})"


def untrusted(reason: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL] much that nobody needs")
    error.verify_message = reason
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), REFUSED),
        (untrusted("expired"), "its certificate cannot be trusted (expired)"),
        (FileNotFoundError(errno.ENOENT, "gone", "token"), "[Errno 2] gone: 'token'"),
        (ValueError("no JSON"), "no JSON"),
        (ConnectionResetError(), "ConnectionResetError"),
        (aiohttp.InvalidURL("http://127.0.0.1:99999/?token=secret"), "its URL cannot be used"),
    ],
)
def test_a_failure_is_told_without_arguments_of_the_library(error: Exception, said: str) -> None:
    assert explain_failure(error) == said


def test_a_failed_connection_is_told_by_its_cause() -> None:
    async def fail() -> str:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError) as failed:
                await session.get(f"http://127.0.0.1:{free_port()}")
        return explain_failure(failed.value)

    assert asyncio.run(fail()) == REFUSED


def test_an_answer_that_is_no_http_is_not_quoted_and_neither_is_the_query_of_its_url() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-private\r\n\r\n")
        writer.close()

    async def fail() -> str:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError) as failed:
                await session.get(f"http://127.0.0.1:{port}/?token=secret")
        return explain_failure(failed.value)

    assert asyncio.run(fail()) == "its answer is no HTTP that can be read"
