"""Connections that speak something else, too slowly, or not at all."""

from __future__ import annotations

import ssl
from contextlib import ExitStack

import pytest

from abuse.gateway import Gateway, eventually
from abuse.wire import PREFACE, Wire, acknowledge, connected, settings

HANDSHAKE_S = 10
"""How long a client may take for its TLS handshake, its preface and its settings, and to acknowledge the gateway's."""
SLACK_S = 15
MANY = 300


def client_hello() -> bytes:
    sent = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="abuse.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


STRANGERS = {
    "noise": b"\0\xff" * 500,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: abuse.test\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
    "TLS": client_hello(),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
}


@pytest.mark.parametrize("opening", STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_on_the_clear_port_is_sent_away(gateway: Gateway, opening: bytes) -> None:
    with connected(gateway.port, opening) as (wire,):
        assert wire.wait_closed()


@pytest.mark.parametrize("opening", [b"\0\xff" * 500, PREFACE + settings()], ids=["noise", "clear text"])
def test_a_stranger_on_the_tls_port_is_sent_away(gateway: Gateway, opening: bytes) -> None:
    with connected(gateway.tls_port, opening) as (wire,):
        assert wire.wait_closed()


def test_handshakes_that_fail_by_the_hundred_are_one_line_in_the_log(gateway: Gateway) -> None:
    for _ in range(3):
        with connected(gateway.tls_port, PREFACE + settings(), count=MANY // 3) as wires:
            assert all(wire.wait_closed() for wire in wires)
    lines = [line for line in gateway.log_file.read_text().splitlines() if "TLS handshakes failed: no-tls" in line]
    assert len(lines) <= 2, "one of this minute, perhaps one of that before"


def test_hundreds_of_idle_connections_cost_little(gateway: Gateway) -> None:
    with connected(gateway.port, PREFACE + settings() + acknowledge(), count=MANY) as wires:
        assert all(wire.ping() for wire in wires)


def test_hundreds_of_connections_that_come_and_go_leave_nothing(gateway: Gateway) -> None:
    for opening in (b"", PREFACE[:10], PREFACE + settings()):
        with connected(gateway.port, opening, count=MANY // 3):
            pass


def test_who_is_slow_to_begin_is_sent_away(gateway: Gateway) -> None:
    """All at once, since each takes the whole limit; meanwhile they are no burden."""
    openings = {
        "silence": (gateway.port, b""),
        "half a preface": (gateway.port, PREFACE[:10]),
        "no settings": (gateway.port, PREFACE),
        "settings never acknowledged": (gateway.port, PREFACE + settings()),
        "silence instead of TLS": (gateway.tls_port, b""),
        "half a TLS hello": (gateway.tls_port, client_hello()[:100]),
    }
    with ExitStack() as stack:
        wires: dict[str, list[Wire]] = {
            name: stack.enter_context(connected(port, opening, count=10)) for name, (port, opening) in openings.items()
        }

        def still_open() -> list[str]:
            for wire in (wire for many in wires.values() for wire in many if not wire.closed):
                wire.wait(lambda: True, 0)
                wire.wait(lambda: wire.closed, 0.001)  # noqa: B023 - called at once
            return [name for name, many in wires.items() if not all(wire.closed for wire in many)]

        eventually(lambda: still_open() == [], HANDSHAKE_S + SLACK_S)
        assert still_open() == []
