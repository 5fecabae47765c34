"""One message of 1 GiB, where no limit of messages refuses it: it crosses in frames, and little of it is held."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from abuse.attacks import ATTACKS, attacking
from abuse.gateway import Gateway, eventually, running_gateway
from abuse.ordinary import running_client
from grpcgw.cli.demo_processes import ROOT

ENOUGH_BYTES = 96 << 20
"""Then the client goes away. `bench` sends more of it (part `abuse`)."""
HELD_MB = 16
"""docs/hardening.md: a stream may hold 336 KiB; the rest is what the interpreter needs meanwhile."""
SLOWEST_S = 10.0
"""No call of the ordinary client may take longer; the machine may be busy with other things."""


@pytest.fixture(scope="module")
def unlimited(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    flags = ("--engine", engine, "--max-message-bytes", str(1 << 30))
    with running_gateway(tmp_path_factory.mktemp("unlimited"), *flags) as gateway:
        yield gateway
        assert gateway.complaints() == []


def test_a_message_of_1_gib_is_not_held(unlimited: Gateway) -> None:
    with running_client(str(ROOT), unlimited.port) as ordinary:
        ordinary.begin()
        most_mb = before_mb = unlimited.memory_mb()
        with attacking(ATTACKS["one message of 1 GiB"], unlimited.port, unlimited.tls_port) as attacker:

            def much_is_sent() -> bool:
                nonlocal most_mb
                most_mb = max(most_mb, unlimited.memory_mb())
                return attacker.sent_bytes > ENOUGH_BYTES

            assert eventually(much_is_sent)
            assert attacker.opened == 1
        assert most_mb < before_mb + HELD_MB
        assert eventually(lambda: unlimited.rpcs_in_flight() == 0)
        calls = ordinary.report()
        assert calls.faults == []
        assert calls.slowest_s < SLOWEST_S
