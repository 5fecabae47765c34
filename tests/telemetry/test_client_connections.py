"""Connections of clients, as the system counts them."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from dataplane.waiting import eventually

from grpcgw.telemetry.client_connections import count_connections


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_connections_that_stand_are_counted_by_port(family: socket.AddressFamily, address: str) -> None:
    with ExitStack() as stack:
        try:
            ports = [stack.enter_context(socket.create_server((address, 0), family=family)) for _ in range(2)]
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        busy, quiet = (port.getsockname()[1] for port in ports)
        clients = [stack.enter_context(socket.create_connection((address, busy))) for _ in range(3)]
        assert count_connections([busy, quiet]) == {busy: 3, quiet: 0}
        for _ in clients:
            stack.enter_context(ports[0].accept()[0])
        clients[0].close()
        eventually(lambda: count_connections([busy]) == {busy: 2})


def test_a_system_that_does_not_tell_is_believed(tmp_path: Path) -> None:
    assert count_connections([80], [tmp_path / "tcp"]) is None
