"""Helpers of tests that ask a `Serving` over fake connections which pod a new RPC gets."""

from __future__ import annotations

from typing import Any

from grpcgw.model.cluster import DEFAULT_CONNECTION, ConnectionSettings
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.targets import Target
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Pod
from tests.session.gateway import SERVICE, FakeConnection, endpoints, route, snapshot

METHOD = f"{SERVICE}Greet"
OTHER_METHOD = "/other.Service/Method"


class Connections:
    """Every connection that was ever opened."""

    def __init__(self) -> None:
        self.opened: list[FakeConnection] = []

    def __call__(self, address: str, settings: ConnectionSettings = DEFAULT_CONNECTION) -> FakeConnection:
        connection = FakeConnection(address, settings)
        self.opened.append(connection)
        return connection


def make_serving(**fields: Any) -> tuple[Serving, Connections]:
    connections = Connections()
    return Serving(connections, **fields), connections


def serving_greet(*hosts: int, **fields: Any) -> Serving:
    turns = fields.pop("turns", {})
    serving, _ = make_serving(**fields)
    serving.clusters.shared_turns = turns
    serving.apply(snapshot(route()), 0.0)
    serving.set_endpoints("greet", endpoints(*hosts), 0.0)
    serving.refresh(0.0)
    return serving


def target(serving: Serving, path: str = METHOD) -> Target:
    found = serving.route(path)
    assert isinstance(found, Target)
    return found


def pick(serving: Serving, path: str = METHOD) -> Pod:
    pod = target(serving, path).pick(None)
    assert pod is not None
    return pod


def host(pod: Pod | None) -> int:
    assert pod is not None
    return int(pod.endpoint.address.rpartition(".")[2])


def picks(serving: Serving, count: int, path: str = METHOD) -> list[int]:
    return [host(pick(serving, path)) for _ in range(count)]


def refusal(serving: Serving, path: str = METHOD) -> Deny:
    found = serving.route(path)
    assert isinstance(found, Deny)
    return found


def pod(serving: Serving, number: int) -> Pod:
    return next(pod for pod in serving.clusters.pods() if host(pod) == number)
