"""From the API server to the RPC: pods join and leave, the server has bad days, and RPCs go on."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import grpc
import pytest
from dataplane.waiting import eventually

from examples.greet.server import Pod
from gateway.harness import Gateway, greet, running_gateway, running_pods, status_of, traffic
from gateway.objects import NAMESPACE, endpoint_slice, mapping, put_greet, remove_pod, service
from tests.kube_api import KubeApi


@pytest.fixture
def gateway(api: KubeApi, pods: list[Pod], tmp_path: Path) -> Iterator[Gateway]:
    """One worker, on an API server that holds the greet scenario."""
    put_greet(api, [pod.port for pod in pods])
    with gateway_on(api, tmp_path) as gateway:
        yield gateway


@pytest.fixture
def alone(api: KubeApi, pods: list[Pod], tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of one process on the same."""
    put_greet(api, [pod.port for pod in pods])
    with gateway_on(api, tmp_path, workers=0) as gateway:
        yield gateway


def gateway_on(api: KubeApi, folder: Path, ready: bool = True, workers: int = 1) -> AbstractContextManager[Gateway]:
    kubeconfig = api.kubeconfig(folder / "kubeconfig")
    return running_gateway("--kubernetes", "--kubeconfig", str(kubeconfig), folder=folder, workers=workers, ready=ready)


@pytest.fixture
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with gateway.channel() as channel:
        yield channel


def test_rpcs_follow_the_pods(
    gateway: Gateway, api: KubeApi, channel: grpc.Channel, record_property: Callable[[str, object], None]
) -> None:
    assert [greet(channel) for _ in range(4)] in (["pod-1", "pod-2"] * 2, ["pod-2", "pod-1"] * 2)
    joined_s, left_s = [], []
    with running_pods("pod-3") as (third,):
        for _ in range(5):
            began_s = time.monotonic()
            api.put(endpoint_slice(third.port))
            eventually(lambda: greet(channel) == "pod-3", "it gets RPCs")
            joined_s.append(time.monotonic() - began_s)
            assert {greet(channel) for _ in range(3)} == {"pod-1", "pod-2", "pod-3"}
            began_s = time.monotonic()
            remove_pod(api, third.port)
            eventually(lambda: "pod-3" not in [greet(channel) for _ in range(3)], "it gets none")
            left_s.append(time.monotonic() - began_s)
    record_property("joined_to_first_rpc_ms", round(1000 * statistics.median(joined_s)))
    record_property("left_to_last_rpc_ms", round(1000 * statistics.median(left_s)))


def test_a_pod_that_is_not_ready_gets_no_rpc(
    gateway: Gateway, api: KubeApi, pods: list[Pod], channel: grpc.Channel
) -> None:
    api.put(endpoint_slice(pods[0].port, ready=False))
    eventually(lambda: {greet(channel) for _ in range(4)} == {"pod-2"}, "only the ready one is called")
    api.put(endpoint_slice(pods[1].port, ready=False))
    eventually(lambda: status_of(channel)[0] is grpc.StatusCode.UNAVAILABLE, "nobody is left")
    api.put(endpoint_slice(pods[0].port))
    eventually(lambda: status_of(channel)[0] is grpc.StatusCode.OK, "it is back")


def test_an_auth_service_of_the_cluster_refuses_the_calls_that_it_protects(
    gateway: Gateway, api: KubeApi, channel: grpc.Channel
) -> None:
    auth = mapping("auth") | {
        "kind": "AuthService",
        "spec": {"auth_service": "auth:50051", "proto": "grpc", "protocol_version": "v3"},
    }
    api.put(auth)
    eventually(lambda: status_of(channel)[0] is grpc.StatusCode.UNAVAILABLE, "it cannot be asked")
    assert "AuthService auth.default" in status_of(channel)[1]
    api.delete("AuthService", "default", "auth")
    eventually(lambda: status_of(channel)[0] is grpc.StatusCode.OK, "it is gone")


