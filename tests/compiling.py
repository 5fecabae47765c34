"""Objects to compile and short ways to look at the result, for the tests of configuration."""

from __future__ import annotations

from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.cluster import Cluster
from grpcgw.model.objects import KubeObject, ObjectKey, Severity, Source
from grpcgw.model.route import Destination, Route, Unenforced
from grpcgw.model.route_source import Compiled, CompileOptions


def obj(
    kind: str,
    name: str,
    spec: object = None,
    namespace: str = "shop",
    api: str = "getambassador.io/v2",
    metadata: dict[str, object] | None = None,
) -> KubeObject:
    body = {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace, **(metadata or {})}}
    if spec is not None:
        body["spec"] = spec
    return KubeObject(api, ObjectKey(kind, namespace, name), body, Source(f"{name}.yaml"))


def mapping(
    name: str = "greet", namespace: str = "shop", metadata: dict[str, object] | None = None, **fields: object
) -> KubeObject:
    """A field that is None is left out."""
    spec = {"prefix": "/greet.GrpcService/", "service": "greet:50051", "resolver": "endpoint", **fields}
    given = {key: value for key, value in spec.items() if value is not None}
    return obj("Mapping", name, given, namespace, metadata=metadata)


def guard_of(destination: Destination) -> str:
    """The object that decides on the RPCs of a Mapping and is not enforced yet; empty: there is none."""
    return next((one.name for one in destination.policies if isinstance(one, Unenforced)), "")


def module(namespace: str = "shop", **config: object) -> KubeObject:
    return obj("Module", "ambassador", {"config": config}, namespace)


def compile_objects(
    *objects: KubeObject, last: Compiled | None = None, options: CompileOptions | None = None
) -> Compiled:
    return compile_snapshot(objects, last.last_good if last else {}, options or CompileOptions())


def said(compiled: Compiled, severity: Severity | None = None) -> list[str]:
    return [str(problem) for problem in compiled.problems if severity in (None, problem.severity)]


def destinations(compiled: Compiled) -> dict[str, Destination]:
    return {one.label: one for route in compiled.snapshot.routes for one in route.destinations}


def only(compiled: Compiled) -> Destination:
    (destination,) = destinations(compiled).values()
    return destination


def only_route(compiled: Compiled) -> Route:
    (route,) = compiled.snapshot.routes
    return route


def only_cluster(compiled: Compiled) -> Cluster:
    (cluster,) = compiled.snapshot.clusters.values()
    return cluster


def order(compiled: Compiled) -> list[str]:
    return [f"{route.match.kind} {route.match.value}" for route in compiled.snapshot.routes]
