"""A route that cannot serve, or fails most calls, is seen at the head of the page, in red, as long as it is so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admin.admin_states import GREET, NOW_S, greet_state, make_method, make_worker
from grpcgw.admin.cluster_views import Health
from grpcgw.admin.diagnostics import render_diagnostics
from grpcgw.admin.page import render_page
from grpcgw.admin.recent import WINDOW_S, Recent, RecentTraffic
from grpcgw.admin.state import GatewayState
from grpcgw.admin.views import view_gateway
from grpcgw.model.endpoints import EndpointSet, PodState
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.route import Unenforced
from grpcgw.telemetry.report import PodReport

LABEL = "grpcserver.default"


def with_pods(*states: PodState) -> GatewayState:
    """Two pods as one worker sees them."""
    addresses = ("10.244.1.7:50051", "10.244.2.9:50051")
    pods = tuple(
        PodReport(GREET, address, state, 0, 0, 0, 0.0) for address, state in zip(addresses, states, strict=False)
    )
    return replace(greet_state(), workers=(make_worker(0, pods, ()),))


def trouble_of(state: GatewayState) -> list[str]:
    return [destination.trouble for route in view_gateway(state).routes for destination in route.destinations]


@pytest.mark.parametrize(
    "state",
    [
        with_pods(PodState.FAILING, PodState.FAILING),
        replace(greet_state(), endpoints={GREET: EndpointSet()}, workers=()),
        replace(greet_state(), endpoints={GREET: EndpointSet((), "Service greet is gone")}, workers=()),
        replace(with_pods(PodState.DRAINING, PodState.FAILING), endpoints={GREET: EndpointSet()}),
    ],
    ids=["every pod fails", "no pods", "no service", "the last one leaves"],
)
def test_a_route_without_a_usable_pod_makes_the_head_red(state: GatewayState) -> None:
    view = view_gateway(state)
    (cluster,) = view.clusters

    assert trouble_of(state) == ["no usable pod"]
    assert cluster.health is Health.RED
    assert "1 of 1 route fails" in render_page(view)
    diagnostics = render_diagnostics(view)
    assert diagnostics["system"]["env_good"] is False  # type: ignore[index]
    assert diagnostics["cluster_info"][GREET]["_health"] == "no usable pod"  # type: ignore[index]


@pytest.mark.parametrize(
    "state",
    [
        greet_state(),
        with_pods(PodState.READY, PodState.FAILING),
        with_pods(PodState.CONNECTING, PodState.FAILING),
        with_pods(PodState.IDLE, PodState.IDLE),
        replace(greet_state(), endpoints={}),
        replace(greet_state(), workers=()),
    ],
    ids=["well", "one of two", "connecting", "at rest", "not resolved yet", "no report yet"],
)
def test_a_route_that_serves_or_is_not_known_yet_does_not(state: GatewayState) -> None:
    assert trouble_of(state) == [""]
    assert "fails</span>" not in render_page(view_gateway(state))


def test_a_route_that_fails_most_of_its_calls_makes_the_head_red() -> None:
    failing = replace(greet_state(), recent={LABEL: Recent(20, 11)})
    assert trouble_of(failing) == ["11 of 20 calls failed in the last minute"]
    assert "1 of 1 route fails" in render_page(view_gateway(failing))
    assert trouble_of(replace(greet_state(), recent={LABEL: Recent(20, 10)})) == [""]
    assert trouble_of(replace(greet_state(), recent={LABEL: Recent(2, 2)})) == [""], "too few to judge"


def test_a_mapping_that_gets_no_calls_is_in_no_trouble() -> None:
    state = replace(greet_state(), endpoints={GREET: EndpointSet()})
    (route,) = state.snapshot.routes
    unused = replace(route, destinations=(replace(route.destinations[0], weight=0),))
    assert trouble_of(replace(state, snapshot=replace(state.snapshot, routes=(unused,)))) == [""]


def test_only_the_last_minute_counts() -> None:
    traffic = RecentTraffic()

    def at(seconds: float, ok: int, unavailable: int) -> Recent:
        method = make_method(LABEL, "Greet", {0: ok, 14: unavailable})
        return traffic.note((make_worker(0, (), (method,)),), NOW_S + seconds)[LABEL]

    assert at(0, 1000, 100) == Recent(0, 0)
    assert at(10, 1000, 110) == Recent(10, 10)
    for second in range(15, 70, 5):
        at(second, 1100, 110)
    assert at(30 + WINDOW_S, 1200, 110) == Recent(100, 0)


def test_a_route_whose_calls_are_refused_says_so_and_makes_the_head_red() -> None:
    state = greet_state()
    (route,) = state.snapshot.routes
    guarded = replace(
        route, destinations=(replace(route.destinations[0], policies=(Unenforced(name="AuthService auth.default"),)),)
    )
    state = replace(state, snapshot=replace(state.snapshot, routes=(guarded,)))
    assert trouble_of(state) == ["AuthService auth.default is not supported yet"]
    page = render_page(view_gateway(state))
    assert "AuthService auth.default is not supported yet" in page
    assert "1 of 1 route fails" in page


def test_a_mapping_that_no_host_takes_is_shown_as_such_and_is_no_alarm() -> None:
    state = greet_state()
    hosts = (HostPolicy(None, selectors=((("team", "a"),),)),)
    state = replace(state, snapshot=replace(state.snapshot, hosts=hosts))
    assert trouble_of(state) == [""]
    assert "no call is served: no Host takes it" in render_page(view_gateway(state))
