"""The gateway's own grpc.health.v1.Health: it speaks for the gateway as a whole, and for each service it routes."""

from __future__ import annotations

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from grpcgw.engines.exchange import begin_exchange
from grpcgw.model.codes import Code
from grpcgw.model.endpoints import PodState
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.request import Peer, Request
from grpcgw.services.health_service import HEALTH_PREFIX, HealthExchange
from grpcgw.services.local import IDLE_TIMEOUT_S
from grpcgw.session.call import Attempt, Timer
from grpcgw.session.serving import RpcLog
from grpcgw.session.session import Session
from grpcgw.telemetry.access_log import CancelledBy, RpcRecord, StatusFrom
from tests.session.gateway import FakeConnection, Gateway, destination, endpoints, route, snapshot

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


class HealthClient:
    """One call to the health service; strict about the order of what is asked of it."""

    carries_frames = False

    def __init__(self, gateway: Gateway, method: str, service: str = "") -> None:
        self.reading = self.sending = False
        self.answers: list[int] = []
        self.ended_with: Status | None = None
        self.aborted = False
        request = Request(f"{HEALTH_PREFIX}{method}", "", (), None, Peer(""))
        self.exchange = begin_exchange(gateway, self, request, 0.0)
        assert isinstance(self.exchange, HealthExchange)
        self.exchange.start(0.0)
        if self.reading:
            self.exchange.on_request_message(HealthCheckRequest(service=service).SerializeToString(), 0.0)

    def read(self) -> None:
        self.reading = True

    def send(self, headers: Metadata | None, message: bytes | None) -> None:
        assert not self.sending
        assert self.ended_with is None
        assert (headers is None) is bool(self.answers), "headers go out with the first answer"
        self.sending = True
        self._note(message)

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        assert not self.sending
        assert self.ended_with is None
        assert headers_sent is bool(self.answers)
        self._note(message)
        self.ended_with = status

    def abort(self, status: Status) -> None:
        assert self.sending
        assert self.ended_with is None
        self.ended_with, self.aborted = status, True

    def _note(self, message: bytes | None) -> None:
        if message is not None:
            self.answers.append(HealthCheckResponse.FromString(message).status)

    def take(self) -> None:
        assert self.sending
        self.sending = False
        self.exchange.on_client_sent(True, 0.0)

    def set_timer(self, timer: Timer, delay_s: float) -> None: ...
    def coalesce(self) -> None: ...
    def cancel_timer(self) -> None: ...

    def open(self, *_: object) -> Attempt:
        raise AssertionError("health asks no pod")


def counted(gateway: Gateway) -> dict[str, dict[int, int]]:
    return {report.method: report.codes for report in gateway.counters.reports()}


def test_check_says_serving() -> None:
    gateway = Gateway()
    client = HealthClient(gateway, "Check")
    assert (client.answers, client.ended_with) == ([SERVING], Status(Code.OK, ""))
    assert counted(gateway) == {"Check": {Code.OK: 1}}


def test_check_says_not_serving_while_draining() -> None:
    gateway = Gateway()
    gateway.draining = True
    assert HealthClient(gateway, "Check").answers == [NOT_SERVING]


def test_check_of_another_service_is_not_found() -> None:
    client = HealthClient(Gateway(), "Check", "other.Service")
    assert client.answers == []
    assert client.ended_with is not None
    assert client.ended_with.code == Code.NOT_FOUND
    assert "other.Service" in client.ended_with.details


def fail_pods(gateway: Gateway, state: PodState = PodState.FAILING) -> None:
    for pod in gateway.pods():
        assert isinstance(pod.connection, FakeConnection)
        pod.connection.connectivity = state
    gateway.refresh(0.0)


def test_check_of_a_routed_service_says_whether_it_has_a_pod() -> None:
    gateway = Gateway(2)
    assert HealthClient(gateway, "Check", "greet.GrpcService").answers == [SERVING]
    fail_pods(gateway)
    assert HealthClient(gateway, "Check", "greet.GrpcService").answers == [NOT_SERVING]
    fail_pods(gateway, PodState.READY)
    assert HealthClient(gateway, "Check", "greet.GrpcService").answers == [SERVING]
    gateway.set_endpoints("greet", endpoints(), 0.0)
    assert HealthClient(gateway, "Check", "greet.GrpcService").answers == [NOT_SERVING]


def test_a_routed_service_does_not_serve_while_draining() -> None:
    gateway = Gateway()
    gateway.draining = True
    assert HealthClient(gateway, "Check", "greet.GrpcService").answers == [NOT_SERVING]


def test_watch_of_a_service_follows_its_pods_and_its_mapping() -> None:
    gateway = Gateway()
    client = HealthClient(gateway, "Watch", "greet.GrpcService")
    client.take()
    gateway.set_endpoints("greet", endpoints(), 0.0)
    client.exchange.on_sweep(0.0)
    client.take()
    gateway.apply(snapshot(), 0.0)
    client.exchange.on_sweep(0.0)
    client.take()
    gateway.apply(snapshot(route()), 0.0)
    gateway.set_endpoints("greet", endpoints(1), 0.0)
    client.exchange.on_sweep(0.0)
    assert client.answers == [SERVING, NOT_SERVING, SERVICE_UNKNOWN, SERVING]


