"""A request that is cut off must not look complete: the pod is told of a cancellation, never of a half-close."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dataplane.lab import Lab
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import Gone, Stream
from dataplane.waiting import eventually

TRIES = 20
LEAVE: dict[str, Callable[[RawClient, int], None]] = {
    "cancels": lambda client, stream: client.cancel(stream),
    "disappears": lambda client, _: client.close(),
}


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_half_close(
    lab: Lab, leave: Callable[[RawClient, int], None]
) -> None:
    started: list[Stream] = []
    ends: list[str] = []

    def listen(stream: Stream) -> None:
        assert stream.read_message() == b"part"
        started.append(stream)
        try:
            stream.read_all()
            ends.append("half-close")
        except Gone:
            ends.append("gone")
            raise

    gateway = lab.gateway(lab.scripted_pod(listen))
    for number in range(TRIES):
        client = lab.raw_client(gateway)
        stream = client.request("Upload", messages=(b"part",), end=False)
        eventually(lambda number=number: len(started) == number + 1)
        leave(client, stream)
        eventually(lambda number=number: len(ends) == number + 1)
    assert ends == ["gone"] * TRIES
