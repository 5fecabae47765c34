"""The descriptors of the services that the gateway answers itself: health, and reflection in both its versions."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from grpcgw.upstream.descriptors import Descriptors

_ALPHA, _STABLE = "grpc.reflection.v1alpha", "grpc.reflection.v1"


def _make_stable(alpha: FileDescriptorProto) -> FileDescriptorProto:
    """Reflection v1, for which grpcio has no descriptors: v1alpha under another name."""
    file = FileDescriptorProto()
    file.CopyFrom(alpha)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", _STABLE
    for message in file.message_type:
        for field in (field for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(_ALPHA, _STABLE)
    for method in (method for service in file.service for method in service.method):
        method.input_type = method.input_type.replace(_ALPHA, _STABLE)
        method.output_type = method.output_type.replace(_ALPHA, _STABLE)
    return file


def _describe() -> Descriptors:
    health = FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)
    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    files = (health, alpha, _make_stable(alpha))
    services = (f"{file.package}.{service.name}" for file in files for service in file.service)
    return Descriptors(tuple(services), {file.name: file.SerializeToString() for file in files})


OWN_SERVICES = _describe()
