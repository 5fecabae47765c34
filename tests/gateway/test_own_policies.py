"""Own policies in a gateway as users run it: by `--policy` and by an entry point of an installed package."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.harness import PATIENCE_S, running_gateway, status_of
from gateway.objects import Directory
from greet import greet_pb2

GREET = "/greet.GrpcService/Greet"
PACKAGE = """
from pydantic import BaseModel
from grpcgw.policies import Allow, CallView, Code, Deny, OwnPolicy, allow, deny

class Config(BaseModel):
    tenants: frozenset[str]

class Tenants(OwnPolicy[Config]):
    def check(self, call: CallView) -> Allow | Deny:
        if call.get("x-do") == "raise":
            raise LookupError
        if call.get("x-tenant") in self.config.tenants:
            return allow()
        return deny(Code.PERMISSION_DENIED, "no such tenant", reason="no-tenant")

class Late(Tenants):
    async def check(self, call: CallView) -> Allow | Deny:
        return super().check(call)
"""
CONFIG = json.dumps({"tenants": ["acme"]})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's package, installed where the gateway finds it."""
    folder = tmp_path / "site"
    info = folder / "tenants-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "tenants.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tenants\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grpcgw.policies]\ntenants-late = tenants:Late\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def code_of(channel: grpc.Channel, **metadata: str) -> grpc.StatusCode:
    given = [(f"x-{name}", value) for name, value in metadata.items()]
    request = greet_pb2.GreetRequest(input="test").SerializeToString()
    call = channel.unary_unary(GREET).future(request, metadata=given, timeout=PATIENCE_S)
    return call.code()


@pytest.mark.parametrize(("engine", "policy"), [("http2", "tenants-late"), ("generic-handler", "tenants:Tenants")])
def test_a_policy_of_the_command_line_decides_in_every_worker(
    package: None, directory: Directory, tmp_path: Path, engine: str, policy: str
) -> None:
    arguments = ("--config", str(directory.path), "--engine", engine, "--policy", f"{policy}={CONFIG}")
    with running_gateway(*arguments, workers=2, folder=tmp_path, healthy=False) as gateway:
        assert gateway.errors() == []
        for _ in range(8):  # connections, which come to either worker
            with gateway.channel() as channel:
                assert code_of(channel, tenant="acme") is grpc.StatusCode.OK
                assert code_of(channel, tenant="other") is grpc.StatusCode.PERMISSION_DENIED
                assert code_of(channel, do="raise") is grpc.StatusCode.INTERNAL
        with gateway.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            health = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert health.status == health_pb2.HealthCheckResponse.SERVING, "the gateway's own answers are not affected"
        counted = {reason: gateway.metric("rpcs_total", reason=reason) for reason in ("no-tenant", "policy-defect")}
        assert counted == {"no-tenant": 8, "policy-defect": 8}
        assert "acme" not in gateway.log()


def test_a_policy_that_cannot_be_loaded_refuses_calls_and_is_one_error(directory: Directory, tmp_path: Path) -> None:
    arguments = ("--config", str(directory.path), "--policy", "absent_package:Tenants")
    with running_gateway(*arguments, folder=tmp_path, healthy=False) as gateway, gateway.channel() as channel:
        (error,) = gateway.errors()
        cause = "--policy absent_package:Tenants cannot be built: importing absent_package:Tenants raised"
        assert f"all calls are refused: {cause}" in error
        code, message = status_of(channel)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert cause in message


def test_a_policy_asked_for_by_a_variable(
    package: None, directory: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPCGW_POLICY", f"tenants:Tenants={CONFIG}\ntenants-late={CONFIG}")
    with running_gateway("--config", str(directory.path), folder=tmp_path) as gateway, gateway.channel() as channel:
        assert code_of(channel) is grpc.StatusCode.PERMISSION_DENIED
        assert code_of(channel, tenant="acme") is grpc.StatusCode.OK
