"""Which pods are opened, drained and closed, and which may be picked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.endpoints import Endpoint, PodState
from grpcgw.upstream.pod import LINGER_S, Pod
from grpcgw.upstream.pool import Pool, usable
from tests.session.gateway import FakeConnection, endpoints


def open_pod(endpoint: Endpoint, former: Pod | None = None) -> Pod:
    return Pod("greet", endpoint, FakeConnection(str(endpoint)))


def replace(pool: Pool, *hosts: int, drain_until_s: float = 30.0) -> tuple[Pod, ...]:
    return pool.replace(endpoints(*hosts).endpoints, open_pod, drain_until_s)


def hosts(pods: object) -> list[int]:
    return [int(pod.endpoint.address.rpartition(".")[2]) for pod in pods]  # type: ignore[attr-defined]


def test_pods_serve_in_the_order_of_the_set() -> None:
    pool = Pool()
    assert replace(pool, 3, 1, 2) == ()
    assert hosts(pool.serving.values()) == [3, 1, 2]


def test_a_pod_that_stays_is_the_same_one() -> None:
    pool = Pool()
    replace(pool, 1, 2)
    before = list(pool.serving.values())
    replace(pool, 2, 3, 1)
    after = {pod.endpoint: pod for pod in pool.serving.values()}
    assert [after[pod.endpoint] for pod in before] == before


def test_a_pod_is_the_same_whatever_it_is_called() -> None:
    pool = Pool()
    pool.replace((Endpoint("10.0.0.1", 50051, name="greet-0"),), open_pod, 0.0)
    assert pool.replace((Endpoint("10.0.0.1", 50051, name="greet-1", zone="b"),), open_pod, 0.0) == ()


def test_a_pod_that_leaves_drains() -> None:
    pool = Pool()
    replace(pool, 1, 2)
    (left,) = replace(pool, 2)
    assert (hosts([left]), left.draining, left.report().state) == ([1], True, PodState.DRAINING)
    assert left in pool.pods()
    assert hosts(pool.serving.values()) == [2]


def test_a_pod_without_rpcs_is_closed_when_none_can_be_on_its_way_to_it() -> None:
    pool = Pool()
    replace(pool, 1)
    (left,) = replace(pool)
    assert pool.finished(5.0) == ()
    assert pool.finished(5.0 + LINGER_S / 2) == ()
    assert pool.finished(5.0 + LINGER_S) == (left,)
    assert pool.finished(5.0 + LINGER_S) == ()
    assert list(pool.pods()) == []


def test_a_pod_with_rpcs_is_closed_when_the_last_one_ended() -> None:
    pool = Pool()
    replace(pool, 1)
    (left,) = pool.serving.values()
    left.begin()
    replace(pool)
    assert pool.finished(0.0) == ()
    assert pool.finished(29.9) == ()
    left.end(1.0, "")
    assert pool.finished(29.9) == (left,)


def test_a_pod_with_rpcs_is_closed_at_its_drain_limit() -> None:
    pool = Pool()
    replace(pool, 1)
    (left,) = pool.serving.values()
    left.begin()
    replace(pool, drain_until_s=30.0)
    replace(pool, drain_until_s=60.0)
    assert pool.finished(30.0) == (left,)


def test_a_pod_that_comes_back_goes_on_with_its_connection_and_has_no_drain_limit() -> None:
    pool = Pool()
    replace(pool, 1)
    (pod,) = pool.serving.values()
    pod.begin()
    replace(pool, drain_until_s=30.0)
    assert pool.finished(29.0) == ()
    replace(pool, 1, drain_until_s=59.0)
    assert list(pool.serving.values()) == [pod]
    assert (pod.draining, list(pool.pods())) == (False, [pod])
    assert pool.finished(1e9) == ()
    replace(pool, drain_until_s=1e9 + 30)
    assert pool.finished(1e9) == (), "it leaves anew, and has all of its drain time"


def test_another_pod_at_the_address_of_one_that_left_gets_a_connection_of_its_own() -> None:
    pool = Pool()
    pool.replace((Endpoint("10.0.0.1", 50051, name="greet-0"),), open_pod, 0.0)
    (first,) = pool.serving.values()
    first.begin()
    replace(pool)
    pool.replace((Endpoint("10.0.0.1", 50051, name="greet-1"),), open_pod, 0.0)
    (second,) = pool.serving.values()
    assert second is not first
    assert list(pool.pods()) == [second, first]


def test_a_pod_that_comes_back_after_its_settings_changed_is_connected_to_anew_and_keeps_its_rpcs() -> None:
    pool = Pool()
    replace(pool, 1)
    (old,) = pool.serving.values()
    old.begin()
    replace(pool, drain_until_s=30.0)
    pool.reconnect(open_pod)
    replace(pool, 1)
    assert old not in pool.serving.values()
    assert pool.finished(1e9) == ()
    old.end(1.0, "")
    assert pool.finished(1e9 + LINGER_S) == (old,)


def renewed(pool: Pool, state: PodState) -> Pod:
    """The new connection to the only pod, once `look` saw it in `state`."""
    pool.reconnect(open_pod)
    (arriving,) = pool.arriving.values()
    assert isinstance(arriving.connection, FakeConnection)
    arriving.connection.connectivity = state
    pool.look()
    return arriving


def serving_one() -> tuple[Pool, Pod]:
    pool = Pool()
    replace(pool, 1)
    (pod,) = pool.serving.values()
    pod.state = PodState.READY
    return pool, pod


def test_a_new_connection_that_stands_takes_over_and_the_old_one_ends_with_its_last_rpc() -> None:
    pool, old = serving_one()
    old.begin()
    new = renewed(pool, PodState.READY)
    assert list(pool.serving.values()) == [new]
    assert (new.in_flight, old.draining) == (0, True)
    assert pool.finished(0.0) == ()
    assert pool.finished(1e9) == ()
    old.end(1.0, "")
    assert pool.finished(1e9) == (old,)


@pytest.mark.parametrize("state", [PodState.IDLE, PodState.CONNECTING, PodState.FAILING])
def test_a_new_connection_that_does_not_stand_leaves_the_old_one_serving(state: PodState) -> None:
    pool, old = serving_one()
    new = renewed(pool, state)
    assert list(pool.serving.values()) == [old]
    assert list(pool.pods()) == [old, new]
    assert isinstance(old.connection, FakeConnection)
    old.connection.connectivity = PodState.CONNECTING
    pool.look()
    assert list(pool.serving.values()) == [new], "there is nothing to keep any more"


def test_looking_tells_whether_anything_has_changed() -> None:
    pool, old = serving_one()
    assert isinstance(old.connection, FakeConnection)
    assert not pool.look()
    old.connection.connectivity = PodState.FAILING
    assert pool.look()
    assert old.state is PodState.FAILING
    assert not pool.look()
    pool.reconnect(open_pod)
    assert pool.look(), "the new connection took the place of the old one"
    assert not pool.look()


def test_a_change_during_a_renewal_begins_it_again() -> None:
    pool, old = serving_one()
    first = renewed(pool, PodState.CONNECTING)
    second = renewed(pool, PodState.READY)
    assert list(pool.serving.values()) == [second]
    assert pool.finished(0.0) == ()
    assert set(pool.finished(LINGER_S)) == {first, old}


def test_a_pod_that_leaves_during_a_renewal_takes_all_its_connections_along() -> None:
    pool, old = serving_one()
    old.begin()
    new = renewed(pool, PodState.READY)
    new.begin()
    newest = renewed(pool, PodState.CONNECTING)
    replace(pool, drain_until_s=30.0)
    assert pool.finished(0.0) == ()
    assert pool.finished(LINGER_S) == (newest,)
    assert set(pool.finished(30.0)) == {old, new}


def test_a_connection_of_full_age_is_renewed_once() -> None:
    pool, old = serving_one()
    old.expires_at_s = 5.0
    for now_s in (4.9, 5.0, 5.1):
        pool.renew(open_pod, now_s)
        assert len(pool.arriving) == (now_s >= 5.0)
    (new,) = pool.arriving.values()
    pool.look()
    assert list(pool.pods()) == [new, old]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], []),
        ([PodState.READY, PodState.READY], [0, 1]),
        ([PodState.CONNECTING, PodState.READY, PodState.FAILING, PodState.IDLE], [1]),
        ([PodState.IDLE, PodState.FAILING, PodState.CONNECTING], [0, 2]),
        ([PodState.FAILING, PodState.FAILING], [0, 1]),
    ],
)
def test_connected_pods_first_else_hopeful_ones_else_all(states: list[PodState], expected: list[int]) -> None:
    pods = [open_pod(endpoint) for endpoint in endpoints(*range(len(states))).endpoints]
    for pod, state in zip(pods, states, strict=True):
        pod.state = state
    assert hosts(usable(pods)) == expected


@given(states=st.lists(st.sampled_from([s for s in PodState if s is not PodState.DRAINING]), min_size=1, max_size=6))
def test_while_there_are_pods_some_may_be_picked(states: list[PodState]) -> None:
    pods = [open_pod(endpoint) for endpoint in endpoints(*range(len(states))).endpoints]
    for pod, state in zip(pods, states, strict=True):
        pod.state = state
    assert usable(pods)


def test_a_pod_reports_what_it_did() -> None:
    pod = open_pod(Endpoint("10.0.0.1", 50051))
    for _ in range(3):
        pod.begin()
    pod.end(0.1, "")
    pod.end(0.3, "connection refused")
    report = pod.report()
    assert (report.cluster, report.address, report.state) == ("greet", "10.0.0.1:50051", PodState.IDLE)
    assert (report.in_flight, report.total, report.failures) == (1, 3, 1)
    assert (round(report.latency_mean_ms), report.last_error) == (200, "connection refused")
