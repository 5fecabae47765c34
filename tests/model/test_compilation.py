"""Two dialects in one configuration: their routes are ordered together, equal clusters are shared, conflicts reported.

The second dialect is here alone: `PathRoute` objects, each one route to one cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from grpcgw.ambassador.compile.compiler import AMBASSADOR
from grpcgw.model.cluster import Cluster, ResolverKind, ServiceRef
from grpcgw.model.compilation import compile_configuration, merge_results
from grpcgw.model.content_hash import digest
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import Listener, SecurityModel, Transport
from grpcgw.model.match import HostKind, HostMatch, MatchKind, PathMatch
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity
from grpcgw.model.route import Destination, Route, Unenforced, WeightedCluster
from grpcgw.model.route_order import rank_route
from grpcgw.model.route_source import (
    ClusterCandidate,
    Compiled,
    CompileOptions,
    ObjectsByKey,
    Reuse,
    RouteCandidate,
    RouteSourceResult,
)
from grpcgw.model.status import Reason
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.targets import Target
from grpcgw.session.serving import Serving
from tests.compiling import mapping, obj, said
from tests.session.gateway import FakeConnection

PODS = Cluster(
    "greet.shop:50051/KubernetesEndpointResolver",
    ResolverKind.KUBERNETES_ENDPOINT,
    "pods",
    ServiceRef("greet", "shop", 50051, "greet.shop"),
)
"""The cluster that Mappings of `tests.compiling` have too."""
OTHER_PODS = Cluster(
    PODS.name, ResolverKind.KUBERNETES_ENDPOINT, "pods", ServiceRef("other", "shop", 50051, "other.shop")
)


class Compilations(Reuse):
    """How often the dialect has compiled."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(frozen=True, slots=True)
class PathRoutes:
    """A dialect with one kind: `PathRoute {path, host}`."""

    cluster: Cluster = PODS
    listeners: tuple[Listener, ...] | None = None
    name: str = "path routes"
    route_name: str = ""
    """Of all routes, instead of the names of their objects."""
    route_kinds: frozenset[str] = frozenset({"PathRoute"})
    host_path: tuple[str | int, ...] = ("spec", "host")
    seen: list[int] = field(default_factory=list)

    def compile(
        self, objects: ObjectsByKey, last_good: ObjectsByKey, options: CompileOptions, reuse: Reuse | None
    ) -> RouteSourceResult:
        before = reuse.number if isinstance(reuse, Compilations) else 0
        self.seen.append(before)
        mine = [one for one in objects.values() if one.key.kind == "PathRoute"]
        good = [one for one in mine if "path" in spec_of(one)]
        return RouteSourceResult(
            routes=tuple(self._make_route(one) for one in good),
            clusters=(ClusterCandidate(self.cluster, digest(self.cluster)),) if good else (),
            listeners=self.listeners,
            problems=tuple(
                Problem(Severity.ERROR, "has no path; left out", one.source.locate(), one.key)
                for one in mine
                if one not in good
            ),
            last_good={one.key: one for one in good},
            reuse=Compilations(before + 1),
        )

    def _make_route(self, one: KubeObject) -> RouteCandidate:
        spec = spec_of(one)
        route = Route(
            self.route_name or str(one.key),
            PathMatch(MatchKind.EXACT, str(spec["path"])),
            precedence=0,
            destinations=(Destination(one.key, (WeightedCluster(self.cluster.name),), where="here"),),
            host=HostMatch(HostKind.EXACT, str(spec["host"])) if "host" in spec else None,
        )
        return RouteCandidate(route, rank_route(route), digest(route))


def spec_of(one: KubeObject) -> dict[str, object]:
    spec = one.body["spec"]
    assert isinstance(spec, dict)
    return spec


def path_route(name: str, **spec: object) -> KubeObject:
    return obj("PathRoute", name, spec, api="test.example/v1")


