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
