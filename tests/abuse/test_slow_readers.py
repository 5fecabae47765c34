"""Clients that ask for much and read nothing: what waits for them is bounded, for the worker as a whole."""

from __future__ import annotations

import grpc
import pytest

from abuse.attacks import ATTACKS, WIDE_WINDOW, Attack, attacking, floods
from abuse.gateway import Gateway, eventually
from abuse.wire import ECHO, HOST, LIMIT_S

BOUND_MB = 256
"""docs/hardening.md: what the RPCs of a worker may hold together."""
BESIDE_MB = 320
"""Streams themselves, and what the interpreter needs beside the bytes it holds."""
STUCK_MB = 150
"""Four connections to the pod with what waits to be written on them, 256 requests each."""
WATCH_S = 6.0


@pytest.mark.parametrize("attack", ["replies that nobody reads", "replies without a window"])
def test_clients_that_do_not_read_do_not_keep_a_pods_connection_from_the_others(gateway: Gateway, attack: str) -> None:
    """Answers for all clients come over the same connection of the pod."""
    with attacking(ATTACKS[attack], gateway.port, gateway.tls_port) as attacker:
        assert eventually(lambda: attacker.sent_bytes > 0 and gateway.rpcs_in_flight() > 100)
        with grpc.insecure_channel(f"{HOST}:{gateway.port}") as channel:
            assert channel.unary_unary(ECHO)(b"ordinary", timeout=3 * LIMIT_S) == b"ordinary"


@pytest.mark.memory_mb(BOUND_MB + BESIDE_MB)
def test_what_waits_for_slow_readers_is_bounded_for_the_worker(gateway: Gateway) -> None:
    """Four thousand endless answers, each of which may hold 340 KB by itself."""
    before_mb = gateway.memory_mb()
    attack = Attack(floods(200, WIDE_WINDOW), connections=20, reads=False)
    with attacking(attack, gateway.port, gateway.tls_port):
        assert not eventually(lambda: gateway.memory_mb() > before_mb + BOUND_MB + BESIDE_MB, WATCH_S)


@pytest.mark.memory_mb(STUCK_MB)
def test_requests_that_are_over_hold_nothing_while_their_pod_reads_nothing(gateway: Gateway) -> None:
    """Each has 58 KB of headers, on a few bytes of the wire, and is reset at once: hundreds of MB a second."""
    before_mb = gateway.memory_mb()
    gateway.pod.suspend()
    try:
        with attacking(ATTACKS["header bombs below the limit"], gateway.port, gateway.tls_port) as attacker:
            assert not eventually(lambda: gateway.memory_mb() > before_mb + STUCK_MB, WATCH_S / 2)
            assert attacker.sent_bytes > 0
    finally:
        gateway.pod.resume()
