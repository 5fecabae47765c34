"""One bad header fails its own RPC, and no other of the connection it came on."""

from __future__ import annotations

import pytest

from dataplane.lab import Lab
from dataplane.scripted_pod import Stream
from grpcgw.model.codes import Code


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        (("grpc-timeout", "garbage"), ("grpc-timeout", "20S")),
        (("grpc-encoding", "nonsense"), ("grpc-encoding", "identity")),
        (("x-id-bin", "not base64!"), ("x-id-bin", "YQ")),
    ],
    ids=lambda pair: pair[0],
)
def test_a_client_s_bad_header_fails_that_rpc_alone(lab: Lab, bad: tuple[str, str], good: tuple[str, str]) -> None:
    client = lab.raw_client(lab.gateway(lab.pod()))
    assert client.call("Unary").status == Code.OK
    assert client.call("Unary", bad).status == Code.INTERNAL
    assert client.call("Unary", good).status == Code.OK


def test_a_pod_s_bad_header_fails_that_rpc_alone(lab: Lab) -> None:
    def answer(stream: Stream) -> None:
        path = dict(stream.headers)[":path"]
        stream.read_all()
        stream.send_headers(("x-id-bin", "not base64!" if path.endswith("Bad") else "YQ"))
        stream.send_message(b"ok")
        stream.end()

    client = lab.raw_client(lab.gateway(lab.scripted_pod(answer)))
    assert client.call("Good").status == Code.OK
    assert client.call("Bad").status != Code.OK
    assert client.call("Good").status == Code.OK
