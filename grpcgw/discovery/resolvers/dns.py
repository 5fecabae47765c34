"""KubernetesServiceResolver: polls DNS for the addresses of a host name.

Owns when names are looked up, and which addresses of an answer are used; `dns_lookup` does the lookups. Does not use
the store. A failed lookup keeps the addresses known before.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from grpcgw.discovery.resolvers.address_families import explain_disabled, is_enabled
from grpcgw.discovery.resolvers.dns_lookup import Lookup, LookupFailed, SystemLookup, TtlLookup
from grpcgw.discovery.resolvers.resolver import Publish
from grpcgw.discovery.resolvers.watch_tasks import Watch, WatchTasks
from grpcgw.model.cluster import Cluster, ServiceRef
from grpcgw.model.endpoints import Endpoint, EndpointSet

INTERVAL_S = 5.0
MAX_BACKOFF_S = 60.0
JITTER = 0.1
"""Pauses vary by this share, so that gateways that started together do not query together."""


class DnsResolver:
    """Resolver by DNS. Watches added before `run` wait for it. Only tests replace the lookups."""

    def __init__(
        self, *, interval_s: float = INTERVAL_S, lookup: Lookup | None = None, ttl_lookup: Lookup | None = None
    ) -> None:
        self._interval_s = interval_s
        self._lookup = lookup or SystemLookup()
        self._ttl_lookup = ttl_lookup or TtlLookup()
        self._followers = WatchTasks(self._follow, interval_s)

    async def run(self) -> None:
        """Look names up until cancelled."""
        try:
            await self._followers.run()
        finally:
            await self._lookup.aclose()
            await self._ttl_lookup.aclose()

    def watch(self, cluster: Cluster, publish: Publish) -> Callable[[], None]:
        watch = Watch(cluster, publish)
        address = _literal_address(hostname_of(cluster.service))
        if address:
            watch.offer(make_set((address,), watch))
            return lambda: None
        return self._followers.add(watch)

    async def _follow(self, watch: Watch) -> None:
        hostname, addressing = hostname_of(watch.cluster.service), watch.cluster.addressing
        lookup = self._ttl_lookup if addressing.respect_dns_ttl else self._lookup
        failures, pause_s = 0, self._interval_s
        while True:
            try:
                answer = await lookup.ask(hostname, addressing)
                watch.offer(make_set(answer.addresses, watch))
                failures, pause_s = 0, answer.ttl_s or self._interval_s
            except LookupFailed as error:
                failures += 1
                watch.fail(_explain(hostname, error))
                pause_s = self._interval_s
            await asyncio.sleep(vary_pause_s(pause_s, failures, random.random()))


def make_set(addresses: Sequence[str], watch: Watch) -> EndpointSet:
    """The endpoints of a cluster for an answer, in the order of the answer."""
    addressing, service = watch.cluster.addressing, watch.cluster.service
    enabled = [address for address in addresses if is_enabled(address, addressing)]
    if addresses and not enabled:
        return EndpointSet(error=explain_disabled(f"{hostname_of(service)} has addresses", addressing))
    found = [Endpoint(address, service.port) for address in enabled]
    known = watch.last.endpoints if watch.last is not None else ()
    if not addressing.logical_dns and not is_one_host(found):
        return EndpointSet(tuple(sorted(set(found))))
    chosen = choose_one(found, known)
    other = next((each.address for each in found if _is_ipv6(each) is not _is_ipv6(chosen[0])), "") if chosen else ""
    return EndpointSet(chosen, other_addresses=(other,) if other else ())


def is_one_host(found: Sequence[Endpoint]) -> bool:
    """Whether there is one address of each IP family: both of one host. Of more, DNS does not say which belong
    together."""
    return sorted(_is_ipv6(endpoint) for endpoint in set(found)) == [False, True]


def _is_ipv6(endpoint: Endpoint) -> bool:
    return ":" in endpoint.address


def choose_one(found: Sequence[Endpoint], known: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """`logical_dns`: the first endpoint. A `known` one stays while answers contain it, as their order may change."""
    return tuple([endpoint for endpoint in known if endpoint in found] or found)[:1]


def vary_pause_s(pause_s: float, failures: int, chance: float) -> float:
    """Seconds until the next lookup: doubled for each failure in a row after the first. `chance` is from 0 to 1."""
    backoff_s = pause_s * 2.0 ** min(max(failures - 1, 0), 30)
    return min(backoff_s, max(MAX_BACKOFF_S, pause_s)) * (1 + JITTER * (2 * chance - 1))


def hostname_of(service: ServiceRef) -> str:
    """The name to look up: as written, but a name without dots is a Service in the Mapping's namespace (except
    `localhost`)."""
    written = service.hostname.removeprefix("[").removesuffix("]")
    if not written or ("." not in written and ":" not in written and written != "localhost"):
        return f"{service.name}.{service.namespace}"
    return written


def _literal_address(hostname: str) -> str:
    try:
        return str(ip_address(hostname))
    except ValueError:
        return ""


def _explain(hostname: str, error: LookupFailed) -> str:
    return (
        f"cannot look up {hostname}: {error}; correct the name of the service, or name a KubernetesEndpointResolver "
        "to take the pods from the Service's endpoints"
    )
