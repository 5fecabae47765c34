"""The gateway's reflection service without sockets: what a stream is answered, when pods are asked again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from dataplane.waiting import eventually
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from grpcgw.engines.exchange import Exchange, begin_exchange
from grpcgw.model.codes import Code
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.request import Peer, Request
from grpcgw.services.local import IDLE_TIMEOUT_S
from grpcgw.services.reflection import REFLECTION_PATHS, ReflectionExchange
from grpcgw.services.reflection_source import DescriptorKeeper
from grpcgw.session.call import Attempt, Timer
from grpcgw.session.session import Session
from grpcgw.upstream.descriptors import DescriptorIndex, Descriptors
from tests.session.gateway import Gateway, destination, endpoints, route, snapshot
from tests.upstream.described import GREET, INDEX, shop

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class ReflectionClient:
    """One stream; strict about the order of what is asked of it."""

    carries_frames = False

    def __init__(self, gateway: Gateway, path: str = V1) -> None:
        self.reading = self.sending = False
        self.answers: list[ServerReflectionResponse] = []
        self.ended_with: Status | None = None
        self.aborted = False
        self.exchange: Exchange = begin_exchange(gateway, self, Request(path, "", (), None, Peer("")), 0.0)

    def says(self, message: bytes | None) -> None:
        assert self.reading
        self.reading = False
        self.exchange.on_request_message(message, 0.0)

    def takes(self) -> None:
        assert self.sending
        self.sending = False
        self.exchange.on_client_sent(True, 0.0)

    def read(self) -> None:
        assert not self.reading
        self.reading = True

    def send(self, headers: Metadata | None, message: bytes | None) -> None:
        assert not self.sending
        assert (headers is None) is bool(self.answers), "headers go out with the first answer"
        assert message is not None
        self.sending = True
        self.answers.append(ServerReflectionResponse.FromString(message))

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        assert not self.sending
        assert headers_sent is bool(self.answers)
        self.ended_with = status

    def abort(self, status: Status) -> None:
        assert self.sending
        self.ended_with, self.aborted = status, True

    def set_timer(self, timer: Timer, delay_s: float) -> None: ...
    def coalesce(self) -> None: ...
    def cancel_timer(self) -> None: ...

    def open(self, *_: object) -> Attempt:
        raise AssertionError("reflection asks no pod during an RPC")


LIST = ServerReflectionRequest(list_services="*").SerializeToString()


def reflecting(index: DescriptorIndex = INDEX) -> Gateway:
    gateway = Gateway()
    gateway.reflection = index
    return gateway


@pytest.mark.parametrize("path", sorted(REFLECTION_PATHS))
def test_each_request_is_answered_in_turn_and_only_routed_services_are_listed(path: str) -> None:
    gateway = reflecting()
    client = ReflectionClient(gateway, path)
    client.exchange.start(0.0)
    for _ in range(2):
        client.says(LIST)
        assert not client.reading, "the next is read when the answer is out"
        client.takes()
    client.says(None)
    listed = [[service.name for service in answer.list_services_response.service] for answer in client.answers]
    assert listed == [["greet.GrpcService"]] * 2
    assert client.ended_with == Status(Code.OK, "")
    (report,) = gateway.counters.reports()
    assert (report.method, report.codes, report.in_flight) == ("ServerReflectionInfo", {Code.OK: 1}, 0)


def test_what_is_no_request_ends_the_stream() -> None:
    client = ReflectionClient(reflecting())
    client.exchange.start(0.0)
    client.says(b"\xff\xff")
    assert client.ended_with is not None
    assert client.ended_with.code == Code.INVALID_ARGUMENT


def test_a_stream_ends_with_the_drain() -> None:
    client = ReflectionClient(reflecting())
    client.exchange.start(0.0)
    client.says(LIST)
    client.exchange.on_drained(1.0)
    assert client.aborted
    client.exchange.on_client_sent(False, 1.0)
    client.exchange.on_client_closed(1.0)
    client.exchange.on_request_message(None, 1.0)


def test_without_the_setting_or_with_a_mapping_of_its_own_it_is_forwarded() -> None:
    assert isinstance(ReflectionClient(reflecting()).exchange, ReflectionExchange)
    assert isinstance(ReflectionClient(Gateway()).exchange, Session)
    gateway = reflecting()
    gateway.apply(snapshot(route(destination(), prefix="/grpc.reflection.v1.ServerReflection/")), 0.0)
    assert isinstance(ReflectionClient(gateway).exchange, Session)


# --- who is asked, and when


class Pods:
    """What pods answer: descriptors, or an error."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Descriptors | ConnectionError | None = GREET
        self._lock = threading.Lock()

    def fetch(self, target: str, timeout_s: float) -> Descriptors | None:
        with self._lock:
            self.asked.append(target)
        if isinstance(self.answer, ConnectionError):
            raise self.answer
        return self.answer


