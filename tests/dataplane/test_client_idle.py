"""A client's connection without RPCs is closed in time, and no other.

An idle connection is no test of how long: only of what happens to it, and what does not to one beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.lab import Gateway, Lab, clear_port
from dataplane.pods import Context, Gate
from dataplane.raw_client import RawClient
from grpcgw.listeners.data_ports import HeldPorts

IDLE_MS = 200


def held(lab: Lab, idle_timeout_ms: int | None, port: int = 0, age_s: float | None = None) -> tuple[Gateway, Gate]:
    gate = Gate()
    lab.defer(gate.open)

    def hold(_: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"started"
        gate.hold(context)
        yield b"done"

    ports = (clear_port(port=port, idle_timeout_ms=idle_timeout_ms),)
    return lab.gateway(lab.pod("a", {"Hold": hold}), ports=ports, max_connection_age_s=age_s), gate


def wait_for_the_end(client: RawClient) -> None:
    while client.receive():
        pass
    assert client.goaway, "the gateway says goodbye before it closes"


@pytest.mark.parametrize("age_s", [None, 3600.0])
def test_a_connection_without_rpcs_is_closed_and_one_with_a_stream_is_not(lab: Lab, age_s: float | None) -> None:
    gateway, gate = held(lab, IDLE_MS, age_s=age_s)
    busy = lab.raw_client(gateway)
    running = busy.request("Hold")
    for _ in range(2):  # core closes between one period and two: the stream is older than that
        wait_for_the_end(lab.raw_client(gateway))
    gate.open()
    assert busy.finish(running).status == 0
    wait_for_the_end(busy)


def test_a_new_timeout_is_for_new_connections_and_running_rpcs_go_on(lab: Lab) -> None:
    numbers = HeldPorts("127.0.0.1")
    lab.defer(numbers.release)
    number = numbers.hold(0)
    gateway, gate = held(lab, None, number)
    before = lab.raw_client(gateway)
    running = before.request("Hold")
    while not before.answers[running].data:
        assert before.receive()
    gateway.listen(clear_port(port=number, idle_timeout_ms=IDLE_MS))
    while not before.goaway:
        assert before.receive(), "its client is told to connect anew"
    first = lab.raw_client(gateway)
    while first.receive():
        pass
    if not first.goaway:  # grpc core's old port had it in its backlog when it closed
        wait_for_the_end(lab.raw_client(gateway))
    gate.open()
    assert before.finish(running).status == 0
