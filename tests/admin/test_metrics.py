"""The Prometheus text: one set of numbers over all workers, and a documented one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from admin.admin_states import GREET, NOW_S, empty_state, greet_state, make_method, make_worker, problem_state
from grpcgw.admin.metrics import NO_READINGS, HostReadings, render_metrics
from grpcgw.admin.state import GatewayState
from grpcgw.discovery.store import SourceStatus
from grpcgw.model.codes import status_name
from grpcgw.model.endpoints import PodState
from grpcgw.model.route import WeightedCluster
from grpcgw.telemetry.report import (
    LATENCY_BUCKETS_S,
    CacheReport,
    ClientReport,
    EventReport,
    MethodReport,
    PodReport,
    PolicyReport,
    ShadowReport,
)
from grpcgw.telemetry.resource_usage import ProcessUse, measure_process

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "metrics.md"


def make_state(**changes) -> GatewayState:
    values = {
        "started_at_s": NOW_S - 100,
        "ready": True,
        "configured_at_s": NOW_S - 30,
        "configuration_errors_total": 5,
        "sources": (SourceStatus("kubernetes Mapping", True, NOW_S - 12), SourceStatus("directory x", False, 0.0)),
        "worker_restarts_total": 2,
    }
    return replace(problem_state(), now_s=NOW_S, **{**values, **changes})


def parse(
    state: GatewayState, host: HostReadings = NO_READINGS
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Value by sample name and sorted labels."""
    families = text_string_to_metric_families(render_metrics(state, host).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value_of(samples, name: str, **labels: str) -> float:
    return samples[f"grpcgw_{name}", tuple(sorted(labels.items()))]


def test_rpcs_of_all_workers_are_one_number_per_mapping_method_and_status() -> None:
    method = make_method("m.default", "Greet", {0: 3, 14: 1}, in_flight=2)
    samples = parse(make_state(workers=(make_worker(0, (), (method,)), make_worker(1, (), (method,)))))
    labels = {"mapping": "m.default", "service": "greet.GrpcService", "method": "Greet"}

    assert value_of(samples, "rpcs_total", **labels, grpc_status="OK", reason="") == 6
    assert value_of(samples, "rpcs_total", **labels, grpc_status="UNAVAILABLE", reason="") == 2
    assert value_of(samples, "rpcs_in_flight", mapping="m.default") == 4


def test_statuses_of_the_gateway_are_told_from_those_of_pods() -> None:
    method = replace(
        make_method("m", "Greet", {14: 10, 0: 1, 4: 2}), reasons={(14, "no-endpoints"): 7, (4, "timeout"): 2}
    )
    samples = parse(make_state(workers=(make_worker(0, (), (method,)), make_worker(1, (), (method,)))))
    found = {
        (dict(labels)["grpc_status"], dict(labels)["reason"]): value
        for (name, labels), value in samples.items()
        if name == "grpcgw_rpcs_total"
    }

    assert found == {
        ("OK", ""): 2,
        ("UNAVAILABLE", ""): 6,
        ("UNAVAILABLE", "no-endpoints"): 14,
        ("DEADLINE_EXCEEDED", "timeout"): 4,
    }


def test_bytes_of_messages_are_counted_both_ways() -> None:
    method = replace(make_method("m", "Greet", {0: 1}), request_bytes=100, response_bytes=2000)
    samples = parse(make_state(workers=(make_worker(0, (), (method,)), make_worker(1, (), (method,)))))
    labels = {"mapping": "m", "service": "greet.GrpcService", "method": "Greet"}

    assert value_of(samples, "rpc_request_bytes_total", **labels) == 200
    assert value_of(samples, "rpc_response_bytes_total", **labels) == 4000


def test_retries_breakers_and_ejections_are_told_by_mapping_and_cluster() -> None:
    state = greet_state()
    events = EventReport({"m": 3}, {("m", "max_requests"): 2}, {GREET: 1})
    samples = parse(make_state(workers=tuple(replace(worker, events=events) for worker in state.workers)))

    assert value_of(samples, "retries_total", mapping="m") == 6
    assert value_of(samples, "circuit_breaker_refusals_total", mapping="m", limit="max_requests") == 4
    assert value_of(samples, "pod_ejections_total", cluster=GREET) == 2


def test_every_process_tells_what_it_takes_and_a_worker_within_another_is_not_told_twice() -> None:
    worker = replace(make_worker(0, (), ()), cpu_s=2.5, memory_bytes=1000)
    here = replace(make_worker(1, (), ()), pid=77, cpu_s=9.0, memory_bytes=5000)
    samples = parse(make_state(workers=(worker, here)), HostReadings(ProcessUse(9.0, 5000), 77))

    assert value_of(samples, "process_cpu_seconds_total", process="worker-0") == 2.5
    assert value_of(samples, "process_resident_memory_bytes", process="worker-0") == 1000
    assert value_of(samples, "process_cpu_seconds_total", process="control") == 9.0
    assert ("grpcgw_process_cpu_seconds_total", (("process", "worker-1"),)) not in samples


def test_what_a_process_takes_is_measured() -> None:
    used = measure_process()

    assert used.cpu_s > 0
    assert used.memory_bytes > 10_000_000


def test_the_latency_histogram_is_cumulative_and_ends_at_infinity() -> None:
    counts = tuple(range(len(LATENCY_BUCKETS_S) + 1))
    method = MethodReport("m", "S", "M", {0: sum(counts)}, counts, 12.5, 0)
    samples = parse(make_state(workers=(make_worker(0, (), (method,)),)))
    labels = {"mapping": "m", "service": "S", "method": "M"}

    assert value_of(samples, "rpc_duration_seconds_bucket", **labels, le="0.005") == sum(range(6))
    assert value_of(samples, "rpc_duration_seconds_bucket", **labels, le="+Inf") == sum(counts)
    assert value_of(samples, "rpc_duration_seconds_count", **labels) == sum(counts)
    assert value_of(samples, "rpc_duration_seconds_sum", **labels) == 12.5


def test_counters_of_a_pod_that_not_all_workers_know_are_absent_instead_of_falling() -> None:
    pod = PodReport(GREET, "10.0.0.1:50051", PodState.READY, 1, 10, 3, 1.0)
    workers = make_worker(0, (pod,), ()), make_worker(1, (), ())
    families = {name for name, _ in parse(make_state(workers=workers))}
    assert families.isdisjoint({"grpcgw_pod_rpcs_total", "grpcgw_pod_failures_total"})
    assert families >= {"grpcgw_pod_rpcs_in_flight", "grpcgw_pod_state"}


def test_pods_are_summed_and_their_states_count_workers() -> None:
    pod = PodReport(GREET, "10.0.0.1:50051", PodState.READY, 1, 10, 3, 1.0)
    failing = PodReport(GREET, "10.0.0.1:50051", PodState.FAILING, 0, 5, 5, 1.0)
    samples = parse(make_state(workers=(make_worker(0, (pod,), ()), make_worker(1, (failing,), ()))))
    labels = {"cluster": GREET, "pod": "10.0.0.1:50051"}

    assert value_of(samples, "pod_rpcs_total", **labels) == 15
    assert value_of(samples, "pod_failures_total", **labels) == 8
    assert value_of(samples, "pod_rpcs_in_flight", **labels) == 1
    assert value_of(samples, "pod_state", **labels, state="ready") == 1
    assert value_of(samples, "pod_state", **labels, state="failing") == 1


def test_configuration_is_told_by_version_age_and_problems() -> None:
    samples = parse(make_state())

    assert value_of(samples, "configuration_info", version="3fa91c07be52") == 1
    assert value_of(samples, "configuration_age_seconds") == 30
    assert value_of(samples, "configuration_errors", severity="error") == 2
    assert value_of(samples, "configuration_errors", severity="notice") == 1
    assert value_of(samples, "configuration_errors_total") == 5
    assert value_of(samples, "cluster_endpoints", cluster=GREET) == 2
    assert value_of(samples, "cluster_endpoints", cluster="gone") == 0


def test_a_source_that_never_answered_has_no_age_but_is_not_synced() -> None:
    samples = parse(make_state())

    assert value_of(samples, "source_age_seconds", source="kubernetes Mapping") == 12
    assert ("grpcgw_source_age_seconds", (("source", "directory x"),)) not in samples
    assert value_of(samples, "source_synced", source="directory x") == 0


def test_certificates_tell_how_long_they_last() -> None:
    labels = {"certificate": "edge.default", "use": "server"}
    assert value_of(parse(make_state()), "certificate_expiry_seconds", **labels) == 86_400


def test_clients_are_counted_by_port_where_the_system_tells() -> None:
    samples = parse(make_state(), HostReadings(client_connections={8080: 3, 8443: 0}))
    assert value_of(samples, "client_connections", port="8080") == 3
    assert value_of(samples, "client_connections", port="8443") == 0
    assert not [name for name, _ in parse(make_state()) if name == "grpcgw_client_connections"]


def test_connections_that_the_workers_count_are_their_sum() -> None:
    clients = ClientReport({8080: 1}, {8080: 4}, {"client": 2, "protocol-error": 1}, 5, {405: 6})
    workers = tuple(replace(worker, clients=clients) for worker in make_state().workers)
    samples = parse(make_state(workers=workers), HostReadings(client_connections={8080: 9}))
    assert value_of(samples, "client_connections", port="8080") == 2
    assert value_of(samples, "client_connections_accepted_total", port="8080") == 8
    assert value_of(samples, "client_connections_closed_total", cause="client") == 4
    assert value_of(samples, "client_connections_closed_total", cause="protocol-error") == 2
    assert value_of(samples, "malformed_requests_total") == 10
    assert value_of(samples, "http_requests_total", http_status="405") == 12


def test_workers_are_counted() -> None:
    samples = parse(make_state())

    assert value_of(samples, "workers") == 2
    assert value_of(samples, "worker_restarts_total") == 2
    assert value_of(samples, "start_time_seconds") == NOW_S - 100


def test_copies_for_a_shadow_are_counted_apart_from_what_clients_got() -> None:
    plain = parse(make_state())
    shadows = (ShadowReport("copy.default", {0: 3, 14: 1}, {"too-slow": 2}, 1),)
    samples = parse(make_state(workers=tuple(replace(one, shadows=shadows) for one in problem_state().workers)))

    assert value_of(samples, "shadow_rpcs_total", mapping="copy.default", grpc_status="OK") == 6
    assert value_of(samples, "shadow_rpcs_total", mapping="copy.default", grpc_status="UNAVAILABLE") == 2
    assert value_of(samples, "shadow_dropped_total", mapping="copy.default", reason="too-slow") == 4
    assert value_of(samples, "shadow_rpcs_in_flight", mapping="copy.default") == 2
    assert {key: value for key, value in samples.items() if "_shadow_" not in key[0]} == plain


def test_metrics_call_a_cluster_by_the_stats_name_of_its_mapping() -> None:
    state = greet_state()
    (route,) = state.snapshot.routes
    named = replace(route, destinations=(replace(route.destinations[0], stats_name="greeter"),))
    snapshot = replace(state.snapshot, routes=(named,))
    samples = parse(make_state(snapshot=snapshot, endpoints=state.endpoints, workers=state.workers))

    assert value_of(samples, "cluster_endpoints", cluster="greeter") == 2
    assert value_of(samples, "pod_rpcs_in_flight", cluster="greeter", pod="10.244.1.7:50051") == 2
    assert not [labels for _, labels in samples if ("cluster", GREET) in labels]


def test_clusters_of_one_stats_name_are_one_upstream() -> None:
    state = greet_state()
    (route,) = state.snapshot.routes
    one, two = (
        replace(route.destinations[0], stats_name="greeter", clusters=(WeightedCluster(name),))
        for name in (GREET, "other")
    )
    snapshot = replace(
        state.snapshot, routes=(replace(route, destinations=(one,)), replace(route, destinations=(two,)))
    )
    endpoints = {GREET: state.endpoints[GREET], "other": state.endpoints[GREET]}
    samples = parse(make_state(snapshot=snapshot, endpoints=endpoints))

    assert value_of(samples, "cluster_endpoints", cluster="greeter") == 4


def test_a_gateway_without_configuration_and_workers_renders() -> None:
    samples = parse(empty_state())

    assert value_of(samples, "ready") == 0
    assert ("grpcgw_configuration_age_seconds", ()) not in samples


@pytest.mark.parametrize(("code", "name"), [(0, "OK"), (12, "UNIMPLEMENTED"), (16, "UNAUTHENTICATED"), (99, "99")])
def test_status_codes_are_named(code: int, name: str) -> None:
    assert status_name(code) == name


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_label_text_survives(text: str) -> None:
    method = make_method(text, "M", {0: 7})
    lines = render_metrics(make_state(workers=(make_worker(0, (), (method,)),))).decode().split("\n")
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    assert f'grpcgw_rpcs_in_flight{{mapping="{escaped}"}} 0.0' in lines


def test_the_global_registry_stays_untouched() -> None:
    render_metrics(make_state())

    assert b"grpcgw_" not in prometheus_client.generate_latest()


def everything() -> tuple[GatewayState, HostReadings]:
    """With a sample of every metric."""
    full = replace(
        problem_state().workers[0],
        shadows=(ShadowReport("copy.default", {0: 1}, {"too-slow": 1}, 0),),
        events=EventReport({"m": 1}, {("m", "max_requests"): 1}, {GREET: 1}),
        policies=(PolicyReport("m", "p", 1, 1, {"defect": 1}, (1,) * (len(LATENCY_BUCKETS_S) + 1), 1.0),),
        caches=(CacheReport("tokens", 1, 1),),
        slow_checks={"Filter own.default": 1},
        redis_away=False,
        memory_bytes=1,
        handshake_failures={"no-tls": 1},
        clients=ClientReport({8080: 1}, {8080: 2}, {"client": 1}, 1, {405: 1}),
    )
    return make_state(workers=(full,)), NO_READINGS


def test_policies_are_summed_over_the_workers() -> None:
    one = PolicyReport("m", "AuthService a", 3, 1, {"failed-closed": 1}, (2, *[0] * len(LATENCY_BUCKETS_S)), 0.5)
    worker = replace(problem_state().workers[0], policies=(one,), caches=(CacheReport("tokens", 5, 2),))
    worker = replace(worker, slow_checks={"Filter own.default": 3})
    samples = parse(make_state(workers=(worker, worker)))
    labels = {"mapping": "m", "policy": "AuthService a"}
    assert value_of(samples, "policy_verdicts_total", verdict="allowed", **labels) == 6
    assert value_of(samples, "policy_verdicts_total", verdict="denied", **labels) == 2
    assert value_of(samples, "policy_errors_total", error="failed-closed", **labels) == 2
    assert value_of(samples, "policy_wait_seconds_count", **labels) == 4
    assert value_of(samples, "policy_wait_seconds_sum", **labels) == 1.0
    assert value_of(samples, "policy_cache_hits_total", cache="tokens") == 10
    assert value_of(samples, "policy_slow_checks_total", policy="Filter own.default") == 6


def test_promtool_has_nothing_against_the_metrics() -> None:
    promtool = shutil.which("promtool") or shutil.which("promtool", path=Path(sys.executable).parent)
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("this test needs promtool: run scripts/install-system-packages")
        pytest.skip("promtool is not installed: run scripts/install-system-packages")
    command, text = [promtool, "check", "metrics"], render_metrics(*everything())
    found = subprocess.run(command, input=text, capture_output=True, check=False)
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")


def test_documentation_names_every_metric_with_its_labels_and_no_other() -> None:
    families = text_string_to_metric_families(render_metrics(*everything()).decode())
    rendered = {}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        rendered[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    rows = re.findall(r"^\| `(grpcgw_\w+)` \| \w+ \|([^|]*)\|", DOCUMENTATION.read_text(), re.MULTILINE)

    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == rendered


def test_key_sets_are_counted_by_their_url() -> None:
    state = make_state()
    good, away = {"url": "https://issuer.example/jwks"}, {"url": "https://away.example/jwks"}
    assert value_of(parse(state), "key_set_age_seconds", **good) == 40
    assert [value_of(parse(state), "key_set_keys", **one) for one in (good, away)] == [1, 0]
    assert [value_of(parse(state), "key_set_fetch_failures_total", **one) for one in (good, away)] == [2, 7]
    assert [value_of(parse(state), "key_set_early_fetches_total", **one) for one in (good, away)] == [3, 0]
    assert "key_set" not in render_metrics(make_state(key_sets=())).decode()


def test_a_greet_gateway_shows_no_failures() -> None:
    samples = parse(make_state(workers=greet_state().workers))

    assert all(value == 0 for (name, _), value in samples.items() if name == "grpcgw_pod_failures_total")
