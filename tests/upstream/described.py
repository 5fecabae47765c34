"""Descriptors of two clusters, for tests of reflection."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from examples.greet import server as greet_server  # its package puts the generated code on the path
from greet import greet_pb2
from grpcgw.upstream.descriptors import DescriptorIndex, Descriptors

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
