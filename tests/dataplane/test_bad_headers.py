"""One bad header fails its own RPC, and no other of the connection it came on."""

from __future__ import annotations

import pytest

from dataplane.lab import Lab
from dataplane.scripted_pod import Stream
from grpcgw.model.codes import Code


@pytest.mark.parametrize(
    ("bad", "good", "code"),
    [
        (("grpc-timeout", "garbage"), ("grpc-timeout", "20S"), Code.INVALID_ARGUMENT),
        (("grpc-encoding", "nonsense"), ("grpc-encoding", "identity"), Code.INTERNAL),
        (("x-id-bin", "not base64!"), ("x-id-bin", "YQ"), Code.INVALID_ARGUMENT),
    ],
    ids=["grpc-timeout", "grpc-encoding", "x-id-bin"],
)
def test_a_client_s_bad_header_fails_that_rpc_alone(
    lab: Lab, bad: tuple[str, str], good: tuple[str, str], code: Code
) -> None:
    """An encoding is the pod's to refuse: a pod on grpc core says INTERNAL to one that it does not know."""
    client = lab.raw_client(lab.gateway(lab.pod()))
    assert client.call("Unary").status == Code.OK
    assert client.call("Unary", bad).status == (Code.INTERNAL if lab.on_grpc_core else code)
    assert client.call("Unary", good).status == Code.OK


def test_a_pod_s_bad_header_concerns_that_rpc_alone(lab: Lab) -> None:
    """grpc core fails the RPC; the http2 engine leaves the header out, as others that gRPC does not allow."""

    def answer(stream: Stream) -> None:
        path = dict(stream.headers)[":path"]
        stream.read_all()
        stream.send_headers(("x-id-bin", "not base64!" if path.endswith("Bad") else "YQ"))
        stream.send_message(b"ok")
        stream.end()

    client = lab.raw_client(lab.gateway(lab.scripted_pod(answer)))
    assert client.call("Good").status == Code.OK
    answer = client.call("Bad")
    assert (answer.status != Code.OK) is lab.on_grpc_core
    assert answer.header("x-id-bin") is None
    assert client.call("Good").status == Code.OK
