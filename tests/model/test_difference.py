"""What changed between two snapshots, applied to the old one, is the new one; and little change is a small message."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.cluster import Cluster, ResolverKind, ServiceRef
from grpcgw.model.difference import WrongBase, apply_difference, find_difference
from grpcgw.model.route import Route
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from tests.session.gateway import destination, route

ROUTES = [route(destination(cluster=f"c{number % 3}"), prefix=f"/p{number}/") for number in range(8)]
TWINS = [replace(one) for one in ROUTES]
"""Equal to ROUTES, but other objects, as after a restart of the compiler's memory."""
CLUSTERS = [
    Cluster(f"c{number}", kind, "resolver", ServiceRef(f"c{number}", "default", 50051))
    for number in range(3)
    for kind in (ResolverKind.KUBERNETES_ENDPOINT, ResolverKind.KUBERNETES_SERVICE)
]
routes = st.lists(st.sampled_from([*ROUTES, *TWINS]), unique_by=lambda one: one.match.value, max_size=8)
clusters = st.lists(st.sampled_from(CLUSTERS), unique_by=lambda one: one.name)


def make_snapshot(version: str, routes: list[Route], clusters: list[Cluster]) -> Snapshot:
    return Snapshot(version, tuple(routes), {one.name: one for one in clusters})


def sent(snapshot: Snapshot, held: Snapshot, base: Snapshot) -> Snapshot:
    """What a worker that has `held` makes of the news that cross to it."""
    return apply_difference(held, pickle.loads(pickle.dumps(find_difference(base, snapshot))))


@given(history=st.lists(st.tuples(routes, clusters), min_size=1, max_size=6))
def test_differences_one_after_the_other_give_exactly_the_new_snapshot(
    history: list[tuple[list[Route], list[Cluster]]],
) -> None:
    told = held = EMPTY_SNAPSHOT
    for number, (some_routes, some_clusters) in enumerate(history):
        snapshot = make_snapshot(str(number), some_routes, some_clusters)
        held = sent(snapshot, held, told)
        assert held == snapshot
        told = snapshot


@given(before=routes, after=routes)
def test_what_did_not_change_is_the_same_object_again(before: list[Route], after: list[Route]) -> None:
    base = make_snapshot("1", before, CLUSTERS[:1])
    snapshot = make_snapshot("2", after, CLUSTERS[:1])
    held = apply_difference(base, find_difference(base, snapshot))
    assert all(one is other for one, other in zip(held.routes, after, strict=True))
    assert held.clusters["c0"] is CLUSTERS[0]


def test_one_change_among_thousands_is_a_small_message() -> None:
    many = [route(prefix=f"/p{number}/") for number in range(5_000)]
    base = make_snapshot("1", many, [])
    snapshot = make_snapshot("2", [*many[:2_500], route(prefix="/changed/"), *many[2_501:]], [])
    assert len(pickle.dumps(find_difference(base, snapshot))) < 2_000


def test_a_difference_to_another_snapshot_is_refused_and_the_whole_fits_every_base() -> None:
    first, second, third = (make_snapshot(str(number), ROUTES[number:], CLUSTERS[:1]) for number in range(3))
    with pytest.raises(WrongBase, match="from configuration 1, not from 0"):
        sent(third, held=first, base=second)
    assert sent(third, held=first, base=EMPTY_SNAPSHOT) == third
