"""A request that is cut off must not look complete: the pod is told of a cancellation, never of a half-close."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from dataplane.lab import Gateway, Lab, mapping
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import Gone, ScriptedPod, Stream
from dataplane.waiting import eventually
from grpcgw.model.resilience import RetryPolicy

CUTS = 40
"""Each number of messages with each pause, once."""
NO_ERROR, UNAVAILABLE = 0, 14


def cancel(client: RawClient, stream: int) -> None:
    client.cancel(stream)


def reset_without_error(client: RawClient, stream: int) -> None:
    client.h2.reset_stream(stream, NO_ERROR)
    client.flush()


def close(client: RawClient, _: int) -> None:
    client.close()


def break_connection(client: RawClient, _: int) -> None:
    """RST instead of FIN."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def stop_sending(client: RawClient, _: int) -> None:
    """FIN, while it still reads."""
    client.socket.shutdown(socket.SHUT_WR)


CUT: dict[str, Callable[[RawClient, int], None]] = {
    "cancels": cancel,
    "resets without an error": reset_without_error,
    "closes": close,
    "breaks the connection": break_connection,
    "stops sending": stop_sending,
}


class Listening:
    """A pod's script that notes how requests end."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def __call__(self, stream: Stream) -> None:
        try:
            stream.read_all()
        except Gone:
            self.ends.append("gone")
            raise
        self.ends.append("half-close")
        stream.send_headers()
        stream.end()


def cut_many(
    lab: Lab, gateway: Gateway, cut: Callable[[RawClient, int], None], listening: Listening, method: str = "Upload{}"
) -> None:
    """Cut off many requests, each within 7 ms of its last message, and wait until they are over.

    On a slow machine none of these reaches the pod before it is cut off; more follow then, with longer pauses.
    """
    for number in range(10 * CUTS):
        if number >= CUTS and "gone" in listening.ends:
            break
        client = lab.raw_client(gateway)
        client.receive()  # the gateway's settings: core notices the end of a connection before them after 10 s only
        messages = (b"part",) * (1, 0, 3, 1, 2)[number % 5]
        stream = client.request(method.format(number), messages=messages, end=False)
        time.sleep(number % 8 / 1000 * (1 + number // CUTS))
        cut(client, stream)
    assert lab.raw_client(gateway).call("Whole").status == 0
    eventually(lambda: not gateway.in_flight() and not gateway.pod_in_flight())


def assert_only_whole_ones_look_complete(pod: ScriptedPod, listening: Listening, whole: int = 1) -> None:
    eventually(lambda: len(listening.ends) == len(pod.streams))
    assert listening.ends.count("half-close") == whole, listening.ends
    assert len(listening.ends) > whole, "none reached the pod before it was cut off"


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_a_request_that_is_cut_off_is_no_half_close(lab: Lab, cut: Callable[[RawClient, int], None]) -> None:
    """A method that is called for the first time looks unary: its request waits for what may come along."""
    listening = Listening()
    pod = lab.scripted_pod(listening)
    cut_many(lab, lab.gateway(pod), cut, listening)
    assert_only_whole_ones_look_complete(pod, listening)


def test_a_request_of_a_known_stream_that_is_cut_off_is_no_half_close(lab: Lab) -> None:
    listening = Listening()
    pod = lab.scripted_pod(listening)
    gateway = lab.gateway(pod)
    assert lab.raw_client(gateway).call("Upload", messages=(b"1", b"2")).status == 0
    cut_many(lab, gateway, cancel, listening, "Upload")
    assert_only_whole_ones_look_complete(pod, listening, whole=2)


def test_a_request_that_is_cut_off_while_it_is_tried_again_is_no_half_close(lab: Lab) -> None:
    listening = Listening()
    refusing = lab.scripted_pod(lambda stream: stream.end_at_once(UNAVAILABLE))
    willing = lab.scripted_pod(listening)
    (destination,) = mapping().destinations
    retrying = replace(destination, retry=RetryPolicy(frozenset({UNAVAILABLE}), num_retries=3))
    cut_many(
        lab, lab.gateway(refusing, willing, routes=[replace(mapping(), destinations=(retrying,))]), cancel, listening
    )
    assert refusing.streams
    assert_only_whole_ones_look_complete(willing, listening)


def test_a_copy_of_a_request_that_is_cut_off_is_no_half_close(lab: Lab) -> None:
    listening = Listening()
    pod = lab.scripted_pod(listening)
    route = replace(mapping(), shadow=mapping(name="shadow", cluster="shadows").destinations[0])
    gateway = lab.gateway(routes=[route], clusters={"pods": (lab.scripted_pod(Listening()),), "shadows": (pod,)})
    cut_many(lab, gateway, cancel, listening)
    assert_only_whole_ones_look_complete(pod, listening)
