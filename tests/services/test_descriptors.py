"""The gateway's reflection service without sockets: what is answered, what is listed, when pods are asked again."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator

import pytest
from dataplane.waiting import eventually
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from examples.greet import server as greet_server  # its package puts the generated code on the path
from greet import greet_pb2
from grpcgw.engines.exchange import Exchange, begin_exchange
from grpcgw.model.codes import Code
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.request import Peer, Request
from grpcgw.services.descriptors import DescriptorIndex, Descriptors
from grpcgw.services.local import IDLE_TIMEOUT_S
from grpcgw.services.own_descriptors import OWN_SERVICES
from grpcgw.services.reflection import REFLECTION_PATHS, ReflectionExchange
from grpcgw.services.reflection_source import DescriptorKeeper
from grpcgw.session.call import JOIN_WINDOW_S, Attempt
from grpcgw.session.session import Session
from tests.session.gateway import Gateway, destination, endpoints, route, snapshot

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
GREET_FILE = greet_pb2.DESCRIPTOR.name
GREET = Descriptors((greet_server.SERVICE,), {GREET_FILE: greet_pb2.DESCRIPTOR.serialized_pb})


def shop() -> Descriptors:
    """Two files: one with a message in a message, and one that extends it."""
    base = FileDescriptorProto(name="shop/base.proto", package="shop")
    order = base.message_type.add(name="Order")
    order.extension_range.add(start=100, end=200)
    order.nested_type.add(name="Line").enum_type.add(name="Kind").value.add(name="NONE", number=0)
    more = FileDescriptorProto(name="shop/more.proto", package="shop", dependency=["shop/base.proto"])
    for number in (101, 100):
        more.extension.add(
            name=f"note{number}",
            number=number,
            extendee=".shop.Order",
            type=FieldDescriptorProto.TYPE_STRING,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )
    service = more.service.add(name="Orders")
    service.method.add(name="Get", input_type=".shop.Order", output_type=".shop.Order")
    files = {file.name: file.SerializeToString() for file in (base, more)}
    return Descriptors(("shop.Orders",), files)


INDEX = DescriptorIndex({"shop": shop(), "greet": GREET})


EVERYWHERE = ("shop", "greet", "a", "b", "c")


def ask(
    index: DescriptorIndex = INDEX, routed: Collection[str] = EVERYWHERE, **request: object
) -> ServerReflectionResponse:
    """`routed`: the clusters that the asker's calls go to, whatever the service."""
    asked = ServerReflectionRequest(host="h", **request)
    answer = ServerReflectionResponse.FromString(index.see(lambda _: routed).answer(asked.SerializeToString()))
    assert (answer.original_request, answer.valid_host) == (asked, "h")
    return answer


def files(answer: ServerReflectionResponse) -> list[str]:
    found = answer.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(data).name for data in found]


# --- the index


def renamed_shop(field: str) -> Descriptors:
    """The same service and message, of another program."""
    file = FileDescriptorProto(name="shop.proto", package="shop")
    file.message_type.add(name="Item").field.add(name=field, number=1, type=9, label=1)
    file.service.add(name="Catalogue").method.add(name="Get", input_type=".shop.Item", output_type=".shop.Item")
    return Descriptors(("shop.Catalogue",), {file.name: file.SerializeToString()})


@pytest.mark.parametrize(("cluster", "field"), [("one", "title"), ("two", "headline")])
@pytest.mark.parametrize(
    "request_fields",
    [
        {"file_containing_symbol": "shop.Item"},
        {"file_containing_symbol": "shop.Catalogue"},
        {"file_containing_symbol": "shop.Catalogue.Get"},
        {"file_by_filename": "shop.proto"},
    ],
)
def test_an_asker_is_told_of_the_pods_its_calls_go_to(cluster: str, field: str, request_fields: dict[str, str]) -> None:
    index = DescriptorIndex({"one": renamed_shop("title"), "two": renamed_shop("headline")})
    answer = ask(index, (cluster,), **request_fields)
    (data,) = answer.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(data).message_type[0].field[0].name == field


def test_what_an_asker_cannot_call_it_is_not_told_of() -> None:
    answer = ask(routed=("greet",), file_containing_symbol="shop.Order")
    assert answer.error_response.error_code == Code.NOT_FOUND


