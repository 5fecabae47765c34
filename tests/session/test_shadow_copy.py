"""Copies of RPCs event by event: what they are sent, when they are given up, and that everything is given back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from grpcgw.model.balancing import OutlierDetection
from grpcgw.model.codes import Code
from grpcgw.model.edits import HeaderAdd, HeaderEdits
from grpcgw.model.resilience import CircuitBreaker, RetryPolicy
from grpcgw.model.route import WeightedCluster
from grpcgw.model.status import Status
from grpcgw.policy.breakers import Limit
from grpcgw.routing.copy_counters import MAX_ALL_HELD_BYTES, MAX_COPIES, CopyCounters
from grpcgw.session.serving import RpcLog
from grpcgw.session.shadow_copy import LINGER_S, MAX_HELD_BYTES, mark_authority
from grpcgw.telemetry.access_log import RpcRecord
from grpcgw.telemetry.report import ShadowReport
from tests.session.frames import frame
from tests.session.gateway import LABEL, Gateway, destination, endpoints, route, snapshot
from tests.session.playbook import CANCEL_POD, METHOD, OK, READ_POD, STREAM_REFUSED, FakeAttempt, Open, Rpc, SendPod

BUSY = Status(Code.UNAVAILABLE, "come back later")
COPY = "copy.default"
FIRST_SHADOW = 100
"""Last number of the address of the shadow's first pod."""


def gateway(pods: int = 1, shadow_pods: int = 1, mapping: dict[str, Any] | None = None, **shadow: Any) -> Gateway:
    """A Mapping over `pods`, and a shadow with the settings `shadow` over `shadow_pods`."""
    made = Gateway(pods)
    copied = destination(name="copy", **{"cluster": "copies", **shadow})
    made.apply(snapshot(replace(route(destination(**mapping or {})), shadow=copied)), 0.0)
    made.set_endpoints("copies", endpoints(*range(FIRST_SHADOW, FIRST_SHADOW + shadow_pods)), 0.0)
    made.refresh(0.0)
    return made


def report(gateway: Gateway) -> ShadowReport:
    (found,) = gateway.shadow_reports()
    return found


def counters(gateway: Gateway) -> CopyCounters:
    if not gateway.targets:
        gateway.route(METHOD)
    found: CopyCounters = gateway.targets[-1].shadow.counters
    return found


def dropped(gateway: Gateway) -> dict[str, int]:
    return report(gateway).dropped


def copy_takes(rpc: Rpc, ok: bool = True) -> None:
    attempt = rpc.copies[-1]
    attempt.sending = None
    events(attempt).on_pod_sent(ok, rpc.now_s)


def copy_replies(rpc: Rpc, message: bytes | None) -> None:
    attempt = rpc.copies[-1]
    assert attempt.reading, "nothing is being read from the shadow's pod"
    attempt.reading = False
    events(attempt).on_pod_message(message, rpc.now_s)


def copy_ends(rpc: Rpc, status: Status = OK) -> None:
    attempt = rpc.copies[-1]
    attempt.status_due = False
    events(attempt).on_pod_status(status, rpc.now_s)


def events(attempt: FakeAttempt) -> Any:
    assert attempt._copy is not None
    return attempt._copy


def unary(gateway: Gateway) -> Rpc:
    """A unary RPC that is answered, with its copy still to be."""
    rpc = Rpc(gateway)
    rpc.is_sent_unary()
    rpc.is_answered_unary()
    return rpc


def stream(gateway: Gateway) -> Rpc:
    """A stream whose first message is sent, and taken by both pods."""
    rpc = Rpc(gateway)
    rpc.starts()
    rpc.timer_expires()
    rpc.pod_takes()
    rpc.client_sends(b"one")
    rpc.pod_takes()
    copy_takes(rpc)
    copy_takes(rpc)
    return rpc


def assert_all_given_back(gateway: Gateway) -> None:
    assert report(gateway).in_flight == 0
    assert gateway.copies.running == set()
    assert counters(gateway).held_bytes() == 0
    assert {pod.in_flight for pod in gateway.pods() if pod.cluster == "copies"} <= {0}


# --- what is sent


def test_a_unary_copy_goes_out_whole_after_the_original() -> None:
    rpc = Rpc(gateway())
    asked = rpc.is_sent_unary(b"hi")
    assert asked[-1] == Open(1, b"hi", half_close=True)
    assert rpc.copied == [Open(FIRST_SHADOW, b"hi", half_close=True)]


