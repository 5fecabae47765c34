"""Looks up host names: by the system's resolver (getaddrinfo), or by DNS (c-ares) if the TTL is needed.

Owns threads, sockets and time-outs; knows no cluster. Errors of the libraries become LookupFailed here.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import aiodns

from grpcgw.errors import GrpcgwError
from grpcgw.model.cluster import Addressing

TIMEOUT_S = 10.0
"""A lookup that takes longer fails."""
MAX_THREADS = 4
"""Concurrent lookups of the system's resolver: each holds a thread, for long if name servers do not answer."""
TRIES = 2


class LookupFailed(GrpcgwError):
    """The name has no address, or the lookup failed; the text says why."""


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    addresses: tuple[str, ...]
    """In order of preference; may contain duplicates."""
    ttl_s: float = 0.0
    """How long the answer is valid; 0: unknown."""


Resolve = Callable[[str, socket.AddressFamily], tuple[str, ...]]
"""Blocks. Raises OSError or UnicodeError if there is no address."""


class Lookup(Protocol):
    async def ask(self, hostname: str, addressing: Addressing) -> DnsAnswer:
        """The addresses of the enabled families. Raises LookupFailed, at the latest after TIMEOUT_S."""
        ...

    async def aclose(self) -> None: ...


class SystemLookup:
    """By getaddrinfo: hosts file, name servers and other sources of the system. Gives no TTL.

    Address families that this machine has no address of are left out (AI_ADDRCONFIG). The threads are daemons, so that
    a lookup in progress does not keep the process from ending.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, resolve: Resolve | None = None) -> None:
        """`resolve` is replaced in tests only."""
        self._timeout_s, self._resolve = timeout_s, resolve or _resolve
        self._slots = asyncio.Semaphore(MAX_THREADS)

    async def ask(self, hostname: str, addressing: Addressing) -> DnsAnswer:
        """As `Lookup.ask`. Raises LookupFailed."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._slots.acquire()
                # getaddrinfo cannot be interrupted: its thread keeps the slot until the system gives up.
                return DnsAnswer(await asyncio.shield(self._start(hostname, _family(addressing))))
        except TimeoutError as error:
            raise LookupFailed(_too_late(self._timeout_s)) from error
        except OSError as error:
            raise LookupFailed(error.strerror or str(error)) from error
        except UnicodeError as error:
            raise LookupFailed(str(error)) from error

    def _start(self, hostname: str, family: socket.AddressFamily) -> asyncio.Future[tuple[str, ...]]:
        done: Future[tuple[str, ...]] = Future()
        done.set_running_or_notify_cancel()
        waiting = asyncio.wrap_future(done)
        waiting.add_done_callback(lambda _: self._slots.release())
        threading.Thread(target=self._run, args=(hostname, family, done), name="grpcgw lookup", daemon=True).start()
        return waiting

    def _run(self, hostname: str, family: socket.AddressFamily, done: Future[tuple[str, ...]]) -> None:
        try:
            done.set_result(self._resolve(hostname, family))
        except Exception as error:  # raised where the lookup was requested
            done.set_exception(error)

    async def aclose(self) -> None:
        """Holds nothing."""


def _resolve(hostname: str, family: socket.AddressFamily) -> tuple[str, ...]:
    found = socket.getaddrinfo(hostname, None, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return tuple(str(address[0]) for *_, address in found)


class TtlLookup:
    """By c-ares, as in Envoy: hosts file and name servers of resolv.conf, with the TTL of the records; no threads."""

    def __init__(self, timeout_s: float = TIMEOUT_S, nameservers: list[str] | None = None) -> None:
        """`nameservers`: `address:port`; None: the system's."""
        self._timeout_s, self._nameservers = timeout_s, nameservers
        self._resolver: aiodns.DNSResolver | None = None

    async def ask(self, hostname: str, addressing: Addressing) -> DnsAnswer:
        """As `Lookup.ask`. Raises LookupFailed."""
        if self._resolver is None:
            self._resolver = aiodns.DNSResolver(self._nameservers, timeout=self._timeout_s / TRIES, tries=TRIES)
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._resolver.getaddrinfo(hostname, family=_family(addressing), type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise LookupFailed(_too_late(self._timeout_s)) from error
        except aiodns.error.DNSError as error:
            raise LookupFailed(str(error.args[-1])) from error
        addresses = tuple(node.addr[0].decode() for node in found.nodes)
        return DnsAnswer(addresses, float(min((node.ttl for node in found.nodes), default=0)))

    async def aclose(self) -> None:
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None


def _family(addressing: Addressing) -> socket.AddressFamily:
    if addressing.ipv4 and addressing.ipv6:
        return socket.AF_UNSPEC
    return socket.AF_INET if addressing.ipv4 else socket.AF_INET6


def _too_late(timeout_s: float) -> str:
    return f"no answer within {timeout_s:g} s"
