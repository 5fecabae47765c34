"""A worker that replaces a dead one carries its numbers on: no counter that Prometheus reads ever goes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.endpoints import PodState
from grpcgw.telemetry.merge import add_methods, carry_on, leave_behind
from grpcgw.telemetry.report import (
    LATENCY_BUCKETS_S,
    CacheReport,
    ClientReport,
    EventReport,
    MethodReport,
    PodReport,
    PolicyReport,
    ShadowReport,
    WorkerReport,
)

NUMBERS = st.integers(0, 50)


def method_report(name: str, codes: dict[int, int], in_flight: int = 0) -> MethodReport:
    ended = sum(codes.values())
    return MethodReport("m", "s", name, codes, (ended, *[0] * len(LATENCY_BUCKETS_S)), 0.5 * ended, in_flight)


def pod_report(address: str, total: int, failures: int = 0, mean_ms: float = 1.0, error: str = "") -> PodReport:
    return PodReport("c", address, PodState.READY, 0, total, failures, mean_ms, error)


def worker(methods: Sequence[MethodReport] = (), pods: Sequence[PodReport] = (), retries: int = 0) -> WorkerReport:
    events = EventReport({"m": retries}, {("m", "max_requests"): 2 * retries}, {"c": 3 * retries})
    return WorkerReport(0, 1, "http2", "v1", 0.0, tuple(methods), tuple(pods), events, cpu_s=0.5 * retries)


METHODS = st.dictionaries(
    st.sampled_from("abc"), st.dictionaries(st.sampled_from([0, 5, 14]), NUMBERS, min_size=1), max_size=3
).map(lambda found: [method_report(name, codes) for name, codes in found.items()])
PODS = st.dictionaries(st.sampled_from("pq"), st.tuples(NUMBERS, NUMBERS), max_size=2).map(
    lambda found: [pod_report(address, total, failures) for address, (total, failures) in found.items()]
)
WORKERS = st.builds(worker, METHODS, PODS, NUMBERS)


def rpcs(report: WorkerReport) -> Counter[tuple[str, int]]:
    return Counter({(m.method, code): count for m in report.methods for code, count in m.codes.items()})


def test_the_first_worker_counts_for_itself() -> None:
    report = worker([method_report("a", {0: 1})], [pod_report("p", 1)], 1)
    assert carry_on(report, None) == report


@given(lives=st.lists(WORKERS, min_size=1, max_size=5))
def test_what_every_life_counted_is_in_the_sum(lives: list[WorkerReport]) -> None:
    carried = lives[0]
    for life in lives[1:]:
        carried = carry_on(life, leave_behind(carried))
    assert +rpcs(carried) == +sum((rpcs(life) for life in lives), Counter())
    retries = sum(life.events.retries["m"] for life in lives)
    assert carried.events == EventReport({"m": retries}, {("m", "max_requests"): 2 * retries}, {"c": 3 * retries})
    assert carried.cpu_s == 0.5 * retries
    ended = sum(sum(rpcs(life).values()) for life in lives)
    assert sum(sum(m.latency_counts) for m in carried.methods) == ended
    assert sum(m.latency_sum_s for m in carried.methods) == 0.5 * ended


@given(former=WORKERS, early=WORKERS, more=WORKERS)
def test_no_counter_goes_back_while_a_worker_lives(
    former: WorkerReport, early: WorkerReport, more: WorkerReport
) -> None:
    """`late` is what the same worker has counted a little after `early`."""
    late = carry_on(more, early)
    before, after = carry_on(early, former), carry_on(late, former)
    assert rpcs(before) <= rpcs(after)
    assert before.events.retries["m"] <= after.events.retries["m"]
    assert before.cpu_s <= after.cpu_s


@given(lives=st.lists(PODS, min_size=1, max_size=4))
def test_a_pod_that_stays_keeps_its_numbers(lives: list[list[PodReport]]) -> None:
    carried = worker()
    seen: Counter[str] = Counter()
    for life in lives:
        pods = [*life, pod_report("always there", 3, 1)]
        carried = carry_on(worker(pods=pods), carried)
        seen["always there"] += 3
        found = {pod.address: pod for pod in carried.pods}
        assert found["always there"].total == seen["always there"]
        assert found["always there"].failures == seen["always there"] / 3


def test_a_pod_that_is_gone_is_not_shown_any_more() -> None:
    assert carry_on(worker(), worker(pods=[pod_report("p", 3)])).pods == ()


def test_a_pod_that_is_leaving_while_its_successor_serves_has_its_past_once() -> None:
    """Both have the address: a pod that left and came back, the former still finishing its RPCs."""
    former = worker(pods=[pod_report("p", 10, 2), pod_report("p", 5, 1)])
    both = carry_on(worker(pods=[pod_report("p", 4), pod_report("p", 3)]), former)
    assert sum(pod.total for pod in both.pods) == 22
    assert sum(pod.failures for pod in both.pods) == 3
    one = carry_on(worker(pods=[pod_report("p", 4)]), former)
    assert sum(pod.total for pod in one.pods) == 19


def test_what_was_counted_of_a_pod_outlives_a_worker_that_never_had_it() -> None:
    """The second dies before it knows any pod."""
    first = leave_behind(worker(pods=[pod_report("p", 10, 2)]))
    second = leave_behind(carry_on(worker(), first), first)
    (pod,) = carry_on(worker(pods=[pod_report("p", 1)]), second).pods
    assert (pod.total, pod.failures) == (11, 2)


def test_what_was_counted_of_a_pod_that_left_before_its_worker_died_is_carried_on() -> None:
    served = leave_behind(worker(pods=[pod_report("p", 10, 2)]))
    died = leave_behind(worker(), served)
    (pod,) = carry_on(worker(pods=[pod_report("p", 1)]), died).pods
    assert (pod.total, pod.failures) == (11, 2)


def test_the_mean_is_that_of_all_rpcs() -> None:
    former = worker(pods=[pod_report("p", 10, mean_ms=2.0, error="old")])
    (pod,) = carry_on(worker(pods=[pod_report("p", 30, mean_ms=6.0)]), former).pods
    assert (pod.total, pod.latency_mean_ms, pod.last_error) == (40, 5.0, "old")


def test_a_pod_nothing_was_sent_to_has_no_mean() -> None:
    (pod,) = carry_on(worker(pods=[pod_report("p", 0)]), worker(pods=[pod_report("p", 0)])).pods
    assert pod.latency_mean_ms == 0.0


def test_what_ran_in_a_dead_worker_runs_no_more() -> None:
    ejected = replace(pod_report("p", 3), note="ejected for 9 s more: 5 failures in a row")
    last = worker([method_report("a", {}, in_flight=7), method_report("b", {0: 1}, in_flight=1)], [ejected])
    last = replace(last, memory_bytes=10_000_000)
    former = leave_behind(last)
    (pod,) = former.pods
    assert former.memory_bytes == 0
    assert (former.pid, pod.total, pod.state, pod.note) == (0, 3, PodState.IDLE, "")
    carried = carry_on(worker([method_report("a", {}, in_flight=2)]), former)
    assert {method.method: method.in_flight for method in carried.methods} == {"a": 2, "b": 0}


def test_adding_keeps_every_code_reason_and_byte() -> None:
    one = replace(method_report("a", {0: 1, 5: 2}, 1), reasons={(5, "x"): 1}, request_bytes=1, response_bytes=10)
    other = replace(method_report("a", {0: 3, 14: 4}, 2), reasons={(5, "x"): 1, (14, "y"): 4}, request_bytes=2)
    added = add_methods(one, other)
    assert (added.codes, added.in_flight) == ({0: 4, 5: 2, 14: 4}, 3)
    assert added.reasons == {(5, "x"): 2, (14, "y"): 4}
    assert (added.request_bytes, added.response_bytes) == (3, 10)


def test_copies_of_every_life_are_in_the_sum() -> None:
    first = replace(worker(), shadows=(ShadowReport("copy", {0: 3}, {"too-slow": 1}, 5),))
    second = replace(worker(), shadows=(ShadowReport("other", {}, {}, 0), ShadowReport("copy", {0: 1, 14: 2}, {}, 2)))
    copied, other = carry_on(second, leave_behind(first)).shadows
    assert copied == ShadowReport("copy", {0: 4, 14: 2}, {"too-slow": 1}, 2)
    assert other.mapping == "other"


def test_verdicts_of_every_life_are_in_the_sum() -> None:
    waits = (0,) * len(LATENCY_BUCKETS_S)
    first = replace(worker(), policies=(PolicyReport("m", "p", 3, 1, {"defect": 1}, (1, *waits), 0.5),))
    second = replace(worker(), policies=(PolicyReport("m", "p", 1, 0, {}, (2, *waits), 0.5),))
    cached = [
        replace(one, caches=(CacheReport("tokens", 1, 2),), slow_checks={"Filter own.default": 3})
        for one in (first, second)
    ]
    total = carry_on(cached[1], leave_behind(cached[0]))
    assert total.policies == (PolicyReport("m", "p", 4, 1, {"defect": 1}, (3, *waits), 1.0),)
    assert total.caches == (CacheReport("tokens", 2, 4),)
    assert total.slow_checks == {"Filter own.default": 6}


def test_connections_of_a_dead_worker_are_closed_and_no_counter_of_clients_falls() -> None:
    first = replace(worker(), clients=ClientReport({80: 2}, {80: 5}, {"client": 3}, 1, {405: 1}))
    second = replace(worker(), clients=ClientReport({80: 1, 443: 0}, {80: 1, 443: 0}, {}, 1, {415: 1}))
    former = leave_behind(first, None)
    assert former.clients == ClientReport({}, {80: 5}, {"client": 3, "worker-died": 2}, 1, {405: 1})
    carried = carry_on(second, former).clients
    closed = {"client": 3, "worker-died": 2}
    assert carried == ClientReport({80: 1, 443: 0}, {80: 6, 443: 0}, closed, 2, {405: 1, 415: 1})


def test_failed_handshakes_of_every_life_are_in_the_sum() -> None:
    first = replace(worker(), handshake_failures={"no-tls": 2})
    second = replace(worker(), handshake_failures={"no-tls": 1, "http": 1})
    assert carry_on(second, leave_behind(first)).handshake_failures == {"no-tls": 3, "http": 1}


def test_an_engine_that_counts_no_connections_has_no_report_of_them() -> None:
    assert carry_on(worker(), leave_behind(worker())).clients is None
