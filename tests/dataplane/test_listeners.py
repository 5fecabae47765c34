"""Ports that come, change and go while the gateway serves, each without the others noticing."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import Iterator

import grpc
import psutil
import pytest

from dataplane.authorities import Authority
from dataplane.lab import Gateway, Lab, clear_port, tls_port
from dataplane.pods import Context, Gate
from dataplane.waiting import eventually
from grpcgw.listeners.data_ports import HeldPorts
from grpcgw.model.listener import Listener

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def held() -> Iterator[HeldPorts]:
    """Ports as the control process holds them: a number stays the same, whoever opens and closes the port."""
    ports = HeldPorts("127.0.0.1")
    yield ports
    ports.release()


@pytest.fixture
def one(held: HeldPorts) -> Listener:
    return clear_port("one", port=held.hold(0))


@pytest.fixture
def other(held: HeldPorts) -> Listener:
    return clear_port("other", port=held.hold(0))


class Held:
    """A pod whose method Hold answers once, and again when the gate opens."""

    def __init__(self, lab: Lab) -> None:
        self.gate = Gate()
        lab.defer(self.gate.open)
        self.pod = lab.pod("a", {"Hold": self._hold})

    def _hold(self, _: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"started"
        self.gate.hold(context)
        yield b"done"


def call(channel: grpc.Channel) -> bytes:
    reply: bytes = channel.unary_unary("/test.Pod/Unary")(b"x", timeout=30)
    return reply


def is_served(channel: grpc.Channel) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return call(channel) == b"a:x"
    return False


def start(channel: grpc.Channel) -> grpc.Call:
    running = channel.unary_stream("/test.Pod/Hold")(b"")
    assert next(running) == b"started"
    return running


def is_open(port: Listener) -> bool:
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port.port)):
        return True
    return False


def test_each_port_serves(lab: Lab, one: Listener, other: Listener) -> None:
    gateway = lab.gateway(lab.pod("a"), ports=(one, other))
    assert gateway.engine.ports.numbers() == (one.port, other.port)
    assert [call(lab.channel_to(port)) for port in (one, other)] == [b"a:x", b"a:x"]


def test_a_port_opens_and_closes_while_the_connections_of_another_stand(
    lab: Lab, one: Listener, other: Listener
) -> None:
    held = Held(lab)
    gateway = lab.gateway(held.pod, ports=(one,))
    running = start(lab.channel_to(one))
    for _ in range(3):
        gateway.listen(one, other)
        assert call(lab.channel_to(other)) == b"a:x"
        gateway.listen(one)
        eventually(lambda: not is_open(other), "the port is closed")
    held.gate.open()
    assert list(running) == [b"done"]


def test_a_port_that_goes_lets_its_rpcs_finish_and_takes_no_others(lab: Lab, one: Listener, other: Listener) -> None:
    held = Held(lab)
    gateway = lab.gateway(held.pod, ports=(one, other))
    client = lab.raw_client(gateway)
    stream = client.request("Hold")
    while not client.answers[stream].data:
        assert client.receive()
    gateway.listen(other)
    while not client.goaway:
        assert client.receive(), "the client is told to go elsewhere first"
    eventually(lambda: not is_open(one))
    held.gate.open()
    assert client.finish(stream).status == 0
    assert call(lab.channel_to(other)) == b"a:x"


def test_an_rpc_that_outlives_its_port_ends_when_the_drain_time_is_over(
    lab: Lab, one: Listener, other: Listener
) -> None:
    held = Held(lab)
    gateway = lab.gateway(held.pod, ports=(one, other), drain_time_s=0.2)
    running, elsewhere = start(lab.channel_to(one)), start(lab.channel_to(other))
    gateway.listen(other)
    with pytest.raises(grpc.RpcError) as ended:
        next(running)
    assert ended.value.code() is UNAVAILABLE
    assert dict(ended.value.trailing_metadata())["x-grpcgw-reason"] == "draining"
    held.gate.open()
    assert list(elsewhere) == [b"done"]


def test_a_port_that_is_about_to_close_refuses_what_still_comes(lab: Lab, one: Listener, other: Listener) -> None:
    gateway = lab.gateway(lab.pod("a"), ports=(one, other))
    client = lab.raw_client(gateway)
    gateway.engine.ports.retire((other,))  # before a configuration that does not speak of it
    answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (14, "draining")
    assert call(lab.channel_to(other)) == b"a:x"
    gateway.listen(other)


def test_each_port_has_its_own_limit_of_streams_which_may_change(lab: Lab, held: HeldPorts) -> None:
    few, usual = clear_port("few", port=held.hold(0), max_concurrent_streams=7), clear_port("usual", port=held.hold(0))
    gateway = lab.gateway(lab.pod("a"), ports=(few, usual), max_concurrent_streams=90)

    def limits() -> list[int | None]:
        found = []
        for port in (few, usual):
            with lab.raw_client_to(port) as client:
                assert client.call("Unary").status == 0
                found.append(client.remote_max_streams)
        return found

    assert limits() == [7, 90]
    few = clear_port("few", port=few.port, max_concurrent_streams=8)
    stands = lab.channel_to(usual)
    running = lab.channel_to(few)
    assert call(running) == call(stands) == b"a:x"
    gateway.listen(few, usual)
    assert call(stands) == b"a:x"
    eventually(lambda: is_served(running), "clients of the changed port connect anew")
    eventually(lambda: limits() == [8, 90])


def test_a_port_changes_from_clear_text_to_tls(lab: Lab, one: Listener) -> None:
    authority = Authority()
    gateway = lab.gateway(lab.pod("a"), ports=(one,))
    clear = lab.channel_to(one)
    assert call(clear) == b"a:x"
    tls = tls_port(authority.certificate("localhost"), name="one", port=one.port)
    gateway.listen(tls)
    assert not is_served(clear), "nor on a connection that stood"
    assert not is_served(lab.channel_to(one)), "nobody is served in clear text any more"
    assert call(lab.channel_to(tls, authority.client())) == b"a:x"
    gateway.listen(one)
    eventually(lambda: is_served(lab.channel_to(one)))
    assert not is_served(lab.channel_to(tls, authority.client())), "nor in TLS once it changed back"


def test_a_port_in_use_is_told_by_its_listener_and_stops_no_other(lab: Lab, one: Listener) -> None:
    gateway = lab.gateway(lab.pod("a"), ports=())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        (fault,) = gateway.engine.ports.update((clear_port("mine", port=number), one))
        assert fault.listener == "mine"
        assert fault.why.startswith(f"cannot listen on 127.0.0.1:{number}: ")
        assert gateway.engine.ports.numbers() == (one.port,)
        assert call(lab.channel_to(one)) == b"a:x"
    gateway.listen(clear_port("mine", port=number), one)
    assert call(lab.channel_to(clear_port(port=number))) == b"a:x"


def test_a_port_that_is_tried_again_and_again_in_vain_keeps_no_memory(lab: Lab) -> None:
    gateway = lab.gateway(lab.pod("a"), ports=())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = clear_port("mine", port=taken.getsockname()[1])

        def try_often() -> int:
            for _ in range(500):
                assert gateway.engine.ports.update((port,))
            gc.collect()
            return psutil.Process().memory_info().rss

        try_often()
        before = try_often()
        assert try_often() - before < 1_000_000, "a server that is left behind is 4 KB"


def test_a_gateway_without_ports_begins_and_ends(lab: Lab) -> None:
    assert lab.gateway(lab.pod("a"), ports=()).engine.ports.numbers() == ()


def test_closing_the_gateway_closes_ports_that_are_being_closed(lab: Lab, one: Listener, other: Listener) -> None:
    held = Held(lab)
    gateway: Gateway = lab.gateway(held.pod, ports=(one, other))
    running = start(lab.channel_to(one))
    gateway.listen(other)
    gateway.engine.drain(0.0)
    with pytest.raises(grpc.RpcError) as ended:
        next(running)
    assert ended.value.code() is UNAVAILABLE
    assert not is_open(one)
    assert not is_open(other)