def test_a_hundred_changes_at_once_end_at_the_last_and_fail_nothing(
    gateway: Gateway, api: KubeApi, pods: list[Pod], channel: grpc.Channel
) -> None:
    with running_pods("pod-3") as (third,), traffic(gateway) as load:
        for _ in range(50):
            api.put(endpoint_slice(third.port))
            remove_pod(api, third.port)
        api.put(endpoint_slice(third.port))
        remove_pod(api, pods[0].port)
        eventually(lambda: gateway.pod_ports() == {pods[1].port, third.port}, "the last state is reached")
        eventually(lambda: Counter(greet(channel) for _ in range(8)) == {"pod-2": 4, "pod-3": 4}, "and served")
        load.end()
    assert load.faults == []


def test_a_service_that_gives_way_to_another_with_its_mapping_fails_no_rpc(
    gateway: Gateway, api: KubeApi, pods: list[Pod]
) -> None:
    slices = {name: [endpoint_slice(pod.port, service=name) for pod in pods] for name in ("grpcserver", "other")}
    with traffic(gateway, clients=3) as load, traffic(gateway, clients=1, reconnect=True) as short:
        for old, new in [("grpcserver", "other"), ("other", "grpcserver")] * 10:
            gone = [("EndpointSlice", NAMESPACE, each["metadata"]["name"]) for each in slices[old]]
            api.swap([("Service", NAMESPACE, old), *gone], [service(new), *slices[new], mapping(service=new)])
            eventually(lambda: f"{new}.{NAMESPACE}" in str(gateway.diagnostics("route_info")), "it serves")  # noqa: B023
        for running in (load, short):
            running.end()
    assert load.faults + short.faults == []


@pytest.mark.parametrize("late", ["Mapping", "Service", "EndpointSlice"])
def test_a_service_that_gives_way_fails_no_rpc_though_the_watch_of_one_kind_is_late(
    late: str, gateway: Gateway, api: KubeApi, pods: list[Pod]
) -> None:
    api.late_s[late] = 0.4
    slices = {name: [endpoint_slice(pod.port, service=name) for pod in pods] for name in ("grpcserver", "other")}
    with traffic(gateway, clients=1) as load:
        for old, new in [("grpcserver", "other"), ("other", "grpcserver")]:
            gone = [("EndpointSlice", NAMESPACE, each["metadata"]["name"]) for each in slices[old]]
            api.swap([("Service", NAMESPACE, old), *gone], [service(new), *slices[new], mapping(service=new)])
            eventually(lambda: f"{new}.{NAMESPACE}" in str(gateway.diagnostics("route_info")), "it serves")  # noqa: B023
        load.end()
    assert load.faults == []


def test_all_pods_are_restarted_under_load_and_no_rpc_fails(gateway: Gateway, api: KubeApi, pods: list[Pod]) -> None:
    with ExitStack() as stack, traffic(gateway, clients=3) as load, traffic(gateway, 1, reconnect=True) as short:
        for number, old in enumerate(pods, 3):
            # As Kubernetes does: a new pod gets ready, the old one is marked and told to end, then gone.
            (new,) = stack.enter_context(running_pods(f"pod-{number}"))
            api.put(endpoint_slice(new.port))
            eventually(lambda: load.answers[f"pod-{number}"] > 3, "the new pod works")  # noqa: B023
            api.put(endpoint_slice(old.port, ready=False, terminating=True))
            # A preStop hook holds the pod until everybody has heard of it; here its last RPC is waited for.
            eventually(lambda: old.port not in gateway.pod_ports(), "the gateway has heard")  # noqa: B023
            old.stop(10)
            remove_pod(api, old.port)
        before = load.calls
        eventually(lambda: load.calls > before + 20, "traffic flows")
        for running in (load, short):
            running.end()
    assert load.faults + short.faults == []
    assert {"pod-3", "pod-4"} < set(load.answers)


# --- the API server's bad days


def refuse_everything(status: int) -> Callable[[KubeApi], None]:
    def bad_day(api: KubeApi) -> None:
        api.refuse(status)
        api.drop_connections()

    return bad_day


def fall_silent(api: KubeApi) -> None:
    api.silent_watches = api.hang_lists = True


