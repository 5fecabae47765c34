"""Describes routes and Mappings in a few words for people. Hides values that may be secrets."""

from __future__ import annotations

from collections.abc import Iterator

from grpcgw.model.balancing import LoadBalancer
from grpcgw.model.codes import status_name
from grpcgw.model.match import HeaderMatch, HostKind, HostMatch
from grpcgw.model.route import Destination, Route

HIDDEN = "•••"
"""Shown in place of a value that may be a secret."""


def describe_host(host: HostMatch) -> str:
    match host.kind:
        case HostKind.EXACT:
            return host.value
        case HostKind.SUFFIX:
            return f"*{host.value}"
        case HostKind.PREFIX:
            return f"{host.value}*"
        case HostKind.REGEX:
            return f"~{host.value}"


def describe_conditions(route: Route) -> tuple[str, ...]:
    """The conditions on an RPC besides its path, in words."""
    host = () if route.host is None else (f"host {describe_host(route.host)}",)
    case = () if route.case_sensitive else ("any case",)
    return (*case, *host, *map(_describe_header, route.headers))


def describe_balancing(load_balancer: LoadBalancer) -> str:
    """The policy and its hash key: `ring_hash by x-user`."""
    by = load_balancer.header or ("source_ip" if load_balancer.source_ip else "")
    parts = [f"{load_balancer.policy} by {by}" if by else load_balancer.policy]
    if load_balancer.slow_start_ms:
        parts.append(f"slow start {load_balancer.slow_start_ms} ms")
    if load_balancer.prefer_same_zone:
        parts.append("same zone first")
    return ", ".join(parts)


def describe_changes(destination: Destination) -> Iterator[str]:
    regex = destination.regex_rewrite
    if regex is not None:
        yield f"path: {regex.pattern} → {regex.substitution or 'nothing'}"
    if destination.authority:
        yield f"host: {destination.authority}"
    for what, edits in (("request", destination.request_headers), ("response", destination.response_headers)):
        if edits.remove:
            yield f"{what} headers removed: {', '.join(edits.remove)}"
        if edits.add:
            yield f"{what} headers added: {', '.join(add.name for add in edits.add)}"


def _describe_header(header: HeaderMatch) -> str:
    if header.regex is not None:
        return f"{header.name} ~ {show_header_value(header)}"
    return f"{header.name} present" if header.exact is None else f"{header.name} = {show_header_value(header)}"


def show_header_value(header: HeaderMatch) -> str | None:
    """The value that a header must have. It may be a secret that lets clients in, so only pseudo-headers show it.

    None: any value will do.
    """
    value = header.exact if header.regex is None else header.regex
    return value if header.name.startswith(":") or not value else HIDDEN


def describe_policies(destination: Destination) -> Iterator[str]:
    retry, outliers = destination.retry, destination.balancing.outlier_detection
    if retry is not None:
        codes = ", ".join(map(status_name, sorted(retry.codes))) or "RPCs that never reached a pod"
        within = f", {retry.per_try_timeout_ms} ms each" if retry.per_try_timeout_ms else ""
        yield f"up to {retry.num_retries} retries on {codes}{within}"
    for breaker in destination.circuit_breakers:
        if breaker.priority is destination.priority:
            limits = {
                limit: getattr(breaker, limit) for limit in ("max_requests", "max_pending_requests", "max_retries")
            }
            yield from (f"{limit} {value}" for limit, value in limits.items() if value is not None)
    if outliers is not None and outliers.consecutive_failures is not None:
        yield f"ejects a pod after {outliers.consecutive_failures} failures in a row"
    if outliers is not None and outliers.success_rate_stdev_factor is not None:
        yield "ejects pods by success rate"