def test_a_stream_is_copied_message_by_message_at_the_pace_of_each_pod() -> None:
    rpc = stream(gateway())
    rpc.client_sends(b"two")
    rpc.pod_takes()
    rpc.client_sends(b"three")
    rpc.pod_takes()
    assert rpc.copied == [Open(FIRST_SHADOW), SendPod(b"one"), SendPod(b"two")]
    rpc.client_half_closes()
    copy_takes(rpc)
    assert rpc.copied[3:] == [SendPod(b"three", half_close=True)]


def test_a_half_close_that_comes_alone_is_copied() -> None:
    rpc = stream(gateway())
    rpc.client_half_closes()
    assert rpc.copied[2:] == [SendPod(None, half_close=True)]


def test_replies_are_read_and_dropped() -> None:
    rpc = stream(gateway())
    copy_replies(rpc, b"reply")
    copy_replies(rpc, b"another")
    assert rpc.copied[2:] == [READ_POD, READ_POD]
    assert rpc.asked == []


def test_a_copy_has_the_settings_of_the_shadow_and_the_request_id_of_the_original() -> None:
    edits = HeaderEdits((HeaderAdd("x-copy", "%REQ(x-user)%", append=False),), ())
    made = gateway(
        mapping={"request_headers": HeaderEdits((HeaderAdd("x-own", "1", append=False),), ())},
        rewrite="/copy/",
        timeout_ms=2000,
        request_headers=edits,
    )
    rpc = Rpc(made, metadata=(("x-user", "me"),), deadline_s=9.0)
    (original,) = [step for step in rpc.is_sent_unary() if isinstance(step, Open)]
    (copied,) = [step for step in rpc.copied if isinstance(step, Open)]
    assert (copied.path, copied.authority, copied.deadline_s) == ("/copy/Greet", "gateway.example-shadow", 2.0)
    assert dict(copied.metadata)["x-copy"] == "me"
    assert "x-own" not in dict(copied.metadata)
    assert dict(copied.metadata)["x-request-id"] == dict(original.metadata)["x-request-id"]


@pytest.mark.parametrize(
    ("authority", "marked"),
    [
        ("greet.example", "greet.example-shadow"),
        ("greet.example:8443", "greet.example-shadow:8443"),
        ("[::1]:8080", "[::1]:8080"),
        ("", ""),
    ],
)
def test_the_authority_is_marked_before_its_port(authority: str, marked: str) -> None:
    assert mark_authority(authority) == marked


@pytest.mark.parametrize(("weight_percent", "copied"), [(0, 0), (50, 5), (100, 10)])
def test_weight_decides_in_turns(weight_percent: int, copied: int) -> None:
    made = gateway(weight=weight_percent)
    rpcs = [unary(made) for _ in range(10)]
    assert [len(rpc.copies) for rpc in rpcs].count(1) == copied


def test_a_retried_original_is_copied_once() -> None:
    made = gateway(pods=2, mapping={"retry": RetryPolicy(frozenset({Code.UNAVAILABLE}), num_retries=2)})
    rpc = Rpc(made)
    rpc.is_sent_unary()
    rpc.try_fails(STREAM_REFUSED)
    if rpc.call.timer:
        rpc.timer_expires()
    assert len(rpc.attempts) == 2
    assert len(rpc.copies) == 1


def test_an_original_that_goes_nowhere_is_not_copied() -> None:
    made = gateway(pods=0)
    rpc = Rpc(made)
    rpc.is_sent_unary()
    assert rpc.copied == []
    assert report(made) == ShadowReport(COPY, {}, {}, 0)
    assert_all_given_back(made)


# --- how a copy ends


def test_a_copy_may_end_after_its_original_and_is_counted_once() -> None:
    made = gateway()
    rpc = unary(made)
    assert report(made).in_flight == 1
    copy_takes(rpc)
    copy_replies(rpc, b"yo")
    copy_ends(rpc, BUSY)
    assert report(made) == ShadowReport(COPY, {Code.UNAVAILABLE: 1}, {}, 0)
    assert rpc.codes() == {Code.OK: 1}
    assert {one.mapping for one in made.counters.reports()} == {LABEL}
    assert_all_given_back(made)


def test_a_copy_that_ends_first_leaves_its_original_alone() -> None:
    made = gateway()
    rpc = stream(made)
    asked_before = len(rpc.copied)
    copy_ends(rpc, BUSY)
    rpc.client_sends(b"two")
    rpc.pod_takes()
    rpc.client_half_closes()
    rpc.pod_takes()
    assert len(rpc.copied) == asked_before
    assert rpc.attempt.half_closed
    assert_all_given_back(made)