PAUSE_S = 0.01
"""Such a day lasts for seconds, which RPCs without a pause would fill with work."""
BAD_DAYS = {
    "500": refuse_everything(500),
    "403": refuse_everything(403),
    "silent": fall_silent,
    "down": KubeApi.stop,
}


@pytest.mark.parametrize("day", BAD_DAYS)
def test_rpcs_go_on_while_the_api_server_does_not_answer_and_its_age_is_told(
    day: str, alone: Gateway, api: KubeApi
) -> None:
    with traffic(alone, clients=2, pause_s=PAUSE_S) as load:
        BAD_DAYS[day](api)
        eventually(lambda: alone.metric("source_age_seconds", source="kubernetes Mapping") > 1, alone.log)
        assert alone.is_ready()
        assert "last contact" in alone.get("/ambassador/v0/check_ready")[1]
        assert "kubernetes Mapping" in alone.get("/ambassador/v0/diag/")[1]
        load.end()
    assert load.faults == []


@pytest.mark.parametrize("day", ["500", "403", "down"])
def test_when_the_api_server_is_back_what_happened_meanwhile_is_known(
    day: str, alone: Gateway, api: KubeApi, pods: list[Pod]
) -> None:
    with traffic(alone, clients=1, pause_s=PAUSE_S) as load:
        BAD_DAYS[day](api)
        remove_pod(api, pods[0].port)
        api.put(mapping("late", "/late.S/"))
        api.compact()
        api.accept()
        api.start()
        eventually(lambda: alone.pod_ports() == {pods[1].port}, alone.log)
        eventually(lambda: len(alone.diagnostics("route_info")) == 2, alone.log)
        load.end()
    assert load.faults == []


def test_a_server_that_forgets_history_and_closes_every_watch_is_followed(
    alone: Gateway, api: KubeApi, pods: list[Pod]
) -> None:
    with (
        alone.channel() as channel,
        traffic(alone, clients=1, pause_s=PAUSE_S) as load,
        running_pods("pod-3") as (third,),
    ):
        api.close_watches_after_s = 1.0
        api.drop_connections()
        for number in range(3):
            api.send_error(410, "EndpointSlice")
            api.compact()
            (api.put(endpoint_slice(third.port)) if number % 2 == 0 else remove_pod(api, third.port))
            wanted = {pod.port for pod in pods} | ({third.port} if number % 2 == 0 else set())
            eventually(lambda: alone.pod_ports() == wanted, alone.log)  # noqa: B023
        eventually(lambda: "pod-3" in {greet(channel) for _ in range(3)}, "served")
        load.end()
    assert load.faults == []


def test_a_kind_that_is_not_installed_is_picked_up_when_it_appears(
    api: KubeApi, pods: list[Pod], tmp_path: Path
) -> None:
    put_greet(api, [pod.port for pod in pods])
    api.uninstall("Mapping")
    with gateway_on(api, tmp_path) as gateway, gateway.channel() as channel:
        assert status_of(channel)[0] is grpc.StatusCode.UNIMPLEMENTED
        assert any("Mapping" in notice["message"] for notice in gateway.diagnostics("notices"))
        api.install("Mapping")
        api.put(mapping())
        eventually(lambda: status_of(channel)[0] is grpc.StatusCode.OK, gateway.log)


def test_it_is_not_ready_before_the_api_server_has_answered(api: KubeApi, pods: list[Pod], tmp_path: Path) -> None:
    put_greet(api, [pod.port for pod in pods])
    api.refuse(500, "Mapping")
    with gateway_on(api, tmp_path, ready=False) as gateway:
        gateway.wait_for_admin()
        eventually(lambda: "Mapping" in gateway.get("/ambassador/v0/check_ready")[1], gateway.log)
        assert gateway.get("/ambassador/v0/check_ready")[0] == 503
        assert gateway.get("/ambassador/v0/check_alive")[0] == 200
        api.accept()
        gateway.wait_until_ready()
        with gateway.channel() as channel:
            assert greet(channel)
