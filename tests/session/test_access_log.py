"""What a session tells the access log of its RPC, and that it tells it once."""

from __future__ import annotations

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.resilience import RetryPolicy
from grpcgw.model.status import Status
from grpcgw.session.serving import RpcLog
from grpcgw.telemetry.access_log import CancelledBy, RpcRecord, StatusFrom
from tests.session.gateway import LABEL, Gateway, destination, endpoints, route, snapshot
from tests.session.playbook import CONNECT_FAILED, METHOD, Rpc

NOT_FOUND = Status(Code.NOT_FOUND, "no such user", (("cost", "3"),))


class LoggingGateway(Gateway):
    """Notes what its access log would be told."""

    def __init__(self, pods: int = 1, share_percent: float = 100.0, **mapping: object) -> None:
        super().__init__(pods, **mapping)
        self.records: list[RpcRecord] = []
        self.rpc_log = RpcLog(self.records.append, share_percent)
        self.apply(snapshot(route(destination(**mapping))), 0.0)

    def only(self) -> RpcRecord:
        (record,) = self.records
        return record


def test_an_rpc_is_summed_up_at_its_end() -> None:
    gateway = LoggingGateway()
    rpc = Rpc(gateway, metadata=(("user-agent", "me"),), deadline_s=5.0)
    rpc.is_sent_unary(b"hello")
    rpc.now_s = 2.0
    rpc.is_answered_unary(b"yo", NOT_FOUND)
    record = gateway.only()
    assert (record.path, record.authority, record.peer) == (METHOD, "gateway.example", "192.0.2.7")
    assert (record.mapping, record.cluster, record.pod) == (LABEL, "greet", "10.0.0.1:50051")
    assert (record.code, record.message, record.reason) == (Code.NOT_FOUND, "no such user", "")
    assert (record.status_from, record.cancelled_by) == (StatusFrom.TRAILERS, CancelledBy.NOBODY)
    assert (record.request_messages, record.request_bytes) == (1, 5)
    assert (record.response_messages, record.response_bytes) == (1, 2)
    assert (record.duration_s, record.timeout_s, record.deadline_left_s) == (2.0, 5.0, 3.0)
    assert (record.headers, record.trailers) == ((("server", "pod"),), (("cost", "3"),))
    assert ("user-agent", "me") in record.metadata
    assert "x-request-id" in dict(record.forwarded)
    assert record.retries == 0


def test_bytes_of_every_message_of_a_stream_are_counted() -> None:
    gateway = LoggingGateway()
    counters = gateway.counters.of(LABEL, METHOD)
    counters.one_request = counters.one_reply = False
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.pod_takes()
    rpc.pod_headers()
    if rpc.call.timer:
        rpc.timer_expires()
    rpc.client_takes()
    for message in (b"a", b"bb"):
        rpc.client_sends(message)
        rpc.pod_takes()
        rpc.pod_replies(message * 2)
        rpc.client_takes()
    rpc.client_leaves()
    rpc.pod_has_no_more()
    rpc.pod_ends()
    record = gateway.only()
    assert (record.request_messages, record.request_bytes) == (2, 3)
    assert (record.response_messages, record.response_bytes) == (2, 6)


def test_a_status_with_nothing_before_it_came_in_headers() -> None:
    gateway = LoggingGateway()
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    rpc.pod_takes()
    rpc.pod_headers()
    rpc.pod_has_no_more()
    rpc.pod_ends(NOT_FOUND)
    assert gateway.only().status_from is StatusFrom.HEADERS


def test_an_rpc_without_a_mapping_is_the_gateways() -> None:
    gateway = LoggingGateway()
    Rpc(gateway, "/none/Such", deadline_s=5.0).starts()
    record = gateway.only()
    assert (record.mapping, record.cluster, record.pod) == ("", "", "")
    assert (record.code, record.reason) == (Code.UNIMPLEMENTED, "no-mapping")
    assert (record.status_from, record.cancelled_by) == (StatusFrom.GATEWAY, CancelledBy.NOBODY)
    assert (record.timeout_s, record.deadline_left_s) == (5.0, 5.0)


