"""Active health checks in a cluster: who is checked, and what RPCs get while pods are unhealthy."""

from __future__ import annotations

from typing import Any

from grpcgw.model.balancing import HealthCheck, LoadBalancer
from grpcgw.model.endpoints import PodState
from grpcgw.session.serving import Serving
from tests.session.gateway import FakeConnection, destination, endpoints, route, snapshot
from tests.session.picking import (
    make_serving,
    picks,
    pod,
    target,
)

CHECK = HealthCheck(interval_ms=1_000, unhealthy_threshold=1)


def checks(serving: Serving, number: int) -> list[Any]:
    connection = pod(serving, number).connection
    assert isinstance(connection, FakeConnection)
    return connection.checks


def answer(serving: Serving, number: int, failure: str) -> None:
    """Pod `number` answers the check that it was asked last."""
    checks(serving, number)[-1][1](failure)


def test_a_pod_that_is_not_healthy_gets_no_rpcs_says_why_and_comes_back() -> None:
    serving, _ = make_serving()
    serving.apply(snapshot(route(destination(health_check=CHECK))), 0.0)
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    serving.refresh(0.0)
    assert [len(checks(serving, number)) for number in (1, 2)] == [1, 1]
    assert set(picks(serving, 4)) == {1, 2}, "a pod that was not checked yet is used"
    answer(serving, 1, "")
    answer(serving, 2, "no answer")
    assert set(picks(serving, 4)) == {1}
    assert {report.address: report.note for report in serving.clusters.pod_reports()} == {
        "10.0.0.1:50051": "",
        "10.0.0.2:50051": "unhealthy: no answer",
    }
    serving.refresh(2.0)
    answer(serving, 2, "")
    assert set(picks(serving, 4)) == {1, 2}


def test_with_no_healthy_pod_rpcs_fail_at_once_and_say_why() -> None:
    serving, _ = make_serving()
    serving.apply(snapshot(route(destination(health_check=CHECK))), 0.0)
    serving.set_endpoints("greet", endpoints(1), 0.0)
    serving.refresh(0.0)
    answer(serving, 1, "the pod says NOT_SERVING")
    found = target(serving)
    assert found.pick(None) is None
    assert not found.can_serve()
    assert found.why_no_endpoint() == (
        "Mapping grpcserver.default: no ready pod of greet.default:50051"
        " (10.0.0.1:50051 unhealthy: the pod says NOT_SERVING)"
    )


def test_an_unhealthy_pod_is_no_reason_to_use_one_that_is_not_connected_before_one_that_is() -> None:
    serving, _ = make_serving()
    serving.apply(snapshot(route(destination(health_check=CHECK))), 0.0)
    serving.set_endpoints("greet", endpoints(1, 2, 3), 0.0)
    connection = pod(serving, 3).connection
    assert isinstance(connection, FakeConnection)
    connection.connectivity = PodState.CONNECTING
    serving.refresh(0.0)
    answer(serving, 1, "no answer")
    assert set(picks(serving, 4)) == {2}
    answer(serving, 2, "no answer")
    assert set(picks(serving, 4)) == {3}


def test_only_what_asks_for_checks_is_checked_and_once_for_all_who_ask_alike() -> None:
    serving, _ = make_serving()
    least = LoadBalancer("least_request")
    serving.apply(
        snapshot(
            route(destination(health_check=CHECK)),
            route(destination(health_check=CHECK, load_balancer=least), prefix="/least"),
            route(destination(name="unchecked"), prefix="/unchecked"),
            route(destination(cluster="other"), prefix="/other"),
        ),
        0.0,
    )
    for name, host_number in (("greet", 1), ("other", 2)):
        serving.set_endpoints(name, endpoints(host_number), 0.0)
    serving.refresh(0.0)
    assert [len(checks(serving, number)) for number in (1, 2)] == [1, 0]


def test_without_its_mapping_a_check_is_made_no_more() -> None:
    serving, _ = make_serving()
    serving.apply(snapshot(route(destination(health_check=CHECK))), 0.0)
    serving.set_endpoints("greet", endpoints(1), 0.0)
    serving.refresh(0.0)
    answer(serving, 1, "no answer")
    serving.apply(snapshot(route()), 0.0)
    serving.refresh(100.0)
    assert len(checks(serving, 1)) == 1
    assert picks(serving, 1) == [1]
    assert [report.note for report in serving.clusters.pod_reports()] == [""]
