"""Every engine hands every ended RPC to the access log."""

from __future__ import annotations

import grpc
import pytest

from dataplane.lab import Gateway, Lab, mapping, on_grpc_core
from dataplane.waiting import eventually
from grpcgw.model.codes import Code
from grpcgw.session.serving import RpcLog
from grpcgw.telemetry.access_log import CancelledBy, RpcRecord, StatusFrom


def log_of(gateway: Gateway) -> list[RpcRecord]:
    """Where the records of `gateway` come in, from now on."""
    records: list[RpcRecord] = []
    gateway.serving.rpc_log = RpcLog(records.append, 100.0)
    gateway.route(mapping())
    return records


def test_what_passed_is_summed_up(lab: Lab) -> None:
    pod = lab.pod()
    gateway = lab.gateway(pod)
    records = log_of(gateway)
    channel = lab.channel(gateway)
    assert channel.unary_unary("/test.Pod/Unary")(b"hi", timeout=30) == b"pod:hi"
    assert list(channel.stream_stream("/test.Pod/Chat")(iter((b"a", b"bb")), timeout=30)) == [b"a", b"bb"]
    eventually(lambda: len(records) == 2)
    unary, chat = records
    assert (unary.path, unary.code, unary.status_from) == ("/test.Pod/Unary", 0, StatusFrom.TRAILERS)
    assert (unary.mapping, unary.cluster, unary.pod) == ("test.default", "pods", str(pod.endpoint))
    assert (unary.request_bytes, unary.response_bytes, unary.peer) == (2, 6, "127.0.0.1")
    assert unary.timeout_s is not None
    assert 0 < unary.timeout_s < 40  # core rounds up what it sends
    assert "user-agent" in dict(unary.metadata)
    assert (chat.request_messages, chat.request_bytes) == (2, 3)
    assert (chat.response_messages, chat.response_bytes) == (2, 3)


def test_what_the_gateway_refused_says_why(lab: Lab) -> None:
    gateway = lab.gateway(lab.pod())
    records = log_of(gateway)
    channel = lab.channel(gateway)
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/none.S/M")(b"", timeout=30)
    eventually(lambda: len(records) == 1)
    assert (records[0].status_from, records[0].reason) == (StatusFrom.GATEWAY, "no-mapping")


@on_grpc_core
@pytest.mark.parametrize("bad", [("grpc-encoding", "zstd"), ("x-id-bin", "AAE=,AgM="), ("grpc-timeout", "soon")])
def test_what_core_refuses_for_a_header_is_not_said_to_be_the_clients_cancellation(
    lab: Lab, bad: tuple[str, str]
) -> None:
    gateway = lab.gateway(lab.pod())
    records = log_of(gateway)
    client = lab.raw_client(gateway)
    assert client.call("Unary", bad).status == Code.INTERNAL
    assert client.call("/grpc.health.v1.Health/Check", bad).status == Code.INTERNAL
    assert client.call("Unary").status == Code.OK
    eventually(lambda: records and records[-1].code == Code.OK)
    refused = [(record.reason, record.cancelled_by) for record in records[:-1]]
    assert set(refused) <= {("cut-at-once", CancelledBy.UNKNOWN)}, refused


@pytest.mark.parametrize("bad", [("x-id-bin", "no base64!"), ("grpc-timeout", "soon"), ("x-name", "caf\u00e9")])
def test_what_the_gateway_refuses_for_a_header_is_logged_with_its_reason(lab: Lab, bad: tuple[str, str]) -> None:
    gateway = lab.gateway(lab.pod())
    records = log_of(gateway)
    client = lab.raw_client(gateway)
    answer = client.call("Unary", bad)
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.INVALID_ARGUMENT, "bad-metadata")
    assert bad[0] in answer.message
    eventually(lambda: records)
    assert (records[0].status_from, records[0].reason) == (StatusFrom.GATEWAY, "bad-metadata")


def test_a_cancelled_rpc_is_the_clients_doing(lab: Lab) -> None:
    gateway = lab.gateway(lab.scripted_pod())
    records = log_of(gateway)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary").future(b"hi")
    eventually(gateway.pod_in_flight)
    call.cancel()
    eventually(lambda: records)
    assert (records[0].status_from, records[0].cancelled_by) == (StatusFrom.NOBODY, CancelledBy.CLIENT)
