"""The end of a connection: what its client has not received yet is not lost with it."""

from __future__ import annotations

import socket
import threading

from dataplane.lab import Gateway, Lab
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import Stream
from dataplane.waiting import PATIENCE_S, eventually

from grpcgw.engines.http2.engine import Http2Engine

ANSWER = bytes(200_000)


def answer_large(stream: Stream) -> None:
    stream.read_all()
    stream.send_headers()
    stream.send_message(ANSWER)
    stream.end()


def slow_client(gateway: Gateway) -> RawClient:
    """Its kernel takes little of an answer before it is read."""
    host, _, port = gateway.address.rpartition(":")
    sock = socket.socket()
    sock.settimeout(PATIENCE_S)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    return RawClient(sock)


def has_hung_up(gateway: Gateway) -> bool:
    engine = gateway.engine
    assert isinstance(engine, Http2Engine)
    ports = tuple(engine._closing_ports)
    return bool(ports) and all(connection.is_lost for port in ports for connection in port.connections)


def test_an_answer_on_its_way_arrives_though_the_gateway_drains_and_its_client_still_sends(http2: Lab) -> None:
    """As gRPC clients do while they receive: a socket that was closed would be reset by that, and the rest be lost.
    The drain waits for it, as the process may end with it."""
    gateway = http2.gateway(http2.scripted_pod(answer_large))
    with slow_client(gateway) as client:
        stream = client.request("Unary")
        eventually(lambda: gateway.codes("Unary") == {0: 1}, "the whole answer is written")
        draining = threading.Thread(target=gateway.engine.drain, args=(PATIENCE_S,))
        draining.start()
        eventually(lambda: has_hung_up(gateway), "the gateway has nothing more to say")
        client.h2.ping(b"12345678")
        client.flush()
        assert draining.is_alive()
        answer = client.finish(stream)
        assert (answer.status, len(answer.data)) == (0, 5 + len(ANSWER))
        while client.receive():
            pass
    draining.join(PATIENCE_S)
    assert not draining.is_alive()
