"""Heavy but honest use next to the limits that hold abuse back: nothing is refused, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from abuse.gateway import Gateway, running_gateway
from abuse.wire import ECHO, HOST, LIMIT_S, connected, data, message, open_rpc

LIMIT = 100


@pytest.fixture(scope="module")
def narrow(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    flags = ("--engine", engine, "--max-concurrent-streams", str(LIMIT))
    with running_gateway(tmp_path_factory.mktemp("narrow"), *flags) as gateway:
        yield gateway
        assert gateway.complaints() == []


def channel(gateway: Gateway) -> grpc.Channel:
    return grpc.insecure_channel(f"{HOST}:{gateway.port}", options=[("grpc.use_local_subchannel_pool", 1)])


def test_more_rpcs_at_once_than_streams_allowed_are_held_back_and_all_answered(narrow: Gateway) -> None:
    with channel(narrow) as one:
        echo = one.unary_unary(ECHO)
        waiting = [echo.future(b"%d" % number, timeout=60) for number in range(10 * LIMIT)]
        assert [call.result() for call in waiting] == [b"%d" % number for number in range(10 * LIMIT)]


def test_thousands_of_rpcs_at_once_from_many_connections_wait_for_their_turn(narrow: Gateway) -> None:
    streams = range(1, 2 * LIMIT, 2)
    requests = b"".join(open_rpc(stream, ECHO) + data(stream, message(), end=True) for stream in streams)
    with connected(narrow.port, count=50) as wires:
        for wire in wires:
            wire.push(requests, LIMIT_S)
        for wire in wires:
            assert wire.wait(lambda ended=wire.ended: ended() >= set(streams))
            assert wire.resets() == []


def test_a_connection_in_long_use_never_reaches_the_limit(narrow: Gateway) -> None:
    """Calls that are over must not count: four times the limit, eight at once on each of eight connections."""

    def use(connection: int) -> int:
        answered = 0
        with channel(narrow) as one:
            echo = one.unary_unary(ECHO)
            for _ in range(4 * LIMIT // 8):
                calls = [echo.future(b"x", timeout=60) for _ in range(8)]
                answered += sum(call.result() == b"x" for call in calls)
        return answered

    with ThreadPoolExecutor(8) as users:
        assert sum(users.map(use, range(8))) == 8 * 4 * LIMIT