def test_an_rpc_without_a_pod_names_its_mapping_and_cluster() -> None:
    gateway = LoggingGateway()
    gateway.set_endpoints("greet", endpoints(), 0.0)
    Rpc(gateway).is_sent_unary()
    record = gateway.only()
    assert (record.mapping, record.cluster, record.pod) == (LABEL, "greet", "")
    assert record.reason == "no-endpoints"


def test_a_client_that_leaves_is_told_apart_from_one_whose_deadline_passed() -> None:
    gateway = LoggingGateway()
    leaving, expiring = Rpc(gateway), Rpc(gateway, deadline_s=5.0)
    for rpc in (leaving, expiring):
        rpc.is_sent_unary()
        rpc.now_s = 5.0
        rpc.client_leaves()
    left, expired = gateway.records
    assert (left.status_from, left.code, left.reason) == (StatusFrom.NOBODY, Code.CANCELLED, "")
    assert left.cancelled_by is CancelledBy.CLIENT
    assert (expired.status_from, expired.code) == (StatusFrom.NOBODY, Code.DEADLINE_EXCEEDED)
    assert (expired.cancelled_by, expired.reason) == (CancelledBy.DEADLINE, "client-deadline")
    assert expired.deadline_left_s == 0.0


def test_who_leaves_before_anything_was_read_may_be_core_unless_it_took_its_time() -> None:
    gateway = LoggingGateway()
    at_once, later = Rpc(gateway), Rpc(gateway)
    at_once.starts()
    later.starts()
    later.now_s += 2.0
    at_once.client_leaves()
    later.client_leaves()
    first, second = gateway.records
    assert (first.code, first.reason, first.cancelled_by) == (Code.CANCELLED, "cut-at-once", CancelledBy.UNKNOWN)
    assert (second.code, second.reason, second.cancelled_by) == (Code.CANCELLED, "", CancelledBy.CLIENT)


def test_an_engine_that_knows_why_streams_end_reports_a_client_that_leaves_at_once_as_that() -> None:
    gateway = LoggingGateway()
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.client_leaves(by_client=True)
    record = gateway.only()
    assert (record.code, record.reason, record.cancelled_by) == (Code.CANCELLED, "", CancelledBy.CLIENT)


def test_an_idle_rpc_was_ended_by_the_gateway_with_the_headers_that_went_out() -> None:
    gateway = LoggingGateway(idle_timeout_ms=1000)
    counters = gateway.counters.of(LABEL, METHOD)
    counters.one_request = counters.one_reply = False
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.pod_takes()
    rpc.pod_headers(("server", "pod"))
    rpc.client_takes()
    rpc.now_s = 2.0
    rpc.sweep()
    record = gateway.only()
    assert (record.cancelled_by, record.reason) == (CancelledBy.GATEWAY, "idle-timeout")
    assert record.headers == (("server", "pod"),)


def test_an_rpc_that_holds_too_much_was_ended_by_the_gateway() -> None:
    gateway = LoggingGateway()
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.session.on_too_much_held(rpc.now_s)
    record = gateway.only()
    assert (record.cancelled_by, record.reason) == (CancelledBy.GATEWAY, "too-much-held")


@pytest.mark.parametrize("retry", [None, RetryPolicy(frozenset())], ids=["safe", "configured"])
def test_tries_after_the_first_are_counted(retry: RetryPolicy | None) -> None:
    gateway = LoggingGateway(2, retry=retry)
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    rpc.try_fails(CONNECT_FAILED)
    if rpc.call.timer:
        rpc.timer_expires()
    rpc.is_answered_unary()
    record = gateway.only()
    assert (record.code, record.retries) == (Code.OK, 1)
    assert record.pod == f"{rpc.attempt.pod.endpoint}"


@pytest.mark.parametrize(("share", "own", "logged"), [(100, 0.0, 0), (0, 100.0, 1), (0, None, 0), (100, None, 1)])
def test_a_mapping_s_own_share_wins(share: float, own: float | None, logged: int) -> None:
    gateway = LoggingGateway(share_percent=share, access_log_percent=own)
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    rpc.is_answered_unary()
    assert len(gateway.records) == logged


def test_what_the_gateway_refuses_falls_under_its_own_share() -> None:
    gateway = LoggingGateway(share_percent=0)
    Rpc(gateway, "/none/Such").starts()
    assert gateway.records == []
