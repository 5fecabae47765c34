"""KubernetesServiceResolver: all addresses of a host name, looked up again and again while it is watched.

Owns the lookups and their pace; knows nothing of the store. A failed lookup keeps the addresses known before. Each
watch is followed by a task of its own inside `run`, so none outlives the resolver and no failure of one is lost.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from grpcgw.config.endpoint import Endpoint, EndpointSet
from grpcgw.config.snapshot import Cluster, ServiceRef
from grpcgw.discovery.resolver import Publish

Lookup = Callable[[str], Awaitable[Iterable[str]]]
"""All IPv4 and IPv6 addresses of a host name, in any order; OSError or UnicodeError if there are none."""

INTERVAL_S = 5.0
MAX_BACKOFF_S = 60.0
JITTER = 0.1
"""Pauses vary by this share, so that gateways that started together do not ask together."""
MAX_LOOKUPS = 4
"""Lookups at a time: each holds a thread of the loop's pool, for long where name servers do not answer."""


@dataclass(slots=True, eq=False)
class _Watch:
    hostname: str
    port: int
    publish: Publish
    last: EndpointSet | None = None
    ended: bool = False
    task: asyncio.Task[None] | None = None

    def offer(self, endpoints: EndpointSet) -> None:
        if not self.ended and endpoints != self.last:
            self.last = endpoints
            self.publish(endpoints)


class DnsResolver:
    """Resolver by name. Watches made before `run` wait for it. `lookup` is replaced in tests only."""

    def __init__(self, *, interval_s: float = INTERVAL_S, lookup: Lookup | None = None) -> None:
        self._interval_s = interval_s
        self._lookup = lookup or look_up
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)
        self._watches: set[_Watch] = set()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Look names up until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for watch in self._watches:
                    self._start(watch, tasks)
                await asyncio.Event().wait()
        finally:
            self._tasks = None

    def watch(self, cluster: Cluster, publish: Publish) -> Callable[[], None]:
        watch = _Watch(hostname_of(cluster.service), cluster.service.port, publish)
        address = _literal_address(watch.hostname)
        if address:
            watch.offer(EndpointSet((Endpoint(address, watch.port),)))
            return lambda: None
        self._watches.add(watch)
        if self._tasks is not None:
            self._start(watch, self._tasks)

        def end() -> None:
            watch.ended = True
            self._watches.discard(watch)
            if watch.task is not None:
                watch.task.cancel()

        return end

    def _start(self, watch: _Watch, tasks: asyncio.TaskGroup) -> None:
        watch.task = tasks.create_task(self._follow(watch), name=f"resolve {watch.hostname}")

    async def _follow(self, watch: _Watch) -> None:
        failures = 0
        while True:
            try:
                async with self._lookups:
                    addresses = set(await self._lookup(watch.hostname))
                failures = 0
                found = tuple(sorted(Endpoint(address, watch.port) for address in addresses))
                watch.offer(EndpointSet(found))
            except (OSError, UnicodeError) as error:
                failures += 1
                known = watch.last.endpoints if watch.last is not None else ()
                watch.offer(EndpointSet(known, _explain(watch.hostname, error)))
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
