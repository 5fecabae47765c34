"""One bad header fails its own RPC, and no other of the connection it came on."""

from __future__ import annotations

import pytest

from dataplane.lab import Lab, on_http2
from dataplane.scripted_pod import Stream, refusing
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


@pytest.mark.parametrize("key", ["grpc-previous-rpc-attempts", "grpc-retry-pushback-ms", "grpc-status"])
def test_a_key_that_pods_read_themselves_fails_no_rpc_of_another_client(lab: Lab, key: str) -> None:
    """A pod on grpc core keeps what it cannot read in the table of its connection, which clients share."""
    gateway = lab.gateway(lab.pod())
    stranger, client = lab.raw_client(gateway), lab.raw_client(gateway)
    assert client.call("Unary").status == Code.OK
    assert stranger.call("Unary", (key, "garbage")).status == Code.INTERNAL
    assert client.call("Unary", (key, "1")).status == Code.OK


@on_http2
@pytest.mark.parametrize("key", ["grpc-encoding", "grpc-accept-encoding"])
def test_an_encoding_beyond_ascii_reaches_no_pod(lab: Lab, key: str) -> None:
    """Pods on the package `h2` end their connection over it, and with it other clients' RPCs."""
    pod = lab.scripted_pod(refusing(0))
    client = lab.raw_client(lab.gateway(pod))
    answer = client.call("Unary", (key, "\u00e9"))
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.INVALID_ARGUMENT, "bad-metadata")
    assert client.call("Unary").status == Code.OK
    assert len(pod.streams) == 1


@on_http2
def test_an_encoding_beyond_ascii_reaches_no_client(lab: Lab) -> None:
    def answer(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(("grpc-encoding", "\u00e9"))
        stream.end()

    answered = lab.raw_client(lab.gateway(lab.scripted_pod(answer))).call("Unary")
    assert (answered.status, answered.header("grpc-encoding")) == (Code.OK, None)
