"""Routes bound over reloads: what keeps its Target, whose settings hold, and a snapshot that cannot be bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from grpcgw.model.balancing import LoadBalancer
from grpcgw.model.cluster import ConnectionSettings, UpstreamTls
from grpcgw.model.status import Reason
from grpcgw.routing.binding import CannotServe
from grpcgw.routing.targets import Target
from tests.session.gateway import cluster, destination, endpoints, route, snapshot
from tests.session.picking import (
    METHOD,
    OTHER_METHOD,
    make_serving,
    picks,
    serving_greet,
    target,
)


def test_rpcs_split_by_weight_and_the_missing_share_is_refused() -> None:
    serving, _ = make_serving()
    heavy, light = (
        destination(name="heavy", weight=50),
        destination(name="light", weight=25),
    )
    serving.apply(snapshot(route(heavy, light)), 0.0)
    found = [serving.route(METHOD) for _ in range(100)]
    shares = Counter(choice.label if isinstance(choice, Target) else choice.reason for choice in found)
    assert shares == {"heavy.default": 50, "light.default": 25, Reason.UNROUTED_SHARE: 25}


def test_a_route_that_did_not_change_keeps_its_target_and_others_get_theirs_anew() -> None:
    serving, _ = make_serving()
    stays, goes = route(prefix="/stays/"), route(prefix="/changes/")
    serving.apply(before := snapshot(stays, goes), 0.0)
    first = target(serving, "/stays/a")
    comes = route(destination(timeout_ms=5), prefix="/changes/")
    serving.apply(replace(before, version="2", routes=(stays, comes)), 0.0)
    assert target(serving, "/stays/a") is first
    assert target(serving, "/changes/a").timeout_ms == 5


def test_a_route_that_did_not_change_follows_its_cluster() -> None:
    serving, _ = make_serving()
    serving.apply(before := snapshot(stays := route()), 0.0)
    assert target(serving).authority == ""
    secured = replace(cluster(), connection=ConnectionSettings(tls=UpstreamTls("pods", "pods.example.com")))
    serving.apply(replace(before, version="2", routes=(stays,), clusters={"greet": secured}), 0.0)
    assert target(serving).authority == "pods.example.com"


def test_a_snapshot_that_cannot_be_served_leaves_everything_as_it_was_and_names_its_mapping() -> None:
    serving = serving_greet(1, 2)
    pods, before = serving.clusters.pods(), serving.snapshot
    culprit = destination(name="bad", load_balancer=LoadBalancer("fastest"))
    with pytest.raises(CannotServe, match="KeyError: 'fastest'") as caught:
        serving.apply(snapshot(route(culprit, prefix="/bad.Service/"), version="2"), 1.0)
    assert caught.value.mapping == culprit.key
    assert (serving.snapshot, serving.clusters.pods()) == (before, pods)
    assert picks(serving, 2) == [1, 2]
    serving.apply(snapshot(route(), version="3"), 2.0)
    assert (serving.snapshot.version, serving.clusters.pods()) == ("3", pods)


def test_settings_are_those_of_the_new_snapshot_and_running_rpcs_keep_theirs() -> None:
    serving = serving_greet(1)
    before = target(serving)
    serving.apply(snapshot(route(destination(timeout_ms=5, idle_timeout_ms=None)), version="2"), 1.0)
    after = target(serving)
    assert (before.timeout_ms, before.idle_timeout_s) == (None, 300.0)
    assert (after.timeout_ms, after.idle_timeout_s) == (5, None)
    assert before.pick(None) is after.pick(None)


def test_two_mappings_to_one_service_share_pods_and_not_settings() -> None:
    serving, connections = make_serving()
    routes = (
        route(destination(name="a")),
        route(destination(name="b", timeout_ms=7), prefix="/other.Service/"),
    )
    serving.apply(snapshot(*routes), 0.0)
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    serving.refresh(0.0)
    assert len(connections.opened) == 2
    assert picks(serving, 1) + picks(serving, 1, OTHER_METHOD) == [1, 2]
    assert (target(serving).timeout_ms, target(serving, OTHER_METHOD).timeout_ms) == (None, 7)
