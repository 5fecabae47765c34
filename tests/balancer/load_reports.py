"""Load reports as pods send them: `OrcaLoadReport` written by protobuf's own encoder."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from grpcgw.balancer.base import Outcome

_DOUBLE, _UINT64 = 1, 4


def _make_message_class() -> type:
    """`xds.data.orca.v3.OrcaLoadReport` with its field numbers, the maps left out."""
    file = descriptor_pb2.FileDescriptorProto(name="orca_load_report.proto", package="test.orca", syntax="proto3")
    message = file.message_type.add(name="OrcaLoadReport")
    for number, name, kind in (
        (1, "cpu_utilization", _DOUBLE),
        (2, "mem_utilization", _DOUBLE),
        (3, "rps", _UINT64),
        (6, "rps_fractional", _DOUBLE),
        (7, "eps", _DOUBLE),
        (9, "application_utilization", _DOUBLE),
    ):
        message.field.add(number=number, name=name, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.orca.OrcaLoadReport"))


OrcaLoadReport = _make_message_class()


def make_trailers(**fields: float) -> tuple[tuple[str, str | bytes], ...]:
    return (("x-other", "1"), ("endpoint-load-metrics-bin", OrcaLoadReport(**fields).SerializeToString()))


def report(**fields: float) -> Outcome:
    """The outcome of a successful RPC whose trailers carry the report."""
    return Outcome(0, False, 0.01, make_trailers(**fields))
