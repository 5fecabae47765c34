"""Tools ask the gateway what its pods serve, over `grpc.reflection`, and how they are, over `grpc.health`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from dataplane.lab import Gateway, Lab, mapping
from dataplane.waiting import eventually
from examples.greet import server as greet_server
from grpcgw.config.endpoint import Endpoint, EndpointSet
from grpcgw.proxy.reflection_source import DescriptorKeeper, fetch_descriptors

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
    assert list(database.get_services()) == ["greet.GrpcService"]
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
    assert not list(ProtoReflectionDescriptorDatabase(lab.channel(gateway)).get_services())


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
