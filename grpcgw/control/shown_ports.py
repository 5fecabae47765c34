"""What the log and the admin port say of the open data ports. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from grpcgw.admin.state import ListenerState
from grpcgw.carriers.carrier import ServedPort
from grpcgw.listeners.data_ports import LIMIT_SERVICE
from grpcgw.logs import count
from grpcgw.model.listener import Transport
from grpcgw.model.rate_limits import DomainLimits

MOST_DOMAINS = 10
_PROTOCOLS = {Transport.CLEAR: "h2c", Transport.TLS: "tls", Transport.BOTH: "tls, h2c"}


def describe_protocol(port: ServedPort) -> str:
    protocol = _PROTOCOLS[port.transport]
    return f"{protocol}, {LIMIT_SERVICE}" if port.listener == LIMIT_SERVICE else protocol


def show_port(port: ServedPort, limits: Sequence[DomainLimits]) -> ListenerState:
    """With the name of the Listener, unless it is a flag, and those of its certificates. `limits`: of the snapshot."""
    names = [] if port.listener.startswith("--") else [port.listener]
    detail = ", ".join([*names, *port.certificates])
    if port.listener == LIMIT_SERVICE:
        detail = f"{LIMIT_SERVICE}: {_describe_limits(limits)}"
    return ListenerState(str(port), _PROTOCOLS[port.transport], detail)


def _describe_limits(limits: Sequence[DomainLimits]) -> str:
    """Who asks for another domain finds here why nothing is limited."""
    if not limits:
        return "there is no RateLimit, so it allows all"
    domains = [f"{one.domain} ({count(len(one.limits), 'limit')})" for one in limits[:MOST_DOMAINS]]
    more = len(limits) - len(domains)
    return f"domain {', '.join(domains)}{f' and {more} more' if more else ''}; all else is allowed"
