"""A gateway's data plane with its pods and clients around it, all in this process, and the check that nothing is left.

`DIFFERENCES` is the one list of what an engine does otherwise than the design says, by the name of the test that shows
it; each has its section in docs/data-plane.md. The listed tests must fail: an entry that no longer holds is an error.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio
import pytest

from dataplane.pods import Behaviour, Pod
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import Script, ScriptedPod, Stream
from dataplane.waiting import eventually
from grpcgw.engines.contract import Engine, ServerOptions, quiet_core
from grpcgw.engines.generic_handler.engine import GenericHandlerEngine
from grpcgw.engines.http2.engine import Http2Engine
from grpcgw.model.cluster import Cluster, ResolverKind, ServiceRef
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.listener import Listener, SecurityModel, ServerCertificate, Transport
from grpcgw.model.match import MatchKind, PathMatch
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination, Route, WeightedCluster
from grpcgw.model.snapshot import Snapshot
from grpcgw.policy.catalogue import CATALOGUE, Catalogue
from grpcgw.telemetry.counters import OTHER

quiet_core()

ENGINES = {"http2": Http2Engine, "generic-handler": GenericHandlerEngine}

ON_GRPC_CORE = ("generic-handler",)
on_grpc_core = pytest.mark.parametrize("lab", ON_GRPC_CORE, indirect=True)
"""For a test of what grpc core decides. What the http2 engine does instead has tests of its own."""
on_http2 = pytest.mark.parametrize("lab", ["http2"], indirect=True)
"""For what grpc core does not do within the time of a test, or not always: docs/data-plane.md says what."""

_HIDDEN_AUTHORITY = "grpcio's public API does not show the client's :authority"
_CORE_REFUSES = "grpc core refuses the RPC itself, with a status of its own"
_UNPACKED = "grpc core unpacks messages, and sends them on uncompressed"
_TAKEN = "grpc core takes what HTTP/2 forbids; the gateway cleans it or refuses it (test_admission.py)"
_HOPS_OWN = "grpc core shows neither encodings nor content type, and each hop has its own"
_NO_PROOF = "nothing in grpcio's public API tells core's own words about a stream from a pod's"
_BY_CORE = {
    "test_weighted_round_robin_follows_binary_load_reports": "grpc core keeps endpoint-load-metrics-bin to itself",
    "test_what_the_gateway_refuses_for_a_header_is_logged_with_its_reason": _CORE_REFUSES,
    "test_a_packed_message_counts_as_it_crosses": _UNPACKED,
    "test_compressed_messages_and_their_encoding_cross_both_ways": _UNPACKED,
    "test_content_types_cross_both_ways": _HOPS_OWN,
    "test_user_agent_and_encodings_are_the_clients": _HOPS_OWN,
    "test_binary_values_joined_by_commas_cross_as_several": "grpc core takes them for one that is no base64",
    "test_a_request_with_fields_that_http2_forbids_is_reset": _TAKEN,
    "test_a_request_with_wrong_pseudo_headers_is_reset": _TAKEN,
    "test_an_answer_with_fields_that_http2_forbids_is_a_bad_response": _TAKEN,
    "test_host_stands_in_for_an_absent_authority_and_must_not_contradict_one": "grpc core drops host",
    "test_headers_ahead_of_an_answer_stay_behind": "grpc core takes the first of them for the answer's",
    "test_lines_of_forwarded_for_are_one_list": "grpc core keeps the last",
    "test_a_request_that_is_no_grpc_gets_an_answer_of_http": "grpc core does not show the content type",
}
"""What grpc core decides."""
DIFFERENCES: dict[str, dict[str, str]] = {
    "http2": {},
    "generic-handler": {
        **_BY_CORE,
        **dict.fromkeys(
            (
                "test_refused_stream_goes_to_another_pod_with_all_its_messages_once",
                "test_stream_still_open_is_retried_as_well",
                "test_second_refusal_is_the_answer",
                "test_refusal_of_the_only_pod_is_the_answer",
                "test_second_message_makes_a_call_unrepeatable",
                "test_stream_above_the_last_of_a_goaway_goes_to_another_pod",
                "test_pod_that_fails_before_its_headers",
                "test_pod_status_that_is_no_number_is_unknown",
                "test_metadata_of_a_pod_above_the_limit_is_refused",
                "test_an_original_that_is_tried_again_is_copied_once",
            ),
            _NO_PROOF,
        ),
        "test_metadata_keeps_the_order_of_different_keys": "grpc.aio groups metadata by key",
        "test_authority_is_the_clients": _HIDDEN_AUTHORITY,
        "test_host_decides_with_its_port_and_without": _HIDDEN_AUTHORITY,
        "test_host_and_headers_and_path_hold_together": _HIDDEN_AUTHORITY,
        "test_the_clients_authority_can_be_told_to_the_pod": _HIDDEN_AUTHORITY,
        "test_an_authority_that_is_no_host_reaches_no_pod": _HIDDEN_AUTHORITY,
        "test_the_host_of_the_name_decides": _HIDDEN_AUTHORITY,
        "test_other_names_are_served_beside_one_that_is_left_out": _HIDDEN_AUTHORITY,
        "test_a_port_serves_the_names_of_its_hosts_alone": _HIDDEN_AUTHORITY,
        "test_a_host_that_selects_mappings_serves_them_alone": _HIDDEN_AUTHORITY,
    },
}

# grpc.aio's poller thread, one for the whole process, ends only when the last of its objects was collected: keep it.
grpc.aio.init_grpc_aio()

CLIENT_ARGUMENTS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
]


def mapping(
    prefix: str = "/test.Pod/",
    name: str = "test",
    cluster: str = "pods",
    kind: MatchKind = MatchKind.PREFIX,
    rewrite: str | None = None,
    timeout_ms: int | None = None,
    idle_timeout_ms: int | None = None,
) -> Route:
    """A Mapping of its own: a Route with one Destination."""
    destination = Destination(
        ObjectKey("Mapping", "default", name),
        (WeightedCluster(cluster),),
        rewrite=rewrite,
        timeout_ms=timeout_ms,
        idle_timeout_ms=idle_timeout_ms,
    )
    return Route(f"Mapping {prefix}", PathMatch(kind, prefix), 0, (destination,))


def snapshot(*routes: Route) -> Snapshot:
    used = [each for route in routes for each in (*route.all_destinations(), *route.policy_upstreams())]
    names = {one.cluster for destination in used for one in destination.clusters}
    clusters = {
        name: Cluster(name, ResolverKind.KUBERNETES_ENDPOINT, "endpoint", ServiceRef(name, "test", 50051))
        for name in sorted(names)
    }
    return Snapshot("test", routes, clusters)


def clear_port(name: str = "clear", **fields: Any) -> Listener:
    return Listener(name, **{"port": 0, "transport": Transport.CLEAR, "security_model": SecurityModel.XFP, **fields})


def tls_port(*certificates: ServerCertificate, name: str = "tls", **fields: Any) -> Listener:
    return clear_port(name, **{"transport": Transport.TLS, "certificates": certificates, **fields})


class Gateway:
    """One engine, serving."""

    def __init__(
        self,
        engine: str,
        configuration: Snapshot,
        pods: Mapping[str, Iterable[Pod | ScriptedPod]],
        drain_time_s: float,
        ports: Iterable[Listener],
        options: ServerOptions,
        catalogue: Catalogue,
    ) -> None:
        self.engine: Engine = ENGINES[engine](options, 0, drain_time_s, catalogue)
        self.serving = self.engine.serving
        self.stopped = False
        self.apply(configuration)
        for cluster, members in pods.items():
            self.set_pods(*members, cluster=cluster)
        self.engine.start(settle_s=1.0)
        self.listen(*ports)

    @property
    def address(self) -> str:
        """Of the first port."""
        return f"127.0.0.1:{self._numbers[0]}"

    @property
    def tls_address(self) -> str:
        """Of the last port."""
        return f"localhost:{self._numbers[-1]}"

    def listen(self, *ports: Listener) -> None:
        """Have these ports and no others."""
        self.engine.ports.retire(ports)
        assert not self.engine.ports.update(ports)
        self._numbers = self.engine.ports.numbers()

    def apply(self, configuration: Snapshot) -> None:
        """Swap the routing snapshot."""
        self.serving.apply(configuration, time.monotonic())

    def route(self, *routes: Route) -> None:
        """Swap the routing snapshot for one of these routes alone."""
        self.apply(snapshot(*routes))

    def set_pods(self, *pods: Pod | ScriptedPod, cluster: str = "pods") -> None:
        """Swap the endpoint set."""
        endpoints = EndpointSet(tuple(pod.endpoint for pod in pods))
        self.serving.set_endpoints(cluster, endpoints, time.monotonic())

    def wait_for_ready_pods(self, count: int) -> None:
        eventually(
            lambda: [p.state for p in self.serving.clusters.pod_reports()].count("ready") == count,
            f"{count} pods ready",
        )

    def advance_balancers(self, ahead_s: float) -> None:
        """Show the balancers the time it will be in `ahead_s`; the engine's own, earlier times then change nothing."""
        self.serving.clusters.refresh(time.monotonic() + ahead_s)

    def pod_in_flight(self) -> int:
        return sum(report.in_flight for report in self.serving.clusters.pod_reports())

    def in_flight(self) -> int:
        return sum(report.in_flight for report in self.serving.counters.reports())

    def codes(self, method: str) -> dict[int, int]:
        """Statuses recorded so far for one method, and for those that no pod has answered."""
        codes: Counter[int] = Counter()
        for report in self.serving.counters.reports():
            codes.update(report.codes if report.method in (method, OTHER) else {})
        return codes

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.engine.stop()


