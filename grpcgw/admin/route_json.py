"""Routes in the JSON of the diagnostics: Ambassador's route_info, groups, services and resolvers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

from grpcgw.admin.cluster_views import ClusterView
from grpcgw.admin.describe import show_header_value
from grpcgw.admin.policy_views import RoutePolicyView
from grpcgw.admin.views import DestinationView, GatewayView, RouteView, ShadowView
from grpcgw.model.balancing import LoadBalancer
from grpcgw.model.cluster import ResolverKind
from grpcgw.model.codes import status_name

Json = dict[str, object]


def render_routes(view: GatewayView) -> list[Json]:
    return [_route(route) for route in view.routes]


def _route(view: RouteView) -> Json:
    first = view.destinations[0].destination
    return {
        "key": f"http://{view.host}{view.route.match.value}",
        "prefix": view.route.match.value,
        "match": str(view.route.match.kind),
        "rewrite": first.rewrite or "",
        "method": "*",
        "headers": _headers(view),
        "host": view.host,
        "precedence": view.route.precedence,
        "clusters": [_route_cluster(destination) for destination in view.destinations],
        "shadows": [_shadow(shadow) for shadow in view.shadows],
        "_group_id": view.key,
        "_source": first.where,
    }


def _shadow(view: ShadowView) -> Json:
    destination, cluster = view.destination, view.cluster.cluster
    return {
        "name": cluster.name,
        "service": str(cluster.service),
        "weight": view.weight_percent,
        "type_label": "shadow",
        "_source": destination.where,
        "mapping": destination.label,
        "timeout_ms": destination.timeout_ms,
        "copies": view.finished,
        "copies_in_flight": view.copies.in_flight,
        "copies_by_status": {status_name(code): count for code, count in sorted(view.copies.codes.items())},
        "copies_dropped": dict(sorted(view.copies.dropped.items())),
        "pods": [pod.address for pod in view.cluster.pods],
    }


def _headers(view: RouteView) -> list[Json]:
    return [
        {
            "name": header.name,
            "value": show_header_value(header),
            "regex": bool(header.regex),
        }
        for header in view.route.headers
    ]


def _route_cluster(view: DestinationView) -> Json:
    destination, cluster = view.destination, view.cluster.cluster
    return {
        "name": cluster.name,
        "service": str(cluster.service),
        "weight": view.weight_percent,
        "type_label": resolution_label(cluster.resolver),
        "_hcolor": str(view.cluster.health),
        "_health": view.cluster.health_in_words,
        "_hmetric": show_health_share(view.cluster),
        "_source": destination.where,
        "mapping": destination.label,
        "trouble": view.trouble,
        "refused": view.refused,
        "rewrite": destination.rewrite,
        "timeout_ms": destination.timeout_ms,
        "idle_timeout_ms": destination.idle_timeout_ms,
        "load_balancer": _load_balancer(destination.balancing.load_balancer),
        "changes": list(view.changes),
        "policies": list(view.policies),
        "decided_by": [_policy(one) for one in view.decided_by],
        "rpcs": view.traffic.finished,
        "rpcs_in_flight": view.traffic.in_flight,
        "rpcs_by_status": {status_name(code): count for code, count in sorted(view.traffic.codes.items())},
        "latency_mean_ms": view.traffic.latency_mean_ms,
        "latency_p99_ms": view.traffic.latency_below_ms(0.99),
        "pods": [pod.address for pod in view.cluster.pods],
    }


def _policy(view: RoutePolicyView) -> Json:
    return {
        **asdict(view.policy),
        "allowed": view.allowed,
        "denied": view.denied,
        "errors": dict(view.errors),
        "trouble": view.trouble,
    }


def _load_balancer(load_balancer: LoadBalancer) -> Json:
    """As a Mapping writes it, without fields that are not set."""
    return {name: value for name, value in asdict(load_balancer).items() if value}


def render_resolvers(view: GatewayView) -> list[Json]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for route in view.routes:
        shown: tuple[DestinationView | ShadowView, ...] = (*route.destinations, *route.shadows)
        for cluster in (one.cluster.cluster for one in shown):
            groups[cluster.resolver_name, cluster.resolver].append(route.key)
    return [
        {"name": name, "kind": str(kind), "_source": name, "groups": sorted(set(keys))}
        for (name, kind), keys in sorted(groups.items())
    ]


def render_services(view: GatewayView) -> list[Json]:
    return [
        {
            "name": str(destination.cluster.cluster.service),
            "type": "Mapping",
            "cluster": destination.cluster.cluster.name,
            "_source": destination.destination.where,
            "_service_weight": float(destination.weight_percent),
            "mapping": destination.destination.label,
        }
        for route in view.routes
        for destination in route.destinations
    ]


def render_groups(view: GatewayView) -> Json:
    return {
        route.key: {
            "group_id": route.key,
            "kind": "MappingGroup",
            "prefix": route.route.match.value,
            "precedence": route.route.precedence,
            "grpc": True,
            "headers": _headers(route),
            "host": route.host,
            "location": route.destinations[0].destination.where,
            "mappings": [
                {
                    "name": destination.destination.key.name,
                    "namespace": destination.destination.key.namespace,
                    "cluster_name": destination.cluster.cluster.name,
                    "cluster_service": str(destination.cluster.cluster.service),
                    "location": destination.destination.where,
                    "prefix": route.route.match.value,
                    "rewrite": destination.destination.rewrite or "",
                    "_weight": destination.weight_percent,
                }
                for destination in route.destinations
            ],
        }
        for route in view.routes
    }


def resolution_label(resolver: ResolverKind) -> str:
    """`endpoint`: each RPC goes to a pod of the Service. `service`: to an address of its DNS name."""
    match resolver:
        case ResolverKind.KUBERNETES_ENDPOINT:
            return "endpoint"
        case ResolverKind.KUBERNETES_SERVICE:
            return "service"
        case ResolverKind.CONSUL:
            return "consul"


def show_health_share(view: ClusterView) -> str:
    share = 0.0 if view.is_dead else view.success_share
    return "unknown" if share is None else f"{share:.0%}"
