"""What a session counts of its RPC: under which name, with which reason, and how many bytes."""

from __future__ import annotations

from collections import Counter

from grpcgw.model.codes import Code
from grpcgw.model.resilience import CircuitBreaker
from grpcgw.model.status import Status
from grpcgw.telemetry.counters import OTHER
from grpcgw.upstream.pod import MAX_ERROR_CHARACTERS
from tests.session.gateway import LABEL, Gateway
from tests.session.playbook import METHOD, Rpc

NOT_FOUND = Status(Code.NOT_FOUND, "no such user")


def is_answered_without_message(rpc: Rpc, status: Status) -> None:
    rpc.pod_takes()
    rpc.pod_headers()
    rpc.pod_has_no_more()
    rpc.pod_ends(status)


def streaming_rpc() -> Rpc:
    """A stream on a pod that has answered with headers and nothing else."""
    gateway = Gateway()
    counters = gateway.counters.of(LABEL, METHOD)
    counters.one_request = counters.one_reply = False
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.pod_takes()
    rpc.pod_headers(("server", "pod"))
    rpc.client_takes()
    return rpc


def reports_of(gateway: Gateway) -> dict[str, dict[int, int]]:
    return {report.method: report.codes for report in gateway.counters.reports()}


def test_a_method_that_pods_do_not_know_gets_no_name() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    is_answered_without_message(rpc, Status(Code.UNIMPLEMENTED, "what is that?"))
    assert reports_of(rpc.gateway) == {OTHER: {Code.UNIMPLEMENTED: 1}}


def test_a_status_gives_a_method_its_name() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    is_answered_without_message(rpc, NOT_FOUND)
    assert reports_of(rpc.gateway) == {"Greet": {Code.NOT_FOUND: 1}}


def test_a_message_gives_a_method_its_name_while_the_rpc_runs() -> None:
    rpc = streaming_rpc()
    rpc.pod_replies(b"one")
    (report,) = rpc.gateway.counters.reports()
    assert (report.method, report.in_flight) == ("Greet", 1)
    rpc.client_leaves()
    assert reports_of(rpc.gateway) == {"Greet": {Code.CANCELLED: 1}}


def test_bytes_of_a_long_stream_are_counted_while_it_runs() -> None:
    rpc = streaming_rpc()
    rpc.pod_replies(b"12345")
    rpc.sweep()
    (report,) = rpc.gateway.counters.reports()
    assert report.response_bytes == 5
    rpc.client_leaves()
    (report,) = rpc.gateway.counters.reports()
    assert report.response_bytes == 5


def test_bytes_of_both_sides_are_counted_at_the_end() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary(b"four")
    rpc.is_answered_unary(b"seven77")
    (report,) = rpc.gateway.counters.reports()
    assert (report.request_bytes, report.response_bytes) == (4, 7)


def test_a_status_of_the_gateway_is_counted_with_its_reason_and_one_of_a_pod_without() -> None:
    gateway = Gateway()
    answered = Rpc(gateway)
    answered.is_sent_unary()
    is_answered_without_message(answered, Status(Code.UNAVAILABLE, "come back later"))
    lost = Rpc(gateway)
    lost.is_sent_unary()
    lost.drain_ends()
    left = Rpc(gateway)
    left.is_sent_unary()
    left.client_leaves()
    reasons: Counter[tuple[int, str]] = Counter()
    for report in gateway.counters.reports():
        reasons.update(report.reasons)
    assert reasons == {(Code.UNAVAILABLE, "draining"): 1, (Code.CANCELLED, "client-cancelled"): 1}


def test_the_error_of_a_pod_is_kept_in_part() -> None:
    rpc = Rpc(Gateway())
    rpc.is_sent_unary()
    is_answered_without_message(rpc, Status(Code.INTERNAL, 60_000 * "x"))
    (pod,) = rpc.gateway.clusters.pod_reports()
    assert pod.last_error == MAX_ERROR_CHARACTERS * "x"


def test_what_a_circuit_breaker_refuses_is_counted_by_mapping_and_limit() -> None:
    rpc = Rpc(Gateway(circuit_breakers=(CircuitBreaker(max_requests=0),)))
    rpc.starts()
    assert rpc.gateway.counters.events().breaker_trips == {(LABEL, "max_requests"): 1}