def compile_both(*objects: KubeObject, second: PathRoutes | None = None, last: Compiled | None = None) -> Compiled:
    sources = (AMBASSADOR, second or PathRoutes())
    if last is None:
        return compile_configuration(sources, objects, {}, CompileOptions())
    return compile_configuration(sources, objects, last.last_good, CompileOptions(), last.reuse)


def served(compiled: Compiled) -> list[str]:
    return [str(one.key) for route in compiled.snapshot.routes for one in route.destinations]


LONG = mapping("long", prefix="/greet.GrpcService/Say")
SHORT = mapping("short", prefix="/greet.")
URGENT = mapping("urgent", prefix="/", precedence=1)
EXACT = path_route("exact", path="/greet.GrpcService/Greet")
EQUAL = path_route("equal", path="/greet.")


def test_routes_of_two_dialects_are_ordered_together() -> None:
    compiled = compile_both(SHORT, EQUAL, LONG, EXACT, URGENT)
    assert served(compiled) == [
        "Mapping urgent.shop",
        "PathRoute exact.shop",
        "Mapping long.shop",
        "PathRoute equal.shop",
        "Mapping short.shop",
    ]


def test_the_order_of_objects_changes_nothing() -> None:
    objects = [SHORT, EQUAL, LONG, EXACT, URGENT]
    assert compile_both(*objects) == compile_both(*reversed(objects))


def test_equal_clusters_of_two_dialects_are_one() -> None:
    compiled = compile_both(SHORT, EXACT)
    assert list(compiled.snapshot.clusters) == [PODS.name]
    assert not said(compiled)


def closed(compiled: Compiled) -> list[str]:
    return [route.name for route in compiled.snapshot.routes if route.left_out]


def test_a_route_to_a_cluster_with_other_contents_in_another_dialect_refuses_its_calls() -> None:
    compiled = compile_both(SHORT, EXACT, second=PathRoutes(OTHER_PODS))
    assert served(compiled) == ["Mapping short.shop"]
    assert closed(compiled) == ["PathRoute exact.shop"]
    assert compiled.snapshot.clusters[PODS.name].service.name == "greet"
    assert said(compiled) == [
        f"here: error: PathRoute exact.shop: cluster {PODS.name} has other settings in another dialect; its calls are"
        " refused"
    ]


def test_the_calls_of_a_route_that_cannot_be_served_reach_no_broader_route() -> None:
    """The broader one may have no policy that keeps people out."""
    serving = Serving(FakeConnection)
    serving.apply(compile_both(SHORT, EXACT, second=PathRoutes(OTHER_PODS)).snapshot, 0.0)
    refused = serving.route("/greet.GrpcService/Greet")
    assert isinstance(refused, Deny)
    assert (refused.reason, refused.message) == (
        Reason.ROUTE_LEFT_OUT,
        f"PathRoute exact.shop: cluster {PODS.name} has other settings in another dialect",
    )
    assert isinstance(serving.route("/greet.GrpcService/SayHello"), Target)


def test_a_route_whose_name_another_dialect_has_too_refuses_its_calls() -> None:
    name = compile_both(SHORT).snapshot.routes[0].name
    compiled = compile_both(SHORT, EXACT, path_route("again", path="/a"), second=PathRoutes(route_name=name))
    assert served(compiled) == ["Mapping short.shop"]
    assert sorted(closed(compiled)) == [f"{name} (2)", f"{name} (3)"]
    assert said(compiled) == [
        f"here: error: PathRoute {one}.shop: the name of its route, {name}, is taken by a route of another dialect;"
        " its calls are refused"
        for one in ("again", "exact")
    ]


def test_a_route_that_is_closed_changes_the_version() -> None:
    open_, shut = (compile_both(SHORT, EXACT, second=PathRoutes(pods)) for pods in (PODS, OTHER_PODS))
    assert open_.snapshot.version != shut.snapshot.version


