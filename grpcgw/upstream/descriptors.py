"""Index of the descriptors of all clusters, from the `grpc.reflection` services of their pods; answers reflection
requests with what the client may call.

Pure: `services.reflection_source` fetches descriptors, `services.reflection` serves clients. v1 and v1alpha of the
service have the same messages on the wire, so one set of classes does. Rules: grpc `doc/server-reflection.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)

from grpcgw.model.codes import Code


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The services of one cluster, and the files that describe them, by name."""

    services: tuple[str, ...]
    files: Mapping[str, bytes] = field(repr=False)
    """File name → serialized FileDescriptorProto, with all dependencies that the pod has."""


ClustersOf = Callable[[str], Collection[str]]
"""The clusters that a client's RPCs go to, by service name; empty: none."""


class DescriptorIndex:
    """The descriptors of several clusters, and of the gateway's own services."""

    def __init__(self, clusters: Mapping[str, Descriptors], own: Descriptors | None = None) -> None:
        """`own`: of the services that the gateway answers itself."""
        self._sources = {name: _Source(clusters[name]) for name in sorted(clusters)}
        self._own = None if own is None else _Source(own)
        self.services = tuple(sorted({service for found in clusters.values() for service in found.services}))

    def see(self, clusters_of: ClustersOf) -> IndexView:
        """The view of one client: clusters that its RPCs go to, since two hosts may have services of one name."""
        by_service: dict[str, list[_Source]] = {}
        for service in self.services:
            routed = clusters_of(service)
            found = [one for name, one in self._sources.items() if name in routed and service in one.services]
            if found:
                by_service[service] = found
        for service in () if self._own is None else self._own.services:
            by_service.setdefault(service, [self._own] if self._own is not None else [])
        return IndexView(by_service)


class IndexView:
    """Answers the reflection requests of one client.

    A service and its methods are answered from a cluster that its RPCs go to, other symbols and files from the first
    cluster, in their order, that has them. Dependencies come from the same cluster: two services may have different
    versions of one file.
    """

    def __init__(self, by_service: Mapping[str, Sequence[_Source]]) -> None:
        self._by_service = by_service
        self._sources = tuple(dict.fromkeys(source for sources in by_service.values() for source in sources))

    def answer(self, request_bytes: bytes) -> bytes:
        """The response to one request. Raises DecodeError."""
        request = ServerReflectionRequest.FromString(request_bytes)
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        match request.WhichOneof("message_request"):
            case "list_services":
                names = sorted(self._by_service)
                response.list_services_response.service.extend(ServiceResponse(name=name) for name in names)
            case "file_by_filename":
                self._put_files(response, request.file_by_filename, "file")
            case "file_containing_symbol":
                self._put_files(response, request.file_containing_symbol, "symbol")
            case "file_containing_extension":
                wanted = request.file_containing_extension
                key = f"{wanted.containing_type}#{wanted.extension_number}"
                self._put_files(response, key, "extension")
            case "all_extension_numbers_of_type":
                self._put_extension_numbers(response, request.all_extension_numbers_of_type)
            case _:
                _put_error(response, Code.INVALID_ARGUMENT, "the request has no message_request")
        return bytes(response.SerializeToString())

    def _put_files(self, response: ServerReflectionResponse, wanted: str, kind: str) -> None:
        for source in self._sources_of(wanted):
            name = wanted if kind == "file" else source.file_of(wanted)
            if name in source.files:
                response.file_descriptor_response.file_descriptor_proto.extend(source.with_dependencies(name))
                return
        _put_error(response, Code.NOT_FOUND, f"no pod behind the gateway knows the {kind} {wanted}")

    def _sources_of(self, symbol: str) -> Sequence[_Source]:
        """For a service or its method, only the sources of the service."""
        return self._by_service.get(symbol) or self._by_service.get(symbol.rpartition(".")[0]) or self._sources

    def _put_extension_numbers(self, response: ServerReflectionResponse, type_name: str) -> None:
        numbers = {number for source in self._sources for number in source.extension_numbers(type_name)}
        if not numbers and not any(source.file_of(type_name) for source in self._sources):
            _put_error(response, Code.NOT_FOUND, f"no pod behind the gateway knows the type {type_name}")
            return
        answer = response.all_extension_numbers_response
        answer.base_type_name = type_name
        answer.extension_number.extend(sorted(numbers))


def _put_error(response: ServerReflectionResponse, code: Code, message: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = message


class _Source:
    """One cluster's files, with their symbols and extensions indexed (`type#number` for an extension)."""

    def __init__(self, descriptors: Descriptors) -> None:
        self.files, self.services = descriptors.files, frozenset(descriptors.services)
        self._parsed = {name: FileDescriptorProto.FromString(data) for name, data in descriptors.files.items()}
        self._file_of: dict[str, str] = {}
        for name, file in self._parsed.items():
            for symbol in _symbols(file):
                self._file_of.setdefault(symbol, name)

    def file_of(self, symbol: str) -> str:
        """Name of the file that defines `symbol` (or an enclosing one, as grpc's servers answer); "" if none."""
        while symbol:
            if symbol in self._file_of:
                return self._file_of[symbol]
            symbol = symbol.rpartition(".")[0] if "#" not in symbol else ""
        return ""

    def with_dependencies(self, name: str) -> Iterator[bytes]:
        waiting, seen = [name], {name}
        while waiting:
            current = waiting.pop()
            yield self.files[current]
            new = [d for d in self._parsed[current].dependency if d in self.files and d not in seen]
            seen.update(new)
            waiting.extend(new)

    def extension_numbers(self, type_name: str) -> Iterator[int]:
        prefix = f"{type_name}#"
        return (int(key.removeprefix(prefix)) for key in self._file_of if key.startswith(prefix))


def _symbols(file: FileDescriptorProto) -> Iterator[str]:
    """Full names of what a file defines, and `type#number` of the extensions it declares."""
    package = f"{file.package}." if file.package else ""
    for service in file.service:
        yield package + service.name
        yield from (f"{package}{service.name}.{method.name}" for method in service.method)
    yield from (package + enum.name for enum in file.enum_type)
    yield from _extension_symbols(file.extension, package)
    for message in file.message_type:
        yield from _message_symbols(message, package)


def _message_symbols(message: DescriptorProto, scope: str) -> Iterator[str]:
    name = scope + message.name
    yield name
    yield from (f"{name}.{enum.name}" for enum in message.enum_type)
    yield from _extension_symbols(message.extension, f"{name}.")
    for nested in message.nested_type:
        yield from _message_symbols(nested, f"{name}.")


def _extension_symbols(extensions: Collection[FieldDescriptorProto], scope: str) -> Iterator[str]:
    for extension in extensions:
        yield scope + extension.name
        yield f"{extension.extendee.removeprefix('.')}#{extension.number}"
