"""Renders the diagnostics page, and the part of it that the browser fetches every second. Templates see views only."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from grpcgw import __version__
from grpcgw.admin.humanize import format_age, format_count, format_duration, format_latency
from grpcgw.admin.route_json import resolution_label
from grpcgw.admin.traffic_views import MethodView
from grpcgw.admin.views import GatewayView, not_ready_reason
from grpcgw.model.cluster import ResolverKind
from grpcgw.model.codes import status_name

# Up to this many routes, the page shows the pods of each without a click. With more, it renders pods only for the
# routes that the reader opens: hundreds of rows every second would cost the control process more than its real work.
_OPEN_ROUTES = 8

_RESOLUTION_HINTS = {
    "endpoint": "Each RPC goes to the next ready pod of the Service.",
    "service": "Each RPC goes to the next address of the DNS name; a name with a single cluster IP leaves "
    "balancing to the cluster's network, per connection.",
}


def render_page(view: GatewayView) -> str:
    return _ENVIRONMENT.get_template("page.html").render(_context(view))


def render_live_part(view: GatewayView, open_routes: frozenset[str] = frozenset()) -> str:
    """The part that the page replaces every second; `open_routes`: keys of the routes whose pods the reader opened."""
    return _ENVIRONMENT.get_template("live.html").render(_context(view, open_routes))


def _context(view: GatewayView, open_routes: frozenset[str] = frozenset()) -> dict[str, object]:
    pods = [pod for cluster in view.clusters for pod in cluster.pods]
    return {
        "view": view,
        "state": view.state,
        "version": __version__,
        "not_ready": not_ready_reason(view.state),
        "pods_total": len(pods),
        "pods_ready": sum(pod.state == "ready" for pod in pods),
        "open_details": len(view.routes) <= _OPEN_ROUTES,
        "open_routes": open_routes,
        "resolvers": _resolvers(view),
    }


def _resolvers(view: GatewayView) -> list[tuple[str, ResolverKind, int, int]]:
    """Name, kind, number of clusters, and number of clusters whose pods the resolver could not find."""
    used = sorted({(cluster.cluster.resolver_name, cluster.cluster.resolver) for cluster in view.clusters})
    rows = []
    for name, kind in used:
        own = [c for c in view.clusters if (c.cluster.resolver_name, c.cluster.resolver) == (name, kind)]
        rows.append((name, kind, len(own), sum(bool(cluster.error) for cluster in own)))
    return rows


def _age(then_s: float, now_s: float) -> str:
    return format_age(now_s, then_s)


def _latency_bound(traffic: MethodView, share: float) -> str:
    """`≤ 25 ms`: the border of a histogram bucket, not a measured value; empty before the first RPC."""
    if not traffic.finished:
        return ""
    bound_ms = traffic.latency_below_ms(share)
    return "> 60 s" if bound_ms is None else f"≤ {format_latency(bound_ms)}"


def _make_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("grpcgw.admin", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=format_count, latency=format_latency, duration=format_duration, age=_age, status=status_name
    )
    environment.globals.update(
        latency_bound=_latency_bound, resolution_label=resolution_label, resolution_hints=_RESOLUTION_HINTS
    )
    return environment


_ENVIRONMENT = _make_environment()