def test_a_route_whose_policy_asks_a_cluster_with_other_contents_refuses_its_calls() -> None:
    """It would ask the pods of another service who may call."""
    own = Cluster("own", ResolverKind.KUBERNETES_ENDPOINT, "pods", ServiceRef("own", "shop", 1))
    key = ObjectKey("PathRoute", "shop", "guarded")
    asks = Unenforced(name="auth", upstreams=(Destination(key, (WeightedCluster(PODS.name),)),))
    destination = Destination(key, (WeightedCluster(own.name),), policies=(asks,))
    route = Route("guarded", PathMatch(MatchKind.EXACT, "/a"), 0, (destination,))
    clusters = tuple(ClusterCandidate(one, digest(one)) for one in (own, OTHER_PODS))
    snapshot, problems = merge_results(
        [
            RouteSourceResult(clusters=(ClusterCandidate(PODS, digest(PODS)),)),
            RouteSourceResult((RouteCandidate(route, rank_route(route), digest(route)),), clusters),
        ]
    )
    assert [(one.name, one.destinations, bool(one.left_out)) for one in snapshot.routes] == [("guarded", (), True)]
    assert [problem.object for problem in problems] == [key]


def test_the_version_depends_on_the_routes_of_every_dialect() -> None:
    versions = {compile_both(*objects).snapshot.version for objects in ((SHORT,), (SHORT, EXACT), (SHORT, EQUAL))}
    assert len(versions) == 3


def test_problems_of_both_dialects_are_reported_in_the_order_of_their_objects() -> None:
    compiled = compile_both(path_route("bad"), mapping("bad", service="a..b"), SHORT, EXACT)
    assert [problem.object and problem.object.kind for problem in compiled.problems] == ["Mapping", "PathRoute"]
    assert served(compiled) == ["PathRoute exact.shop", "Mapping short.shop"]
    assert set(compiled.last_good) == {SHORT.key, EXACT.key}


def test_each_dialect_gets_its_own_reuse_back() -> None:
    second = PathRoutes()
    first = compile_both(SHORT, EXACT, second=second)
    again = compile_both(SHORT, EXACT, second=second, last=first)
    assert second.seen == [0, 1]
    assert again == first
    mappings = [
        [route for route in compiled.snapshot.routes if route.destinations[0].key.kind == "Mapping"]
        for compiled in (first, again)
    ]
    assert mappings[0][0] is mappings[1][0]


def listener(name: str, port: int, *hosts: HostPolicy) -> Listener:
    return Listener(name, port, Transport.CLEAR, SecurityModel.XFP, hosts=hosts)


def test_listeners_of_two_dialects_are_opened_side_by_side_and_one_port_once() -> None:
    spec = {"port": 8080, "protocol": "HTTP", "securityModel": "XFP", "hostBinding": {"namespace": {"from": "ALL"}}}
    own = obj("Listener", "web", spec, api="getambassador.io/v3alpha1")
    second = PathRoutes(listeners=(listener("Gateway b", 9090), listener("Gateway a", 8080)))
    compiled = compile_both(own, EXACT, second=second)
    assert compiled.snapshot.listeners is not None
    assert [(one.port, one.name) for one in compiled.snapshot.listeners] == [
        (8080, "Listener web.shop"),
        (9090, "Gateway b"),
    ]
    assert said(compiled) == ["Gateway a: error: Gateway a: port 8080 is taken by Listener web.shop; left out"]


def test_a_route_that_no_port_of_any_dialect_serves_is_a_notice_at_its_host() -> None:
    only = HostPolicy(HostMatch(HostKind.EXACT, "greet.example.com"))
    second = PathRoutes(listeners=(listener("Gateway a", 8080, only),))
    compiled = compile_both(
        path_route("known", path="/a", host="greet.example.com"),
        path_route("stray", path="/a", host="other.example.com"),
        second=second,
    )
    assert [(problem.object and problem.object.name, problem.path) for problem in compiled.problems] == [
        ("stray", "spec.host")
    ]
