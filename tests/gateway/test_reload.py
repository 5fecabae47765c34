"""Files change under a running gateway: good changes are served at once, bad ones change nothing but the problems."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from dataplane.waiting import eventually

from examples.greet.server import Pod
from gateway.harness import HOST, Gateway, Stream, greet, running_gateway, running_pods, status_of, traffic
from gateway.objects import (
    Directory,
    endpoint_slice,
    endpoints,
    mapping,
    put_greet,
    remove_pod,
    resolver,
    service,
)
from grpcgw.listeners.data_ports import HeldPorts


@pytest.fixture
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with gateway.channel() as channel:
        yield channel


def is_served(channel: grpc.Channel, path: str) -> bool:
    return status_of(channel, path)[0] is not grpc.StatusCode.UNIMPLEMENTED


def test_a_saved_mapping_is_served_soon(
    gateway: Gateway, directory: Directory, channel: grpc.Channel, record_property: Callable[[str, object], None]
) -> None:
    delays_s = []
    for number in range(5):
        directory.put(mapping(f"m{number}", f"/p{number}.S/", rewrite="/greet.GrpcService/"))
        saved_s = time.monotonic()
        eventually(lambda: is_served(channel, f"/p{number}.S/Greet"), gateway.log)  # noqa: B023 - ends in the round
        delays_s.append(time.monotonic() - saved_s)
        assert status_of(channel, f"/p{number}.S/Greet") == (grpc.StatusCode.OK, "")
    record_property("saved_to_served_ms", round(1000 * statistics.median(delays_s)))


def test_a_broken_file_changes_nothing_but_the_problems(
    gateway: Gateway, directory: Directory, channel: grpc.Channel
) -> None:
    version, file = gateway.version(), directory.file("Mapping", "default", "grpcserver")
    good = file.read_text()
    file.write_text("kind: Mapping\nspec: [never: closed\n")
    eventually(gateway.errors, "the error is shown")
    assert f"{file.name}:3" in gateway.errors()[0] or f"{file.name}:2" in gateway.errors()[0], gateway.errors()
    assert {greet(channel) for _ in range(4)} == {"pod-1", "pod-2"}
    assert gateway.version() == version
    file.write_text(good)
    eventually(lambda: not gateway.errors(), "the error is gone")
    assert gateway.version() == version


def test_a_half_written_file_is_not_served(gateway: Gateway, directory: Directory, channel: grpc.Channel) -> None:
    version, file = gateway.version(), directory.file("Mapping", "default", "grpcserver")
    text = file.read_text()
    file.write_text(text[: text.index("prefix:") + len("prefix: /greet.Gr")] + "\n  \t: {")
    eventually(gateway.errors, "the error is shown")
    assert greet(channel)
    assert gateway.version() == version


def test_a_wrong_value_keeps_the_last_good_version_and_says_where_it_is(
    gateway: Gateway, directory: Directory, channel: grpc.Channel
) -> None:
    directory.put(mapping(timeout_ms="soon"))
    eventually(gateway.errors, "the error is shown")
    (error,) = gateway.errors()
    assert "Mapping grpcserver.default" in error
    assert "timeout_ms" in error
    assert f"{directory.file('Mapping', 'default', 'grpcserver').name}:" in error
    assert greet(channel)


def test_a_mapping_whose_resolver_is_unknown_is_left_out_alone(
    gateway: Gateway, directory: Directory, channel: grpc.Channel
) -> None:
    directory.put(mapping("other", "/other.S/") | {"spec": mapping("other", "/other.S/")["spec"] | {"resolver": "who"}})
    eventually(gateway.errors, "the error is shown")
    assert "who" in gateway.errors()[0]
    assert not is_served(channel, "/other.S/Greet")
    assert greet(channel)


def test_a_deleted_mapping_is_gone_and_a_stream_on_it_goes_on(
    gateway: Gateway, directory: Directory, channel: grpc.Channel
) -> None:
    with Stream(channel) as stream:
        host = stream.echo()
        directory.delete("Mapping", "default", "grpcserver")
        eventually(lambda: not is_served(channel, "/greet.GrpcService/Greet"), "the Mapping is gone")
        assert stream.echo() == host
        stream.close()
        assert stream.status() == (grpc.StatusCode.OK, "")


def test_two_mappings_with_the_same_prefix_share_its_rpcs(
    gateway: Gateway, directory: Directory, channel: grpc.Channel
) -> None:
    with running_pods("canary") as (pod,):
        for obj in (service("canary"), endpoint_slice(pod.port, service="canary"), mapping("canary", service="canary")):
            directory.put(obj)
        eventually(lambda: pod.port in gateway.pod_ports(), "the second service is known")
        eventually(lambda: greet(channel) == "canary", "the second Mapping is served")
        assert Counter(greet(channel) == "canary" for _ in range(20)) == {True: 10, False: 10}
        assert gateway.errors() == []


def test_pods_come_and_go_without_a_new_configuration(
    gateway: Gateway, directory: Directory, pods: list[Pod], channel: grpc.Channel
) -> None:
    version = gateway.version()
    with running_pods("pod-3") as (third,), Stream(channel) as stream:
        host = stream.echo()
        directory.put(endpoint_slice(third.port))
        eventually(lambda: greet(channel) == "pod-3", "the third pod gets RPCs")
        for pod in pods:
            remove_pod(directory, pod.port)
        eventually(lambda: {greet(channel) for _ in range(3)} == {"pod-3"}, "the others get none")
        assert stream.echo() == host
        remove_pod(directory, third.port)
        eventually(lambda: status_of(channel)[0] is grpc.StatusCode.UNAVAILABLE, "nobody is left")
        assert "no ready pod of grpcserver.grpcserver" in status_of(channel)[1]
        stream.close()
        assert stream.status() == (grpc.StatusCode.OK, "")
    assert gateway.version() == version


def test_an_empty_directory_is_a_complete_configuration(directory: Directory, gateway: Gateway) -> None:
    for file in directory.path.iterdir():
        file.unlink()
    eventually(lambda: gateway.diagnostics("route_info") == [], "nothing is served")
    assert gateway.is_ready()
    with gateway.channel() as channel:
        assert not is_served(channel, "/greet.GrpcService/Greet")
        put_greet(directory, [])
        eventually(lambda: is_served(channel, "/greet.GrpcService/Greet"), "it is served again")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_service_renamed_with_its_mapping_fails_no_rpc(workers: int, pods: list[Pod], tmp_path: Path) -> None:
    directory = Directory(tmp_path / "config")
    directory.put(resolver())

    def name_everything(name: str) -> None:
        objects = (service(name), endpoints([pod.port for pod in pods], name), mapping(name, service=name))
        (directory.path / "greet.yaml").write_text(yaml.safe_dump_all(objects))

    name_everything("before")
    with (
        running_gateway("--config", str(directory.path), folder=tmp_path, workers=workers) as gateway,
        traffic(gateway, clients=3) as load,
        traffic(gateway, clients=1, reconnect=True) as short,
    ):
        for name in ("after", "before") * 10:
            name_everything(name)
            eventually(lambda: name in str(gateway.diagnostics("route_info")), "it is served")  # noqa: B023
        for running in (load, short):
            running.end()
        assert gateway.errors() == []
    assert load.faults + short.faults == []


def test_mappings_that_lead_nowhere_are_problems_until_they_do(gateway: Gateway, directory: Directory) -> None:
    port = (refusing := HeldPorts(HOST)).hold(0)
    directory.put(mapping("lost", prefix="/lost.Service/", service="lost"))
    eventually(lambda: has_error(gateway, "lost", "no Service lost in namespace grpcserver"))
    directory.put(service("lost"))
    eventually(lambda: not gateway.errors(), "no pod is ready yet, which is no error")
    directory.put(endpoint_slice(port, service="lost"))
    eventually(lambda: has_error(gateway, "lost", f"1 of 1 pod cannot be connected to: 127.0.0.1:{port} ("))
    (pod,) = next(pods for name, pods in gateway.diagnostics("pods").items() if name.startswith("lost"))
    assert (pod["state"], "refused" in pod["last_error"]) == ("failing", True)
    refusing.release()
    found = Pod("found", port=port)
    try:
        eventually(lambda: not gateway.errors())
    finally:
        found.stop(0)


def has_error(gateway: Gateway, name: str, words: str) -> bool:
    return any(name in error and words in error for error in gateway.errors())
