"""The outbox of a worker keeps the newest unsent snapshot and endpoint sets, however much happened."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from session.gateway import cluster

from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.workers.messages import FRAME, Command, SetEndpoints, decode
from grpcgw.workers.outbox import Outbox, Update, make_update

CLUSTERS = ("a", "b", "c")


def pods(port: int) -> EndpointSet:
    return EndpointSet((Endpoint("127.0.0.1", port),))


def take(outbox: Outbox) -> tuple[list[Command], Update | None]:
    before, update, after = outbox.take()
    return [decode(frame[FRAME.size :]) for frame in (*before, *after)], update  # type: ignore[misc]


def with_clusters(names: frozenset[str]) -> Snapshot:
    return replace(EMPTY_SNAPSHOT, clusters={name: replace(cluster(), name=name) for name in names})


changes = st.one_of(
    st.builds(with_clusters, st.frozensets(st.sampled_from(CLUSTERS))),
    st.tuples(st.sampled_from(CLUSTERS), st.integers(1, 3)),
)


@given(st.lists(changes, max_size=30))
def test_only_the_newest_of_each_thing_is_sent_and_nothing_twice(happened: list[Snapshot | tuple[str, int]]) -> None:
    outbox, snapshot, endpoints = Outbox(), None, dict[str, EndpointSet]()
    for change in happened:
        if isinstance(change, Snapshot):
            outbox.apply(make_update(EMPTY_SNAPSHOT, change, (), {}))
            snapshot, endpoints = change, {name: e for name, e in endpoints.items() if name in change.clusters}
        else:
            name, port = change
            outbox.set_endpoints(name, pods(port))
            endpoints[name] = pods(port)
    copy = outbox.copy()
    sent, update = take(outbox)
    assert {m.cluster: m.endpoints for m in sent if isinstance(m, SetEndpoints)} == endpoints
    assert len(sent) == len(endpoints)
    assert (None if update is None else update.snapshot) == snapshot
    assert take(outbox) == ([], None)
    assert take(copy) == (sent, update)


def test_a_cluster_loses_its_last_pod_after_the_update_that_may_move_its_routes_and_gets_pods_before_it() -> None:
    outbox = Outbox()
    outbox.set_endpoints("a", EndpointSet())
    outbox.apply(make_update(EMPTY_SNAPSHOT, with_clusters(frozenset(CLUSTERS)), (), {}))
    outbox.set_endpoints("b", EndpointSet())
    outbox.set_endpoints("c", EndpointSet())
    outbox.set_endpoints("c", pods(1))
    before, _, after = outbox.take()
    assert [decode(frame[FRAME.size :]) for frame in before] == [
        SetEndpoints("a", EndpointSet()),
        SetEndpoints("c", pods(1)),
    ]
    assert [decode(frame[FRAME.size :]) for frame in after] == [SetEndpoints("b", EndpointSet())]
    outbox.set_endpoints("a", EndpointSet())
    assert len(outbox.take()[0]) == 1, "without an update there is nothing to wait for"
