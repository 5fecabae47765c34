"""Gateway states written by hand, and a real admin server that shows them, for the tests of the admin port."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from grpcgw.admin.access import OPEN, AdminAccess
from grpcgw.admin.allowed_hosts import USUAL_HOSTS, KnownHosts
from grpcgw.admin.http_connections import USUAL_LIMITS, Limits
from grpcgw.admin.server import AdminServer
from grpcgw.admin.state import GatewayState, ListenerState
from grpcgw.discovery.sources.key_sets import KeySetStatus
from grpcgw.discovery.store import SourceStatus
from grpcgw.model.cluster import Cluster, ResolverKind, ServiceRef
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.model.listener import ServerCertificate
from grpcgw.model.match import MatchKind, PathMatch
from grpcgw.model.objects import ObjectKey, Problem, Severity
from grpcgw.model.route import Destination, Route, WeightedCluster
from grpcgw.model.snapshot import Snapshot
from grpcgw.telemetry.report import LATENCY_BUCKETS_S, MethodReport, PodReport, WorkerReport
from tests.jwts import keys_of, make_signer

NOW_S = 1_760_000_000.0
GREET = "greet-endpoint"
EDGE = ServerCertificate("edge.default", ("api.example.com",), b"CHAIN-PEM", b"SECRET-PEM", not_after_s=NOW_S + 86_400)


def make_cluster(
    name: str, service: str = "grpcserver", resolver: ResolverKind = ResolverKind.KUBERNETES_ENDPOINT
) -> Cluster:
    reference = ServiceRef(service, service, 50051, f"{service}.{service}")
    return Cluster(name, resolver, "grpcserver-endpoint-resolver", reference)


def make_destination(name: str, cluster: str, **settings: object) -> Destination:
    key = ObjectKey("Mapping", "default", name)
    return Destination(key, (WeightedCluster(cluster),), where=f"examples/greet/{name}.yaml:7", **settings)  # type: ignore[arg-type]


def make_route(
    prefix: str, *destinations: Destination, kind: MatchKind = MatchKind.PREFIX, precedence: int = 0
) -> Route:
    return Route(f"Mapping {prefix} precedence={precedence}", PathMatch(kind, prefix), precedence, destinations)


def make_method(
    mapping: str, method: str, codes: dict[int, int], *, service: str = "greet.GrpcService", in_flight: int = 0
) -> MethodReport:
    """All RPCs took between 1 and 2.5 ms, 2 ms on average."""
    finished = sum(codes.values())
    bucket = LATENCY_BUCKETS_S.index(0.0025)
    counts = tuple(finished if index == bucket else 0 for index in range(len(LATENCY_BUCKETS_S) + 1))
    return MethodReport(mapping, service, method, codes, counts, 0.002 * finished, in_flight)


def make_worker(worker: int, pods: tuple[PodReport, ...], methods: tuple[MethodReport, ...]) -> WorkerReport:
    return WorkerReport(worker, 4100 + worker, "http2", "3fa91c07be52", NOW_S - 3700, methods, pods)


def greet_state() -> GatewayState:
    """The greet example after a while: one route, two ready pods, two workers, everything well."""
    method = make_method("grpcserver.default", "Greet", {0: 500}, in_flight=1)
    first, second = (
        PodReport(GREET, address, PodState.READY, in_flight, 250 + in_flight, 0, 0.84)
        for address, in_flight in (("10.244.1.7:50051", 1), ("10.244.2.9:50051", 0))
    )
    return GatewayState(
        now_s=NOW_S,
        started_at_s=NOW_S - 3725,
        hostname="grpcgw-6d5f7c9b8-x2k4q",
        ambassador_id="default",
        ambassador_namespace="grpcgw",
        namespace="",
        ready=True,
        draining=False,
        snapshot=Snapshot(
            version="3fa91c07be52",
            routes=(
                make_route("/greet.GrpcService/", make_destination("grpcserver", GREET, rewrite="/greet.GrpcService/")),
            ),
            clusters={GREET: make_cluster(GREET)},
        ),
        configured_at_s=NOW_S - 130,
        compile_ms=1.7,
        endpoints={
            GREET: EndpointSet(
                (
                    Endpoint("10.244.1.7", 50051, "grpcserver-5c9d8-abcde", "east"),
                    Endpoint("10.244.2.9", 50051, "grpcserver-5c9d8-fghij"),
                )
            )
        },
        sources=(SourceStatus("directory examples/greet", True, NOW_S - 2),),
        workers=(make_worker(0, (first, second), (method,)), make_worker(1, (first, second), (method,))),
        listeners=(ListenerState("0.0.0.0:8080", "h2c"), ListenerState("0.0.0.0:8443", "tls", "self-signed")),
    )


def empty_state() -> GatewayState:
    """Nothing read yet: the gateway has just started."""
    return replace(
        greet_state(),
        ready=False,
        snapshot=Snapshot(version="none"),
        configured_at_s=0.0,
        endpoints={},
        sources=(SourceStatus("kubernetes Mapping", False, 0.0, False, "connection refused"),),
        workers=(),
    )


def problem_state() -> GatewayState:
    """Two errors and a notice; a canary with a failing pod, a Service that does not exist."""
    state = greet_state()
    clusters = {
        GREET: make_cluster(GREET),
        "canary": make_cluster("canary", "canary"),
        "gone": make_cluster("gone", "gone"),
        "dns": make_cluster("dns", "billing", ResolverKind.KUBERNETES_SERVICE),
    }
    routes = (
        make_route(
            "/greet.GrpcService/Greet",
            make_destination("exact", "gone", timeout_ms=1500, idle_timeout_ms=None),
            kind=MatchKind.EXACT,
            precedence=10,
        ),
        make_route(
            "/greet.GrpcService/",
            make_destination("grpcserver", GREET, weight=80),
            make_destination("canary", "canary", weight=20, rewrite="/greet.v2.GrpcService/"),
        ),
        make_route("/billing.Invoices/", make_destination("billing", "dns", idle_timeout_ms=3_600_000)),
    )
    canary_up = PodReport("canary", "10.244.3.4:50051", PodState.READY, 3, 1203, 200, 14.2)
    canary_down = PodReport(
        "canary", "10.244.3.5:50051", PodState.FAILING, 0, 40, 40, 0.0, "connect: connection refused"
    )
    canary_flaky = replace(canary_up, state=PodState.CONNECTING, last_error="keepalive timed out")
    leaving = PodReport(GREET, "10.244.9.1:50051", PodState.DRAINING, 2, 90_210, 0, 1.1)
    greet = state.workers[0].pods[0]
    methods = (
        make_method("grpcserver.default", "Greet", {0: 1_204_331, 14: 12}, in_flight=4),
        make_method("grpcserver.default", "Chat", {0: 12, 1: 3}, in_flight=2),
        make_method("canary.default", "Greet", {0: 903, 14: 240, 13: 60}, in_flight=3),
        make_method("", "other", {12: 7}, service="other"),
    )
    return replace(
        state,
        snapshot=replace(
            state.snapshot,
            routes=routes,
            clusters=clusters,
            certificates=(
                ServerCertificate(
                    "edge.default", ("api.example.com",), b"CHAIN-PEM", b"SECRET-PEM", b"", NOW_S + 86_400
                ),
            ),
        ),
        problems=(
            Problem(
                Severity.NOTICE,
                "rewrite / replaces the service name: a gRPC server will not know the method",
                "examples/greet/old.yaml:11",
                ObjectKey("Mapping", "default", "old"),
                "spec.rewrite",
            ),
            Problem(
                Severity.ERROR,
                "no resolver is named greet-endpint; known are grpcserver-endpoint-resolver, endpoint",
                "examples/greet/typo.yaml:9",
                ObjectKey("Mapping", "default", "typo"),
                "spec.resolver",
            ),
            Problem(Severity.ERROR, "not YAML: mapping values are not allowed here", "examples/greet/broken.yaml:3"),
        ),
        endpoints={
            **state.endpoints,
            "canary": EndpointSet(
                (Endpoint("10.244.3.4", 50051, "canary-7f6-aaaaa"), Endpoint("10.244.3.5", 50051, "canary-7f6-bbbbb"))
            ),
            "gone": EndpointSet((), "Service gone does not exist in namespace gone"),
        },
        key_sets=(
            KeySetStatus(
                "https://issuer.example/jwks",
                keys_of(make_signer()),
                NOW_S - 40,
                failures=2,
                early=3,
                last_fault="its answer is 503",
                failed_at_s=NOW_S - 300,
            ),
            KeySetStatus(
                "https://away.example/jwks",
                failures=7,
                fault="no answer",
                last_fault="no answer",
                failed_at_s=NOW_S - 1,
            ),
        ),
        sources=(
            SourceStatus("kubernetes EndpointSlice", True, NOW_S - 95, False, "connection lost; trying again in 4 s"),
            SourceStatus("kubernetes Mapping", True, NOW_S - 3),
        ),
        workers=(
            make_worker(0, (greet, canary_up, canary_down, leaving), methods),
            replace(make_worker(1, (canary_flaky, canary_down), ()), snapshot_version="0b17aa90cd11", restarts=2),
        ),
        configuration_errors_total=5,
        worker_restarts_total=2,
    )


def many_routes_state(count: int) -> GatewayState:
    """`count` routes over fifty services of three pods each."""
    state = greet_state()
    names = [f"team{number % 50:02}" for number in range(min(count, 50))]
    pods = {
        name: EndpointSet(tuple(Endpoint(f"10.1.{index}.{pod}", 50051, f"{name}-{pod}") for pod in range(1, 4)))
        for index, name in enumerate(names)
    }
    reports = tuple(
        PodReport(name, str(pod), PodState.READY, 0, 1000 + index, index, 1.5)
        for index, name in enumerate(names)
        for pod in pods[name].endpoints
    )
    routes = tuple(
        make_route(
            f"/{names[number % 50]}.v1.Service{number:03}/", make_destination(f"route-{number:03}", names[number % 50])
        )
        for number in range(count)
    )
    methods = tuple(
        make_method(f"route-{number:03}.default", "Get", {0: 37 * number}, service=f"Service{number:03}")
        for number in range(count)
    )
    return replace(
        state,
        snapshot=replace(state.snapshot, routes=routes, clusters={name: make_cluster(name, name) for name in names}),
        endpoints=pods,
        workers=(make_worker(0, reports, methods),),
    )


@dataclass
class ShownState:
    """A provider whose state a test may change while the server runs."""

    current: GatewayState

    async def state(self) -> GatewayState:
        return self.current


@dataclass
class RunningAdmin:
    shown: ShownState
    url: str


@contextlib.contextmanager
def run_admin(
    state: GatewayState,
    port: int = 0,
    hosts: KnownHosts = USUAL_HOSTS,
    limits: Limits = USUAL_LIMITS,
    access: AdminAccess = OPEN,
) -> Iterator[RunningAdmin]:
    """An admin server on loopback, in a thread of its own so that blocking clients can be used against it."""
    shown = ShownState(state)
    server = AdminServer(shown, "127.0.0.1", port, hosts, limits, access)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="admin under test")
    thread.start()
    try:
        bound = asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
        yield RunningAdmin(shown, f"http://127.0.0.1:{bound}")
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
