"""Which names a browser may call the diagnostics by. Pure.

A page of somebody else's may make its own name point to the gateway (DNS rebinding), and then the reader's browser
hands it whatever the gateway answers. Such a name is one that anybody can have in the public DNS; so IP addresses,
names that nobody can have there, and names in the domain of the gateway's own machines are believed, others have to be
named (`--admin-host`).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

_PRIVATE = (".localhost", ".local", ".internal", ".svc", ".test")
"""Ends of names that the public DNS never has: RFC 6761, RFC 6762, ICANN's `.internal`, and what a cluster's own DNS
calls a Service (`grpcgw-admin.grpcgw.svc`, `….svc.cluster.local`)."""


class KnownHosts:
    def __init__(self, names: Iterable[str] = (), node: str = "") -> None:
        """`names`: further ones, without a port; `.example.com` is all names that end so.

        `node`: the machine's name. The others in its domain are known too: a node port is open on every node, whichever
        of them the gateway runs on.
        """
        self._names = frozenset(map(_fold, (*names, node)))
        self._ends = (*_PRIVATE, *filter(_is_domain, self._names), *_domain_of(_fold(node)))

    def knows(self, host: str) -> bool:
        """`host` is the value of a Host header."""
        name = _fold(_without_port(host))
        if not name:
            return False
        return name in self._names or "." not in name or name.endswith(self._ends) or _is_address(name)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _fold(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def _is_domain(name: str) -> bool:
    return name.startswith(".")


def _domain_of(node: str) -> tuple[str, ...]:
    """Empty where the domain has one label: anybody can have another name in `com`."""
    _, dot, domain = node.partition(".")
    return (dot + domain,) if "." in domain else ()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


USUAL_HOSTS = KnownHosts()