@pytest.mark.parametrize("half_closed", [True, False])
def test_a_copy_is_cancelled_where_the_client_leaves(half_closed: bool) -> None:
    made = gateway()
    rpc = stream(made)
    if half_closed:
        rpc.client_half_closes()
    rpc.client_leaves()
    assert rpc.copied[-1] == CANCEL_POD
    copy_ends(rpc, Status(Code.CANCELLED, ""))
    assert report(made) == ShadowReport(COPY, {Code.CANCELLED: 1}, {}, 0)
    assert_all_given_back(made)


def test_a_copy_is_cancelled_where_the_original_is_answered_before_its_request_is_whole() -> None:
    rpc = stream(gateway())
    rpc.pod_headers()
    rpc.pod_has_no_more()
    rpc.pod_ends(BUSY)
    assert rpc.session.finished
    assert rpc.copied[-1] == CANCEL_POD


def test_a_copy_does_not_wait_for_its_answer_for_ever() -> None:
    made = gateway()
    rpc = unary(made)
    made.refresh(LINGER_S - 0.1)
    assert rpc.copied[-1] != CANCEL_POD
    made.refresh(LINGER_S)
    made.refresh(LINGER_S + 1)
    assert rpc.copied.count(CANCEL_POD) == 1
    copy_ends(rpc, Status(Code.CANCELLED, ""))
    assert report(made) == ShadowReport(COPY, {}, {"no-answer": 1}, 0)
    assert_all_given_back(made)


def test_a_copy_lives_as_long_as_its_original_however_long() -> None:
    made = gateway()
    rpc = stream(made)
    made.refresh(1000 * LINGER_S)
    assert CANCEL_POD not in rpc.copied


def test_a_drain_ends_copies_and_originals_go_on_without() -> None:
    made = gateway()
    waiting = Rpc(made)
    waiting.starts()
    running = stream(made)
    made.begin_drain(1.0)
    assert running.copied[-1] == CANCEL_POD
    running.client_sends(b"two")
    waiting.client_sends(b"hi")
    waiting.client_half_closes()
    assert waiting.attempts
    assert not waiting.copies
    copy_ends(running, Status(Code.CANCELLED, ""))
    assert dropped(made) == {"draining": 2}
    assert_all_given_back(made)


# --- what is not copied