def test_the_access_log_has_health_checks_too() -> None:
    gateway = Gateway()
    records: list[RpcRecord] = []
    gateway.rpc_log = RpcLog(records.append, 100.0)
    HealthClient(gateway, "Check")
    HealthClient(gateway, "Watch").exchange.on_client_closed(1.0)
    check, watch = records
    assert (check.path, check.mapping, check.status_from) == (f"{HEALTH_PREFIX}Check", "", StatusFrom.GATEWAY)
    assert (check.request_messages, check.response_messages, check.response_bytes) == (1, 1, 2)
    assert (watch.code, watch.cancelled_by, watch.duration_s) == (Code.CANCELLED, CancelledBy.CLIENT, 1.0)


def test_a_method_that_is_not_there_is_unimplemented() -> None:
    gateway = Gateway()
    client = HealthClient(gateway, "List")
    assert client.ended_with is not None
    assert client.ended_with.code == Code.UNIMPLEMENTED
    assert counted(gateway) == {"other": {Code.UNIMPLEMENTED: 1}}


def test_a_request_that_cannot_be_read_is_internal() -> None:
    client = HealthClient.__new__(HealthClient)
    client.reading = client.sending = False
    client.answers, client.ended_with = [], None
    exchange = begin_exchange(Gateway(), client, Request(f"{HEALTH_PREFIX}Check", "", (), None, Peer("")), 0.0)
    exchange.start(0.0)
    exchange.on_request_message(b"\xff\xff", 0.0)
    assert client.ended_with is not None
    assert client.ended_with.code == Code.INTERNAL


def test_watch_tells_each_change_once() -> None:
    gateway = Gateway()
    client = HealthClient(gateway, "Watch")
    client.take()
    client.exchange.on_sweep(0.0)
    assert client.answers == [SERVING]
    gateway.draining = True
    client.exchange.on_sweep(0.0)
    client.take()
    client.exchange.on_sweep(0.0)
    assert client.answers == [SERVING, NOT_SERVING]


def test_watch_waits_for_a_client_that_is_still_taking_the_last_answer() -> None:
    gateway = Gateway()
    client = HealthClient(gateway, "Watch")
    gateway.draining = True
    client.exchange.on_sweep(0.0)
    assert client.answers == [SERVING]
    client.take()
    assert client.answers == [SERVING, NOT_SERVING]


def test_watch_of_another_service_stays_unknown() -> None:
    client = HealthClient(Gateway(), "Watch", "other")
    assert (client.answers, client.ended_with) == ([SERVICE_UNKNOWN], None)


def test_a_watch_ends_with_the_drain() -> None:
    gateway = Gateway()
    reading, not_reading = HealthClient(gateway, "Watch"), HealthClient(gateway, "Watch")
    reading.take()
    for client in (reading, not_reading):
        client.exchange.on_drained(1.0)
        assert client.ended_with is not None
        assert client.ended_with.code == Code.UNAVAILABLE
    assert (reading.aborted, not_reading.aborted) == (False, True)
    assert counted(gateway) == {"Watch": {Code.UNAVAILABLE: 2}}


def test_a_watch_whose_client_left_is_over() -> None:
    gateway = Gateway()
    client = HealthClient(gateway, "Watch")
    client.exchange.on_client_closed(1.0)
    client.exchange.on_client_sent(False, 1.0)
    client.exchange.on_sweep(1.0)
    client.exchange.on_drained(1.0)
    client.exchange.on_defect(1.0)
    assert client.ended_with is None
    assert counted(gateway) == {"Watch": {Code.CANCELLED: 1}}
    assert all(report.in_flight == 0 for report in gateway.counters.reports())


def test_a_mapping_takes_the_health_service_over() -> None:
    gateway = Gateway()
    gateway.apply(snapshot(route(destination(), prefix=HEALTH_PREFIX)), 0.0)
    request = Request(f"{HEALTH_PREFIX}Check", "", (), None, Peer(""))
    client = HealthClient.__new__(HealthClient)
    assert isinstance(begin_exchange(gateway, client, request, 0.0), Session)


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_a_client_that_never_says_what_it_asks_for_is_sent_away(method: str) -> None:
    class Silent(HealthClient):
        """Sends nothing."""

        def read(self) -> None: ...

    client = Silent(Gateway(), method)
    client.exchange.on_sweep(IDLE_TIMEOUT_S - 1)
    assert client.ended_with is None
    client.exchange.on_sweep(IDLE_TIMEOUT_S)
    assert client.ended_with is not None
    assert (client.ended_with.code, client.ended_with.trailers) == (
        Code.DEADLINE_EXCEEDED,
        (("x-grpcgw-reason", "idle-timeout"),),
    )


def test_a_watch_may_be_quiet_for_ever_but_not_unread() -> None:
    client = HealthClient(Gateway(), "Watch")
    client.take()
    client.exchange.on_sweep(100 * IDLE_TIMEOUT_S)
    assert client.ended_with is None
    unread = HealthClient(Gateway(), "Watch")
    unread.exchange.on_sweep(IDLE_TIMEOUT_S)
    assert unread.aborted
