"""KubernetesServiceResolver: all addresses of a host name, looked up again and again while it is watched.

Owns the lookups and their pace; knows nothing of the store. A failed lookup keeps the addresses known before.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address

from grpcgw.config.endpoint import Endpoint, EndpointSet
from grpcgw.config.snapshot import Cluster, ServiceRef
from grpcgw.discovery.following import Followers, Watch
from grpcgw.discovery.resolver import Publish

Lookup = Callable[[str], Awaitable[Iterable[str]]]
"""All IPv4 and IPv6 addresses of a host name, in any order; OSError or UnicodeError if there are none."""

INTERVAL_S = 5.0
MAX_BACKOFF_S = 60.0
JITTER = 0.1
"""Pauses vary by this share, so that gateways that started together do not ask together."""
MAX_LOOKUPS = 4
"""Lookups at a time: each holds a thread of the loop's pool, for long where name servers do not answer."""


class DnsResolver:
    """Resolver by name. Watches made before `run` wait for it. `lookup` is replaced in tests only."""

    def __init__(self, *, interval_s: float = INTERVAL_S, lookup: Lookup | None = None) -> None:
        self._interval_s = interval_s
        self._lookup = lookup or look_up
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)
        self._followers = Followers(self._follow)

    async def run(self) -> None:
        """Look names up until cancelled."""
        await self._followers.run()

    def watch(self, cluster: Cluster, publish: Publish) -> Callable[[], None]:
        watch = Watch(cluster, publish)
        address = _literal_address(hostname_of(cluster.service))
        if address:
            watch.offer(EndpointSet((Endpoint(address, cluster.service.port),)))
            return lambda: None
        return self._followers.add(watch)

    async def _follow(self, watch: Watch) -> None:
        hostname, port = hostname_of(watch.cluster.service), watch.cluster.service.port
        failures = 0
        while True:
            try:
                async with self._lookups:
                    addresses = set(await self._lookup(hostname))
                failures = 0
                watch.offer(EndpointSet(tuple(sorted(Endpoint(address, port) for address in addresses))))
            except (OSError, UnicodeError) as error:
                failures += 1
                watch.fail(_explain(hostname, error))
            await asyncio.sleep(pause_s(self._interval_s, failures, random.random()))


def pause_s(interval_s: float, failures: int, chance: float) -> float:
    """Seconds until the next lookup after `failures` in a row: doubled by each after the first; `chance` is 0 to 1."""
    backoff_s = interval_s * 2.0 ** min(max(failures - 1, 0), 30)
    return min(backoff_s, max(MAX_BACKOFF_S, interval_s)) * (1 + JITTER * (2 * chance - 1))


def hostname_of(service: ServiceRef) -> str:
    """The name to look up: as written, but one without dots is a Service beside the Mapping (`localhost` is not)."""
    written = service.hostname.removeprefix("[").removesuffix("]")
    if not written or ("." not in written and ":" not in written and written != "localhost"):
        return f"{service.name}.{service.namespace}"
    return written


async def look_up(hostname: str) -> set[str]:
    """Ask the system's resolver; families this machine has no address of are left out (AI_ADDRCONFIG)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(hostname, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return {str(address[0]) for *_, address in found}


def _literal_address(hostname: str) -> str:
    try:
        return str(ip_address(hostname))
    except ValueError:
        return ""


def _explain(hostname: str, error: OSError | UnicodeError) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (
        f"cannot look up {hostname}: {reason}; correct the Mapping's service, or name a KubernetesEndpointResolver "
        "to take the pods from the Service's endpoints"
    )
