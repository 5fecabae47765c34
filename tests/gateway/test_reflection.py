"""`grpcgw run --reflection`: a tool lists the services of the pods through the gateway."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from dataplane.waiting import eventually
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from gateway.harness import Gateway, running_gateway, status_of
from gateway.objects import Directory

PATH = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.mark.parametrize("workers", [0, 1])
def test_services_of_the_pods_are_listed(directory: Directory, tmp_path: Path, workers: int) -> None:
    arguments = ("--config", str(directory.path), "--reflection")
    with running_gateway(*arguments, folder=tmp_path, workers=workers) as gateway, gateway.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        eventually(lambda: "greet.GrpcService" in database.get_services(), gateway.log)


def test_without_the_flag_there_is_no_such_service(gateway: Gateway) -> None:
    with gateway.channel() as channel:
        assert status_of(channel, PATH)[0] is grpc.StatusCode.UNIMPLEMENTED
