"""The example of AuthServices is good as it stands, and does what it says."""

from __future__ import annotations

from dataplane.auth_server import AuthServer
from dataplane.examples import GREET, compile_example
from dataplane.lab import Lab
from grpcgw.model.codes import Code

HEALTH = "/grpc.health.v1.Health/Check"


def test_an_auth_service(lab: Lab) -> None:
    snapshot = compile_example("auth/auth-service.yaml")
    by_service = {cluster.service.name: name for name, cluster in snapshot.clusters.items()}
    pod = lab.pod("greet", dict.fromkeys((GREET, HEALTH), lambda requests, _: iter(list(requests))))
    auth = AuthServer(lab)
    members = {by_service["greet"]: (pod,), by_service["auth"]: (auth.pod,)}
    gateway = lab.gateway(configuration=snapshot, clusters=members)
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
