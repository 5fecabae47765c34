"""The index of descriptors: which files and services it answers for the clusters that a client may call."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from grpcgw.model.codes import Code
from grpcgw.services.own_descriptors import OWN_SERVICES
from grpcgw.upstream.descriptors import DescriptorIndex, Descriptors
from tests.upstream.described import GREET, GREET_FILE, INDEX, shop

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
