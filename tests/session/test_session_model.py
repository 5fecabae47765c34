"""Whatever the order of events, an RPC ends once, nothing is lost, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from grpcgw.model.codes import Code
from grpcgw.model.status import REASON_KEY, Status
from tests.session.playbook import CONNECT_FAILED, CONNECTION_LOST, STREAM_REFUSED, Finish, Rpc, reason_of
from tests.session.session_model import ANSWERS, DISTURBANCES, Scenario, World

# Short ones on purpose: they are all the same object to the interpreter, so that a mix-up by identity shows.
MESSAGES = st.lists(st.sampled_from((b"", b"a", b"b", b"cc")), max_size=4).map(tuple)

SCENARIOS = st.builds(
    Scenario,
    requests=MESSAGES,
    replies=MESSAGES,
    ends=st.lists(st.sampled_from((*ANSWERS, CONNECT_FAILED, STREAM_REFUSED, CONNECTION_LOST)), max_size=3).map(tuple),
    retry_codes=st.sampled_from((None, None, frozenset({Code.UNAVAILABLE}), frozenset({Code.NOT_FOUND}))),
    limited=st.booleans(),
    headers=st.booleans(),
    patient=st.booleans(),
    pods=st.sampled_from((2, 2, 3, 1, 0)),
    closed_pods=st.sampled_from((frozenset(), frozenset({1}), frozenset({1, 2}))),
    one_request=st.booleans(),
    one_reply=st.booleans(),
    timeout_ms=st.sampled_from((None, 5_000)),
    cuts=st.lists(st.integers(0, 40), max_size=8).map(tuple),
    schedule=st.lists(st.integers(0, 5), max_size=40).map(tuple),
    disturbances=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(DISTURBANCES)), max_size=2).map(tuple),
)


both_kinds = pytest.mark.parametrize("frames", [False, True], ids=["messages", "frames"])
"""For an engine that passes messages, and for one that passes chunks of gRPC frames."""


@both_kinds
@given(scenario=SCENARIOS)
def test_an_rpc_ends_once_and_leaves_nothing_behind(frames: bool, scenario: Scenario) -> None:
    world = play(scenario, frames)
    assert world.rpc.session.finished, "the RPC hangs"
    assert world.client_gone or len(world.endings) == 1
    assert all(pod.attempt.over for pod in world.pods[-1:]), "a try was left running"
    (report,) = world.gateway.counters.reports()
    assert (report.in_flight, sum(report.codes.values())) == (0, 1)
    if world.endings:
        assert report.codes == {world.endings[0].code: 1}


@both_kinds
@given(scenario=SCENARIOS)
def test_every_pick_is_accounted_for_once(frames: bool, scenario: Scenario) -> None:
    world = play(scenario, frames)
    (target,) = world.gateway.targets
    assert target.picked == [pod for pod, _ in target.done_with]
    for pod in world.gateway.pods():
        assert pod.in_flight == 0
        assert pod.counts.total == pod.counts.finished == target.picked.count(pod)


@both_kinds
@given(scenario=SCENARIOS)
def test_what_policies_lent_is_given_back(frames: bool, scenario: Scenario) -> None:
    world = play(scenario, frames)
    (target,) = world.gateway.targets
    assert (target.budget._count_in_flight(), target.budget._retrying) == (0, 0)
    refused = [reason_of([step]) for step in Rpc(world.gateway).starts() if isinstance(step, Finish)]
    assert "circuit-breaker" not in refused


@both_kinds
@given(scenario=SCENARIOS)
def test_an_answer_of_a_pod_comes_whole(frames: bool, scenario: Scenario) -> None:
    """Its headers and status untouched, between them every reply; a pod that waits for all requests had them all."""
    world = play(scenario, frames)
    if not world.endings or REASON_KEY in dict(world.endings[0].trailers):
        return
    assert world.endings == [world.pod.status]
    if not world.pod.broken and world.pod.status in ANSWERS:
        assert world.headers == world.pod.headers
        assert world.has_all(world.delivered, world.replies)
        if scenario.patient:
            assert world.has_all(world.pod.received, world.requests)


@both_kinds
@given(scenario=SCENARIOS, status=st.sampled_from(ANSWERS))
def test_an_undisturbed_rpc_gets_its_answer(frames: bool, scenario: Scenario, status: Status) -> None:
    quiet = replace(scenario, pods=2, ends=(status,), closed_pods=frozenset(), timeout_ms=None, disturbances=())
    world = play(replace(quiet, retry_codes=None), frames)
    assert world.endings == [status]
    assert world.has_all(world.delivered, world.replies)


@both_kinds
@given(scenario=SCENARIOS, closed=st.booleans())
def test_one_pod_that_cannot_be_connected_to_is_not_noticed(frames: bool, scenario: Scenario, closed: bool) -> None:
    away = frozenset({1}) if closed else frozenset()
    end = ANSWERS[0] if closed else CONNECT_FAILED
    world = play(replace(scenario, pods=2, ends=(end,), closed_pods=away, timeout_ms=None, disturbances=()), frames)
    assert world.endings == [ANSWERS[0]]
    assert world.has_all(world.delivered, world.replies)


def play(scenario: Scenario, frames: bool) -> World:
    world = World(scenario, frames)
    try:
        world.play()
    finally:
        note(" → ".join(world.history))
    return world
