"""Tools ask the gateway what its pods serve, over `grpc.reflection`, and how they are, over `grpc.health`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from dataplane.lab import Gateway, Lab, mapping
from dataplane.waiting import eventually
from examples.greet import server as greet_server
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.match import HostKind, HostMatch
from grpcgw.services.own_descriptors import OWN_SERVICES
from grpcgw.services.reflection_source import DescriptorKeeper, fetch_descriptors
from grpcgw.settings import EngineName
from grpcgw.upstream.descriptors import Descriptors

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.fixture
def pod(lab: Lab) -> greet_server.Pod:
    pod = greet_server.Pod("greet")
    lab.defer(lambda: pod.stop(0))
    return pod


@pytest.fixture
def gateway(lab: Lab, pod: greet_server.Pod) -> Iterator[Gateway]:
    """Routes one of two services: the greet pod's, not the other cluster's, whose pods have no reflection."""
    routes = [mapping("/greet.GrpcService/", "greet", "greet"), mapping()]
    gateway = lab.gateway(routes=routes, clusters={"pods": [lab.pod()]})
    set_greet_pods(gateway, pod.port)
    keeper = DescriptorKeeper(gateway.serving)
    keeper.start()
    yield gateway
    keeper.close()


def set_greet_pods(gateway: Gateway, *ports: int) -> None:
    endpoints = EndpointSet(tuple(Endpoint("127.0.0.1", port) for port in ports))
    gateway.serving.set_endpoints("greet", endpoints, time.monotonic())


def wait_for_descriptors(gateway: Gateway) -> None:
    eventually(lambda: gateway.serving.reflection is not None and gateway.serving.reflection.services)


def test_a_tool_learns_enough_to_describe_and_call(lab: Lab, gateway: Gateway) -> None:
    wait_for_descriptors(gateway)
    database = ProtoReflectionDescriptorDatabase(lab.channel(gateway))
    assert list(database.get_services()) == sorted(["greet.GrpcService", *OWN_SERVICES.services])
    service = DescriptorPool(database).FindServiceByName("greet.GrpcService")
    assert service.methods_by_name["Greet"].input_type.full_name == "greet.GreetRequest"


def test_v1_is_answered_as_v1alpha_is(lab: Lab, gateway: Gateway) -> None:
    wait_for_descriptors(gateway)
    ask = lab.channel(gateway).stream_stream(
        V1,
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    requests = [
        ServerReflectionRequest(list_services="*"),
        ServerReflectionRequest(file_containing_symbol="greet.GrpcService"),
        ServerReflectionRequest(file_by_filename="no.proto"),
    ]
    kinds = [answer.WhichOneof("message_response") for answer in ask(iter(requests), timeout=30)]
    assert kinds == ["list_services_response", "file_descriptor_response", "error_response"]


def test_the_pods_of_a_service_that_no_mapping_routes_are_not_listed(lab: Lab, gateway: Gateway) -> None:
    wait_for_descriptors(gateway)
    gateway.route(mapping("/other.Prefix/", "greet", "greet"))
    listed = ProtoReflectionDescriptorDatabase(lab.channel(gateway)).get_services()
    assert list(listed) == sorted(OWN_SERVICES.services)


def test_health_of_a_service_is_that_of_its_pods(lab: Lab, gateway: Gateway, pod: greet_server.Pod) -> None:
    stub = health_pb2_grpc.HealthStub(lab.channel(gateway))
    request = health_pb2.HealthCheckRequest(service="greet.GrpcService")
    watch = stub.Watch(request)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    set_greet_pods(gateway)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    set_greet_pods(gateway, pod.port)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    with pytest.raises(grpc.RpcError) as unknown:
        stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=30)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_pod_that_is_not_there_or_not_honest_is_told_apart_from_one_without_reflection(lab: Lab) -> None:
    pod = lab.pod()
    assert fetch_descriptors(f"ipv4:127.0.0.1:{pod.port}", 30) is None
    pod.stop()
    with pytest.raises(ConnectionError, match="UNAVAILABLE"):
        fetch_descriptors(f"ipv4:127.0.0.1:{pod.port}", 30)


def catalogue(field: str) -> Descriptors:
    """Of a service that two programs have, with messages of their own."""
    file = FileDescriptorProto(name="shop.proto", package="shop")
    file.message_type.add(name="Item").field.add(name=field, number=1, type=9, label=1)
    file.service.add(name="Catalogue").method.add(name="Get", input_type=".shop.Item", output_type=".shop.Item")
    return Descriptors(("shop.Catalogue",), {file.name: file.SerializeToString()})


@pytest.mark.parametrize(("name", "field"), [("one", "title"), ("two", "headline")])
def test_a_client_of_one_host_is_told_of_that_hosts_pods(lab: Lab, name: str, field: str) -> None:
    """Where the engine knows the host; where it does not, Mappings by host serve nobody, and nobody is told of them."""
    told = {"one": catalogue("title"), "two": catalogue("headline")}
    pods = {cluster: lab.pod(cluster) for cluster in told}
    routes = [
        replace(mapping("/shop.Catalogue/", cluster, cluster), host=HostMatch(HostKind.EXACT, f"{cluster}.example.com"))
        for cluster in told
    ]
    gateway = lab.gateway(routes=routes, clusters={cluster: [pod] for cluster, pod in pods.items()})
    by_port = {str(pod.port): told[cluster] for cluster, pod in pods.items()}
    keeper = DescriptorKeeper(gateway.serving, lambda target, _: by_port[target.rpartition(":")[2]])
    lab.defer(keeper.close)
    keeper.start()
    eventually(lambda: gateway.serving.reflection is not None and gateway.serving.reflection.services)
    channel = lab.channel(gateway, ("grpc.default_authority", f"{name}.example.com"))
    database = ProtoReflectionDescriptorDatabase(channel)
    if not EngineName(lab.engine).shows_authority:
        assert "shop.Catalogue" not in database.get_services()
        return
    eventually(lambda: "shop.Catalogue" in database.get_services(), "the pods of this host have told theirs")
    assert database.FindFileContainingSymbol("shop.Item").message_type[0].field[0].name == field
