"""Routes that cannot serve although their Mappings are right: what is a problem, how grave, and where it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from session.gateway import destination, endpoints, route, snapshot

from grpcgw.control.dead_routes import find_dead_routes
from grpcgw.model.endpoints import EndpointSet, PodState
from grpcgw.model.objects import KubeObject, Severity, Source
from grpcgw.model.route import Unenforced
from grpcgw.telemetry.report import PodReport, WorkerReport

ERROR, NOTICE = Severity.ERROR, Severity.NOTICE
MAPPING = destination().key
OBJECTS = {MAPPING: KubeObject("v2", MAPPING, {}, Source("greet.yaml", {(): 1, ("spec", "service"): 7}))}


def worker(states: dict[int, PodState], error: str = "") -> WorkerReport:
    pods = [
        PodReport("greet", f"10.0.0.{host}:50051", state, 0, 0, 0, 0.0, error if state is PodState.FAILING else "")
        for host, state in states.items()
    ]
    return WorkerReport(0, 1, "", "", 0.0, pods=tuple(pods))


def find(known: EndpointSet | None, *workers: WorkerReport) -> list[tuple[Severity, str]]:
    published = {} if known is None else {"greet": known}
    found = find_dead_routes(snapshot(route()), published, workers, OBJECTS)
    assert {(each.where, each.object, each.path) for each in found} <= {("greet.yaml:7", MAPPING, "spec.service")}
    return [(each.severity, each.message) for each in found]


def test_a_service_that_cannot_have_pods_is_an_error_of_the_mapping_with_its_line() -> None:
    assert find(EndpointSet(error="no Service greet in namespace default")) == [
        (ERROR, "no Service greet in namespace default; its RPCs end UNAVAILABLE")
    ]


@pytest.mark.parametrize(
    ("kind", "field"), [("AuthService", "auth_service"), ("RateLimitService", "service"), ("Filter", "")]
)
def test_a_service_that_decides_on_calls_and_is_dead_is_an_error_where_it_is_named(kind: str, field: str) -> None:
    path = ("spec", field) if field else ("spec",)
    key = MAPPING._replace(kind=kind, name="auth")
    asked = Unenforced(name="auth", upstreams=(destination(key=key, cluster="auth"),))
    routes = (route(destination(policies=(asked,))), route(destination(policies=(asked,)), prefix="/other/"))
    objects = {key: KubeObject("v2", key, {}, Source("auth.yaml", {(): 1, path: 5}))}
    (found,) = find_dead_routes(snapshot(*routes), {"auth": EndpointSet(error="no Service auth")}, (), objects)
    assert (found.severity, found.where, found.object, found.path) == (ERROR, "auth.yaml:5", key, ".".join(path))
    assert found.message == "no Service auth; it gives no verdict on calls"


def test_an_error_beside_pods_that_serve_is_a_notice() -> None:
    assert find(EndpointSet(endpoints(1).endpoints, "the agent is away")) == [(NOTICE, "the agent is away")]


@pytest.mark.parametrize("known", [None, EndpointSet(), endpoints(1)])
def test_pods_that_are_not_known_not_ready_or_well_are_no_problem(known: EndpointSet | None) -> None:
    assert find(known, worker({1: PodState.READY})) == []


def test_a_pod_that_no_worker_can_connect_to_is_a_problem_with_its_cause() -> None:
    one = worker({1: PodState.FAILING, 2: PodState.READY}, "connection refused")
    assert find(endpoints(1, 2), one) == [
        (NOTICE, "1 of 2 pods cannot be connected to: 10.0.0.1:50051 (connection refused)")
    ]
    assert find(endpoints(1, 2), one, worker({1: PodState.READY, 2: PodState.READY})) == []


def test_no_pod_that_can_be_connected_to_is_an_error_and_names_a_few() -> None:
    every = worker(dict.fromkeys(range(1, 6), PodState.FAILING), "no route to host")
    ((severity, message),) = find(endpoints(*range(1, 6)), every)
    assert severity is ERROR
    assert message.startswith("5 of 5 pods cannot be connected to: 10.0.0.1:50051 (no route to host), ")
    assert message.count("no route") == 3


def test_each_mapping_of_a_dead_service_is_named_once() -> None:
    other = destination(key=MAPPING._replace(name="other"), where="other.yaml:1")
    routes = (route(), route(prefix="/again/"), route(other, prefix="/other/"))
    found = find_dead_routes(snapshot(*routes), {"greet": EndpointSet(error="no Service")}, (), OBJECTS)
    assert [(each.where, each.object) for each in found] == [
        ("greet.yaml:7", MAPPING),
        ("other.yaml:1", MAPPING._replace(name="other")),
    ]


def test_what_is_gone_from_the_configuration_is_no_problem() -> None:
    served = replace(snapshot(route(destination())), routes=(), clusters={})
    assert find_dead_routes(served, {"greet": EndpointSet(error="no Service")}, (), OBJECTS) == ()