class Lab:
    """Makes gateways, pods and clients, and takes them down again in an order in which each can end well."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._sockets_before = _sockets()
        self._threads_before = set(threading.enumerate())
        self._clients, self._gateways, self._pods = ExitStack(), [], ExitStack()

    @property
    def on_grpc_core(self) -> bool:
        return self.engine in ON_GRPC_CORE

    def reason_after_headers(self, reason: str) -> str | None:
        """`reason`, where the client gets it although the pod has sent headers: on grpc core the end of a stream then
        looks like a status that the pod wrote."""
        return None if self.on_grpc_core else reason

    def pod(
        self,
        name: str = "pod",
        methods: Mapping[str, Behaviour] | None = None,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> Pod:
        pod = Pod(name, methods, port, credentials)
        self._pods.callback(pod.stop)
        return pod

    def scripted_pod(
        self,
        script: Script = Stream.wait_gone,
        port: int = 0,
        deaf: bool = False,
        most_streams: int = 100,
        host: str = "127.0.0.1",
    ) -> ScriptedPod:
        pod = ScriptedPod(script, port, deaf, most_streams, host)
        self._pods.callback(pod.stop)
        return pod

    def gateway(
        self,
        *pods: Pod | ScriptedPod,
        routes: Iterable[Route] | None = None,
        configuration: Snapshot | None = None,
        clusters: Mapping[str, Iterable[Pod | ScriptedPod]] | None = None,
        drain_time_s: float = 30.0,
        max_concurrent_streams: int = 1000,
        max_metadata_bytes: int = 65_536,
        max_connection_age_s: float | None = None,
        max_connection_age_grace_s: float | None = None,
        certificate: ServerCertificate | None = None,
        ports: Iterable[Listener] | None = None,
        catalogue: Catalogue = CATALOGUE,
    ) -> Gateway:
        """`pods` are those of the cluster `pods`, which the default route goes to.

        Without `ports` there is one for clear text and, with `certificate`, one for TLS.
        """
        options = ServerOptions(
            "127.0.0.1", max_concurrent_streams, max_metadata_bytes, max_connection_age_s, max_connection_age_grace_s
        )
        if ports is None:
            ports = (clear_port(),) if certificate is None else (clear_port(), tls_port(certificate))
        members = {"pods": pods} if clusters is None else clusters
        if configuration is None:
            configuration = snapshot(*([mapping()] if routes is None else routes))
        gateway = Gateway(self.engine, configuration, members, drain_time_s, ports, options, catalogue)
        self._gateways.append(gateway)
        return gateway

    def channel(self, gateway: Gateway, *arguments: tuple[str, int | str]) -> grpc.Channel:
        channel = grpc.insecure_channel(gateway.address, [*CLIENT_ARGUMENTS, *arguments])
        self._clients.callback(channel.close)
        return channel

    def tls_channel(self, gateway: Gateway, root_certificate: bytes) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(root_certificate)
        channel = grpc.secure_channel(gateway.tls_address, credentials, CLIENT_ARGUMENTS)
        self._clients.callback(channel.close)
        return channel

    def channel_to(
        self, port: Listener, credentials: grpc.ChannelCredentials | None = None, name: str = "localhost"
    ) -> grpc.Channel:
        """A connection of its own to one of several ports, of a client that asks for `name`."""
        options = [*CLIENT_ARGUMENTS, ("grpc.default_authority", name)]
        target = f"127.0.0.1:{port.port}"
        if credentials is None:
            channel = grpc.insecure_channel(target, options)
        else:
            options.append(("grpc.ssl_target_name_override", name))
            channel = grpc.secure_channel(target, credentials, options)
        self._clients.callback(channel.close)
        return channel

    def raw_client_to(self, port: Listener) -> RawClient:
        return RawClient(f"127.0.0.1:{port.port}")

    def raw_client(self, gateway: Gateway, initial_window: int = 1 << 20) -> RawClient:
        return self._clients.enter_context(RawClient(gateway.address, initial_window))

    def defer(self, end: Callable[[], object]) -> None:
        """Call `end` when the clients are closed."""
        self._clients.callback(end)

    def close(self) -> None:
        """End everything; fail where an RPC, thread or socket is left."""
        try:
            self._clients.close()
            for gateway in self._gateways:
                self._check_idle(gateway)
        finally:
            for gateway in self._gateways:
                gateway.stop()
            self._pods.close()
        self._check_nothing_left()

    def _check_idle(self, gateway: Gateway) -> None:
        eventually(lambda: not gateway.in_flight(), "every RPC recorded as ended")
        eventually(lambda: not gateway.pod_in_flight(), "no RPC in flight to a pod")
        eventually(lambda: not gateway.engine.active, "the engine has let go of every RPC")

    def _check_nothing_left(self) -> None:
        self._gateways.clear()
        gc.collect()
        eventually(lambda: not self._threads_left(), self._threads_left)
        eventually(lambda: not (_sockets() - self._sockets_before), "all sockets closed")

    def _threads_left(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self._threads_before]


def _sockets() -> set[str]:
    """The sockets this process has open, by inode."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # closed meanwhile, as the directory's own descriptor is
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found