@pytest.fixture
def gateway() -> Gateway:
    return Gateway(2)


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def keeper(gateway: Gateway, pods: Pods) -> Iterator[DescriptorKeeper]:
    keeper = DescriptorKeeper(gateway, pods.fetch, settle_s=0.01, retry_first_s=0.01)
    yield keeper
    keeper.close()


def services(gateway: Gateway) -> tuple[str, ...]:
    assert gateway.reflection is not None
    return gateway.reflection.services


def test_one_pod_speaks_for_its_cluster_and_is_asked_once(
    gateway: Gateway, pods: Pods, keeper: DescriptorKeeper
) -> None:
    assert services(gateway) == ()
    keeper.start()
    eventually(lambda: services(gateway) == GREET.services)
    keeper.look_again()
    keeper.close()
    assert pods.asked == ["ipv4:10.0.0.1:50051"]


def test_pods_are_asked_again_when_they_change(gateway: Gateway, pods: Pods, keeper: DescriptorKeeper) -> None:
    keeper.start()
    eventually(lambda: services(gateway) == GREET.services)
    pods.answer = shop()
    gateway.set_endpoints("greet", EndpointSet((Endpoint("10.0.0.9", 50051),)), 0.0)
    keeper.look_again()
    eventually(lambda: services(gateway) == ("shop.Orders",))
    assert pods.asked[-1] == "ipv4:10.0.0.9:50051"


def test_a_pod_that_cannot_be_asked_is_followed_by_the_next_and_what_was_known_stays(
    gateway: Gateway, pods: Pods, keeper: DescriptorKeeper
) -> None:
    keeper.start()
    eventually(lambda: services(gateway) == GREET.services)
    pods.answer = ConnectionError("away")
    gateway.set_endpoints("greet", endpoints(3, 4), 0.0)
    keeper.look_again()
    eventually(lambda: {"ipv4:10.0.0.3:50051", "ipv4:10.0.0.4:50051"} <= set(pods.asked))
    assert services(gateway) == GREET.services
    pods.answer = shop()
    eventually(lambda: services(gateway) == ("shop.Orders",))


def test_a_cluster_that_is_gone_or_does_not_reflect_is_forgotten(
    gateway: Gateway, pods: Pods, keeper: DescriptorKeeper
) -> None:
    keeper.start()
    eventually(lambda: services(gateway) == GREET.services)
    pods.answer = None
    gateway.set_endpoints("greet", endpoints(3), 0.0)
    keeper.look_again()
    eventually(lambda: services(gateway) == ())
    pods.answer = GREET
    gateway.set_endpoints("greet", endpoints(4), 0.0)
    keeper.look_again()
    eventually(lambda: services(gateway) == GREET.services)
    gateway.apply(snapshot(), 0.0)
    keeper.look_again()
    eventually(lambda: services(gateway) == ())


def test_a_keeper_that_never_started_can_be_closed(keeper: DescriptorKeeper) -> None:
    keeper.look_again()


def test_a_stream_on_which_nothing_more_is_asked_is_sent_away() -> None:
    client = ReflectionClient(reflecting())
    client.exchange.start(0.0)
    client.says(LIST)
    client.takes()
    client.exchange.on_sweep(IDLE_TIMEOUT_S - 1)
    assert client.ended_with is None
    client.exchange.on_sweep(IDLE_TIMEOUT_S)
    assert client.ended_with is not None
    assert client.ended_with.code == Code.DEADLINE_EXCEEDED
