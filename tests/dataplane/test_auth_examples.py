"""The example of AuthServices is good as it stands, and does what it says."""

from __future__ import annotations

from pathlib import Path

from dataplane.auth_server import AuthServer
from dataplane.lab import Lab
from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.codes import Code
from grpcgw.model.route_source import CompileOptions
from tests.parsing import parse_objects

EXAMPLE = Path(__file__).parents[2] / "examples" / "auth" / "auth-service.yaml"
GREET, HEALTH = "/greet.GrpcService/Greet", "/grpc.health.v1.Health/Check"


def test_an_auth_service(lab: Lab) -> None:
    objects, faults = parse_objects(EXAMPLE.read_text(), EXAMPLE.name)
    compiled = compile_snapshot(objects, {}, CompileOptions())
    assert [*faults, *map(str, compiled.problems)] == []
    by_service = {cluster.service.name: name for name, cluster in compiled.snapshot.clusters.items()}
    pod = lab.pod("greet", dict.fromkeys((GREET, HEALTH), lambda requests, _: iter(list(requests))))
    auth = AuthServer(lab)
    members = {by_service["greet"]: (pod,), by_service["auth"]: (auth.pod,)}
    gateway = lab.gateway(configuration=compiled.snapshot, clusters=members)
    gateway.wait_for_ready_pods(2)
    client = lab.raw_client(gateway)
    refused = client.call(GREET)
    assert (refused.status, refused.header("www-authenticate")) == (Code.UNAUTHENTICATED, "Bearer")
    for _ in range(3):
        assert client.call(GREET, ("authorization", "Bearer good")).status == Code.OK
    assert pod.calls[0].values("x-user") == ["ann"]
    assert len(auth.asked) == 2, "the answer for the token is kept"
    assert dict(auth.asked[0].attributes.context_extensions) == {"tier": "gold"}
    assert client.call(HEALTH).status == Code.OK
    assert len(auth.asked) == 2