def test_a_pod_that_does_not_keep_up_loses_its_copy() -> None:
    made = gateway()
    rpc = stream(made)
    half = bytes(MAX_HELD_BYTES // 2)
    for _ in range(2):
        rpc.client_sends(half)
        rpc.pod_takes()
    assert CANCEL_POD not in rpc.copied
    rpc.client_sends(b"!")
    rpc.pod_takes()
    assert rpc.copied[-1] == CANCEL_POD
    rpc.client_sends(b"goes on")
    assert dropped(made) == {"too-slow": 1}
    copy_ends(rpc, Status(Code.CANCELLED, ""))
    assert_all_given_back(made)


def test_a_pod_that_keeps_up_may_get_any_number_of_large_messages() -> None:
    made = gateway()
    rpc = stream(made)
    for _ in range(5):
        rpc.client_sends(bytes(MAX_HELD_BYTES))
        rpc.pod_takes()
        copy_takes(rpc)
    assert dropped(made) == {}


def test_a_copy_of_frames_gets_every_chunk_and_the_half_close_last() -> None:
    rpc, whole = Rpc(gateway(), frames=True), frame(b"abcdef")
    rpc.starts()
    rpc.client_sends(whole[:7])
    rpc.client_sends(whole[7:])
    assert rpc.client_half_closes() == [Open(1, whole, half_close=True)]
    assert rpc.copied == [Open(FIRST_SHADOW, whole[:7])]
    copy_takes(rpc)
    assert rpc.copied[1:] == [SendPod(whole[7:], half_close=True)]


def test_chunks_of_one_message_are_held_by_a_copy_up_to_the_same_bound() -> None:
    made = gateway()
    rpc = Rpc(made, frames=True)
    rpc.starts()
    rpc.timer_expires()
    rpc.pod_takes()
    rpc.client_sends(frame(bytes(2 * MAX_HELD_BYTES))[:MAX_HELD_BYTES])
    rpc.pod_takes()
    assert dropped(made) == {}
    rpc.client_sends(b"!")
    assert dropped(made) == {"too-slow": 1}


def test_a_message_larger_than_a_copy_may_hold_drops_it_before_it_began() -> None:
    made = gateway()
    rpc = Rpc(made)
    rpc.is_sent_unary(bytes(MAX_HELD_BYTES + 1))
    assert rpc.attempts
    assert not rpc.copies
    assert dropped(made) == {"too-slow": 1}
    assert_all_given_back(made)


def test_all_copies_together_hold_no_more_than_their_bound() -> None:
    copies = CopyCounters(COPY)
    held = 0
    while copies.hold(MAX_HELD_BYTES):
        held += MAX_HELD_BYTES
    assert held == MAX_ALL_HELD_BYTES
    copies.give_back(1)
    assert copies.hold(1)


def test_no_more_copies_run_than_their_bound() -> None:
    made = gateway()
    copies = counters(made)  # a thousand RPCs would take their time
    for _ in range(MAX_COPIES):
        assert copies.begin()
    rpc = unary(made)
    assert not rpc.copies
    assert dropped(made) == {"too-many": 1}
    copies.end(0)
    assert unary(made).copies


def test_without_pods_the_copy_is_dropped() -> None:
    made = gateway(shadow_pods=0)
    assert not unary(made).copies
    assert dropped(made) == {"no-endpoints": 1}
    assert_all_given_back(made)


def test_copies_are_split_over_the_clusters_of_the_shadow_in_exact_shares_of_those_copied() -> None:
    made = Gateway()
    clusters = (WeightedCluster("old", 3), WeightedCluster("new", 1), WeightedCluster("unused", 0))
    shadow = destination(name="copy", clusters=clusters, weight=50)
    made.apply(snapshot(replace(route(), shadow=shadow)), 0.0)
    for number, name in enumerate(("old", "new", "unused")):
        made.set_endpoints(name, endpoints(FIRST_SHADOW + number), 0.0)
    made.refresh(0.0)
    copied = Counter(copy.pod.cluster for _ in range(80) for copy in unary(made).copies)
    assert copied == {"old": 30, "new": 10}


def test_nothing_is_copied_to_a_shadow_whose_clusters_all_have_no_weight() -> None:
    made = gateway(clusters=(WeightedCluster("copies", 0),))
    assert [unary(made).copies for _ in range(3)] == [[], [], []]


def test_the_shadows_breaker_is_its_own() -> None:
    made = gateway(circuit_breakers=(CircuitBreaker(max_requests=1),))
    first, second = unary(made), unary(made)
    assert (len(first.copies), len(second.copies)) == (1, 0)
    assert dropped(made) == {"circuit-breaker": 1}
    copy_ends(first)
    target = made.route(METHOD)
    assert target.breaker is None  # type: ignore[union-attr]
    breaker = target.shadow.targets[0].breaker  # type: ignore[union-attr]
    assert breaker.in_use(Limit.REQUESTS) == 0
    assert_all_given_back(made)


def test_failures_of_copies_eject_the_shadows_pods() -> None:
    made = gateway(shadow_pods=2, outlier_detection=OutlierDetection(consecutive_failures=1, max_ejection_percent=50))
    copy_ends(unary(made), BUSY)
    assert {unary(made).copies[0].pod.endpoint.address for _ in range(4)} == {f"10.0.0.{FIRST_SHADOW + 1}"}


def test_a_copy_whose_pod_has_just_left_is_unavailable() -> None:
    made = gateway()
    rpc = Rpc(made)
    rpc.closed_pods = {FIRST_SHADOW}
    rpc.is_sent_unary()
    assert rpc.attempts
    assert report(made) == ShadowReport(COPY, {Code.UNAVAILABLE: 1}, {}, 0)
    assert_all_given_back(made)


def test_a_defect_of_a_copy_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    made = gateway()
    rpc = Rpc(made)

    class Broken(FakeAttempt):
        def send(self, message: bytes | None, half_close: bool) -> None:
            raise RuntimeError("broken")

    rpc.starts()
    rpc.timer_expires()
    rpc.copies[0].__class__ = Broken
    copy_takes(rpc)
    rpc.pod_takes()
    assert rpc.client_sends(b"one") == [SendPod(b"one")]
    assert dropped(made) == {"defect": 1}
    assert COPY in caplog.text
    copy_ends(rpc, Status(Code.CANCELLED, ""))
    assert_all_given_back(made)


def test_copies_have_no_line_in_the_access_log() -> None:
    lines: list[RpcRecord] = []
    made = Gateway()
    made.rpc_log = RpcLog(lines.append, 100.0)
    made.apply(snapshot(replace(route(), shadow=destination(name="copy", cluster="copies"))), 0.0)
    made.set_endpoints("copies", endpoints(FIRST_SHADOW), 0.0)
    made.refresh(0.0)
    copy_ends(unary(made))
    assert [line.mapping for line in lines] == [LABEL]


def test_what_was_counted_of_a_shadow_outlives_a_reload() -> None:
    made = gateway()
    copy_ends(unary(made))
    made.apply(snapshot(route()), 1.0)
    assert report(made).codes == {Code.OK: 1}
    assert made.route(METHOD).shadow is None  # type: ignore[union-attr]
