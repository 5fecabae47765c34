"""Client connections of a certain age are closed, so that clients connect anew: to another gateway, perhaps."""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.lab import Gateway, Lab
from dataplane.pods import Context, Gate
from dataplane.raw_client import RawClient

AGE_S = 0.2


def held(lab: Lab, grace_s: float | None) -> tuple[Gateway, Gate]:
    gate = Gate()
    lab.defer(gate.open)

    def hold(_: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"started"
        gate.hold(context)
        yield b"done"

    pod = lab.pod("a", {"Hold": hold})
    return lab.gateway(pod, max_connection_age_s=AGE_S, max_connection_age_grace_s=grace_s), gate


def wait_for_goodbye(client: RawClient) -> None:
    while not client.goaway:
        assert client.receive(), "the gateway says goodbye before it closes"


def test_what_runs_on_an_old_connection_goes_on(lab: Lab) -> None:
    gateway, gate = held(lab, grace_s=None)
    client = lab.raw_client(gateway)
    running = client.request("Hold")
    wait_for_goodbye(client)
    gate.open()
    assert client.finish(running).status == 0


def test_what_runs_longer_than_the_grace_is_cut_off(lab: Lab) -> None:
    gateway, gate = held(lab, grace_s=AGE_S)
    client = lab.raw_client(gateway)
    client.request("Hold")
    wait_for_goodbye(client)
    while client.receive():
        pass
    assert client.closed
    assert gate.cancelled.wait(30), "and so is the pod's side"


def test_without_an_age_connections_stay(lab: Lab) -> None:
    client = lab.raw_client(lab.gateway(lab.pod("a")))
    assert client.call("Unary").status == 0
    assert not client.goaway
