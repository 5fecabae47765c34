"""Messages to a worker: what is sent arrives equal, in whatever way it is pickled."""

from __future__ import annotations

from dataclasses import replace

from bench.mappings import make_objects
from bench.pods import describe_full_mapping, describe_mapping
from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.difference import apply_difference, find_difference
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination, PolicySettings, Route, Unenforced, WeightedCluster
from grpcgw.model.route_source import CompileOptions
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.workers.messages import FRAME, ApplySnapshot, decode, encode


def test_a_snapshot_arrives_as_it_was_sent() -> None:
    objects = make_objects(3, describe_mapping) + make_objects(6, describe_full_mapping)[-2:]
    snapshot = compile_snapshot(objects, {}, CompileOptions()).snapshot
    assert len(snapshot.routes) == 5
    assert send(snapshot) == snapshot
    assert [where(route) for route in send(snapshot).routes] == [where(route) for route in snapshot.routes]


def test_settings_of_policies_arrive_with_their_upstreams() -> None:
    asked = Destination(ObjectKey("AuthService", "auth", "asked"), (WeightedCluster("auth"),))
    policies: tuple[PolicySettings, ...] = (Unenforced(name="AuthService asked.auth", upstreams=(asked,)),)
    compiled = compile_snapshot(make_objects(1, describe_mapping), {}, CompileOptions()).snapshot
    (route,) = compiled.routes
    (destination,) = route.destinations
    guarded = replace(route, destinations=(replace(destination, policies=policies),))
    assert send(replace(compiled, routes=(guarded,))).routes == (guarded,)


def where(route: Route) -> list[str]:
    """A field that is not compared."""
    return [destination.where for destination in route.destinations]


def send(snapshot: Snapshot) -> Snapshot:
    frame = encode(ApplySnapshot(find_difference(EMPTY_SNAPSHOT, snapshot), listeners=()))
    (length,) = FRAME.unpack(frame[: FRAME.size])
    assert length == len(frame) - FRAME.size
    received = decode(frame[FRAME.size :])
    assert isinstance(received, ApplySnapshot)
    return apply_difference(EMPTY_SNAPSHOT, received.difference)