def test_a_service_is_described_by_the_pods_its_own_calls_go_to() -> None:
    """Both clusters have both services; calls of one go to one, of the other to the other."""
    greet = FileDescriptorProto.FromString(next(iter(GREET.files.values())))
    one, two = renamed_shop("title"), renamed_shop("headline")
    both = Descriptors((*two.services, *GREET.services), {**two.files, **GREET.files})
    index = DescriptorIndex(
        {"a": Descriptors((*one.services, *GREET.services), {**one.files, **GREET.files}), "b": both}
    )
    view = index.see(lambda service: ("a",) if service.startswith(greet.package) else ("b",))
    request = ServerReflectionRequest(file_containing_symbol="shop.Catalogue")
    answer = ServerReflectionResponse.FromString(view.answer(request.SerializeToString()))
    (data,) = answer.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(data).message_type[0].field[0].name == "headline"


def test_the_gateways_own_services_are_listed_and_described() -> None:
    index = DescriptorIndex({"greet": GREET}, OWN_SERVICES)
    own = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
    listed = [service.name for service in ask(index, (), list_services="*").list_services_response.service]
    assert listed == own
    pool = DescriptorPool()
    for name in own:
        for data in ask(index, (), file_containing_symbol=name).file_descriptor_response.file_descriptor_proto:
            pool.AddSerializedFile(data)
        assert pool.FindServiceByName(name).methods


def test_services_of_all_clusters_are_listed_where_they_are_routed() -> None:
    listed = ask(list_services="*").list_services_response.service
    assert [service.name for service in listed] == ["greet.GrpcService", "shop.Orders"]
    assert not ask(routed=(), list_services="*").list_services_response.service


@pytest.mark.parametrize(
    ("symbol", "first"),
    [
        ("greet.GrpcService", GREET_FILE),
        ("greet.GrpcService.Greet", GREET_FILE),
        ("greet.GreetRequest", GREET_FILE),
        ("shop.Orders", "shop/more.proto"),
        ("shop.Order", "shop/base.proto"),
        ("shop.Order.Line", "shop/base.proto"),
        ("shop.Order.Line.Kind", "shop/base.proto"),
        ("shop.note100", "shop/more.proto"),
    ],
)
def test_a_symbol_brings_its_file_first(symbol: str, first: str) -> None:
    assert files(ask(file_containing_symbol=symbol))[0] == first


def test_a_file_brings_what_it_depends_on() -> None:
    assert files(ask(file_by_filename="shop/more.proto")) == ["shop/more.proto", "shop/base.proto"]
    assert files(ask(file_by_filename="shop/base.proto")) == ["shop/base.proto"]


def test_extensions_are_found_by_number() -> None:
    wanted = ExtensionRequest(containing_type="shop.Order", extension_number=101)
    assert files(ask(file_containing_extension=wanted))[0] == "shop/more.proto"
    answer = ask(all_extension_numbers_of_type="shop.Order").all_extension_numbers_response
    assert (answer.base_type_name, list(answer.extension_number)) == ("shop.Order", [100, 101])
    assert not ask(all_extension_numbers_of_type="greet.GreetRequest").HasField("error_response")


@pytest.mark.parametrize(
    "request_",
    [
        {"file_containing_symbol": "no.Such"},
        {"file_containing_symbol": ""},
        {"file_by_filename": "no.proto"},
        {"file_containing_extension": ExtensionRequest(containing_type="shop.Order", extension_number=7)},
        {"all_extension_numbers_of_type": "no.Such"},
    ],
)
def test_what_nobody_knows_is_not_found(request_: dict[str, object]) -> None:
    assert ask(**request_).error_response.error_code == Code.NOT_FOUND


def test_a_request_for_nothing_is_invalid() -> None:
    assert ask().error_response.error_code == Code.INVALID_ARGUMENT


def test_one_file_in_two_versions_comes_with_the_dependencies_of_its_own_cluster() -> None:
    other = FileDescriptorProto(name="shop/more.proto", package="shop", dependency=["other.proto"])
    dependency = FileDescriptorProto(name="other.proto")
    second = Descriptors((), {file.name: file.SerializeToString() for file in (other, dependency)})
    index = DescriptorIndex({"b": second, "a": shop()})
    assert files(ask(index, file_by_filename="shop/more.proto")) == ["shop/more.proto", "shop/base.proto"]


def test_files_that_depend_on_each_other_come_once() -> None:
    one = FileDescriptorProto(name="one", dependency=["two", "missing"])
    two = FileDescriptorProto(name="two", dependency=["one"])
    index = DescriptorIndex({"c": Descriptors(("s.S",), {file.name: file.SerializeToString() for file in (one, two)})})
    assert files(ask(index, file_by_filename="one")) == ["one", "two"]


# --- the RPC


class ReflectionClient:
    """One stream; strict about the order of what is asked of it."""

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

    def join(self, delay_s: float = JOIN_WINDOW_S) -> None: ...
    def leave(self) -> None: ...

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
