"""Decides under which host names a browser may read the diagnostics. Pure.

An attacker's page can point its own host name at the gateway (DNS rebinding); the reader's browser then gives that page
whatever the gateway answers. This needs a name that anybody can register in the public DNS. So grpcgw accepts IP
addresses, names that nobody can register, and names in the domain of its own node; `--admin-host` adds more.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

_PRIVATE = (".localhost", ".local", ".internal", ".svc", ".test")
"""Suffixes that the public DNS never has: RFC 6761, RFC 6762, ICANN's `.internal`, and what a cluster's own DNS
calls a Service (`grpcgw-admin.grpcgw.svc`, `….svc.cluster.local`)."""


class KnownHosts:
    def __init__(self, names: Iterable[str] = (), node: str = "") -> None:
        """`names`: more names, without a port; `.example.com` stands for every name that ends with it.

        `node`: the machine's name. Other names in its domain are accepted too: a node port is open on every node.
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
    """Empty if the domain has one label: anybody can register another name in `com`."""
    _, dot, domain = node.partition(".")
    return (dot + domain,) if "." in domain else ()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


USUAL_HOSTS = KnownHosts()
