"""A pod as the engine sees it: its HTTP/2 connections, the tries that wait for one, and the state for the balancer.

One connection serves a pod. Where its streams are used up (SETTINGS_MAX_CONCURRENT_STREAMS), RPCs wait and another
connection is opened, up to MAX_LINKS; where the pod says GOAWAY, another takes its place and running RPCs end there.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Protocol

from grpcgw import __version__
from grpcgw.engines.health_probe import CHECK_METHOD
from grpcgw.engines.http2.headers import CONTENT_TYPE, TE, Field, size_of
from grpcgw.engines.http2.health_probe import HealthProbe
from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.engines.http2.pod_link import PodLink
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.engines.http2.tls_contexts import make_client_context
from grpcgw.engines.http2.tls_layer import TlsLayer
from grpcgw.engines.http2.turn import Pumped, Turn
from grpcgw.errors import UserError
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.endpoints import PodState
from grpcgw.model.status import POD_LEFT
from grpcgw.session.call import Opening, TryEvents

_context_of = lru_cache(256)(make_client_context)
"""It takes milliseconds, and the pods of a cluster share it."""

MAX_LINKS = 4
"""Connections to one pod at most."""
FIRST_BACKOFF_S, MAX_BACKOFF_S, BACKOFF_FACTOR, BACKOFF_JITTER = 0.1, 5.0, 1.6, 0.2
"""gRPC `connection-backoff`, with shorter times: a pod that restarts is back within seconds."""
SETTLED_S = 1.0
"""A connection that lasted so long ends the back-off."""
PING_ANSWER_S = 20.0
"""gRPC's default keepalive time-out."""


class ConnectionsEngine(Protocol):
    """What a pod's connections use of their engine."""

    loop: asyncio.AbstractEventLoop
    turn: Turn
    timers: Timers
    max_metadata_bytes: int

    def note_change(self) -> None:
        """The state of a pod's connection changed: refresh the pickers soon."""
        ...


class PodConnection:
    """`state`, `check_health` and `close` may be called from any thread, the rest from the loop's alone."""

    def __init__(self, engine: ConnectionsEngine, address: str, settings: ConnectionSettings) -> None:
        host, _, port = address.rpartition(":")
        self._engine, self._host, self._port = engine, host.strip("[]"), int(port)
        self._settings = settings
        self.turn, self.timers = engine.turn, engine.timers
        self._links: list[PodLink] = []
        self._waiting: deque[PodAttempt] = deque()
        self._state = PodState.IDLE
        self._why = "there is no connection to it"
        self._dialling: asyncio.Task[None] | None = None
        self._backoff_s = FIRST_BACKOFF_S
        self._again: LoopTimer | None = None
        self._upkeep: LoopTimer | None = None
        self._connected_at_s = 0.0
        self._was_ready = self._woken = self._closed = False
        self.authority = _authority(address, settings)
        self.scheme = b"http" if settings.tls is None else b"https"

    # --- the port for the balancer

    def state(self) -> PodState:
        if self._state is PodState.IDLE and not (self._rests and self._was_ready) and not self._woken:
            self._woken = True
            self._engine.loop.call_soon_threadsafe(self._wake)
        return self._state

    @property
    def _rests(self) -> bool:
        """A connection with an idle timeout is opened once, to see that it can be; afterwards its RPCs open it."""
        return self._settings.idle_timeout_ms is not None

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        self._engine.loop.call_soon_threadsafe(self._check_health, check, report)

    def _check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        if self._closed:
            return
        probe = HealthProbe(check, report, lambda: self._closed)
        fields = self.request_fields(CHECK_METHOD, check.authority)
        fields += [CONTENT_TYPE, (b"user-agent", f"grpcgw/{__version__}".encode())]
        deadline_s = time.monotonic() + check.timeout_ms / 1000
        probe.attempt = self.begin(None, probe, fields, Opening(probe.request(), True), deadline_s)

    def close(self) -> None:
        self._closed = True
        self._engine.loop.call_soon_threadsafe(self.close_now)

    def close_now(self) -> None:
        """In the loop."""
        self._closed = True
        self._stop_waiting(POD_LEFT)
        for timer in (self._again, self._upkeep):
            if timer is not None:
                timer.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
        for link in tuple(self._links):
            for attempt in tuple(link.streams.values()):
                attempt.on_lost(POD_LEFT)
            link.close()

    # --- tries

    def request_fields(self, path: str, authority: str) -> list[Field]:
        """The pseudo-headers of a request, and `te`."""
        name = authority.encode("latin-1") if authority else self.authority
        return [
            (b":method", b"POST"),
            (b":scheme", self.scheme),
            (b":path", path.encode("latin-1")),
            (b":authority", name),
            TE,
        ]

    def begin(
        self,
        rpc: Pumped | None,
        events: TryEvents,
        fields: list[Field],
        first: Opening,
        deadline_s: float | None,
    ) -> PodAttempt:
        """Send an RPC to this pod as soon as it has a stream. Raises ConnectionError if the connection is closed."""
        if self._closed:
            raise ConnectionError("the connection is closed")
        attempt = PodAttempt(self, rpc, events, fields, first, deadline_s)
        link = self._find_room()
        if link is not None and link.open(attempt, time.monotonic()):
            return attempt
        if self._state is PodState.FAILING and not self._links:
            attempt.on_unsent(self._why)
        else:
            self._waiting.append(attempt)
            self._extend()
        return attempt

    def _find_room(self) -> PodLink | None:
        for link in self._links:
            if link.has_room():
                return link
        return None

    def _extend(self) -> None:
        """Open another connection, where one more is allowed and none is being opened."""
        usable = [link for link in self._links if not link.is_leaving]
        if self._dialling is None and self._again is None and len(usable) < MAX_LINKS:
            self._dial()

    def give_up(self, attempt: PodAttempt) -> None:
        if attempt in self._waiting:
            self._waiting.remove(attempt)

    def is_too_large(self, fields: Iterable[Field]) -> bool:
        return size_of(fields) > self._engine.max_metadata_bytes

    def _serve_waiting(self) -> None:
        now_s = time.monotonic()
        while self._waiting:
            link = self._find_room()
            if link is None:
                return
            attempt = self._waiting.popleft()
            if attempt.is_waiting and not link.open(attempt, now_s):
                self._waiting.appendleft(attempt)

    def _stop_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for attempt in waiting:
            attempt.on_unsent(why)

    # --- connecting

    def _wake(self) -> None:
        self._woken = False
        if self._state is PodState.IDLE and not self._closed:
            self._extend()

    def _dial(self) -> None:
        if self._state is not PodState.FAILING and not self._has_usable_link():
            self._set_state(PodState.CONNECTING)
        self._dialling = self._engine.loop.create_task(self._connect())

    async def _connect(self) -> None:
        timeout_s = self._settings.connect_timeout_ms / 1000
        link: PodLink | None = None
        try:
            async with asyncio.timeout(timeout_s):
                _, link = await self._engine.loop.create_connection(self._make_link, self._host, self._port)
                await link.ready
        except TimeoutError:
            self._failed(link, f"no connection within {self._settings.connect_timeout_ms} ms")
        except (OSError, ValueError, UserError) as error:
            self._failed(link, _explain(error))
        else:
            self._connected(link)

    def _make_link(self) -> PodLink:
        tls = self._settings.tls
        layer = None
        if tls is not None:
            layer = TlsLayer(_context_of(tls), server_side=False, server_name=tls.server_name or self._host)
        return PodLink(self.turn, self._engine.max_metadata_bytes, layer, self._on_change)

    def _connected(self, link: PodLink) -> None:
        self._dialling = None
        if self._closed:
            link.close()
            return
        self._links.append(link)
        self._connected_at_s = time.monotonic()
        self._was_ready = True
        self._set_state(PodState.READY)
        self._serve_waiting()
        if self._waiting:
            self._extend()
        self._schedule_upkeep()

    def _failed(self, link: PodLink | None, why: str) -> None:
        self._dialling = None
        if link is not None and not link.is_lost:
            link.fail(why)
        if self._closed:
            return
        self._why = f"cannot connect to {self._host}:{self._port}: {why}"
        self._dial_later()
        if not self._has_usable_link():
            self._set_state(PodState.FAILING)
            self._stop_waiting(self._why)

    def _dial_later(self) -> None:
        pause_s = self._backoff_s * random.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER)
        self._backoff_s = min(MAX_BACKOFF_S, self._backoff_s * BACKOFF_FACTOR)
        self._again = self.timers.at(time.monotonic() + pause_s, self._dial_again)

    def _dial_again(self) -> None:
        self._again = None
        if not self._closed and (not self._has_usable_link() or self._waiting):
            self._extend()

    def _has_usable_link(self) -> bool:
        return any(not link.is_leaving for link in self._links)

    def _set_state(self, state: PodState) -> None:
        if state is not self._state:
            self._state = state
            self._engine.note_change()

    # --- a connection changed

    def _on_change(self, link: PodLink) -> None:
        if link not in self._links:
            return
        if link.is_leaving and not link.streams and not link.is_lost:
            link.close()
            return  # it comes here again
        if link.is_lost:
            self._links.remove(link)
        if self._closed:
            return
        if self._waiting:
            self._serve_waiting()
        if not self._has_usable_link():
            self._replace()

    def _replace(self) -> None:
        """No connection takes new RPCs: connect again, at once where the last one lasted."""
        if self._state is not PodState.READY:
            return
        if time.monotonic() - self._connected_at_s >= SETTLED_S:
            self._backoff_s = FIRST_BACKOFF_S
        self._set_state(PodState.IDLE)
        if self._waiting:
            self._extend()

    # --- upkeep: keepalive and idle time

    def _schedule_upkeep(self) -> None:
        settings = self._settings
        pauses = [s for s in (settings.keepalive_time_s, (settings.idle_timeout_ms or 0) / 1000 or None) if s]
        if pauses and self._upkeep is None:
            self._upkeep = self.timers.at(time.monotonic() + min(pauses) / 4, self._keep_up)

    def _keep_up(self) -> None:
        self._upkeep = None
        now_s = time.monotonic()
        for link in tuple(self._links):
            self._keep_link(link, now_s)
        if self._links:
            self._schedule_upkeep()

    def _keep_link(self, link: PodLink, now_s: float) -> None:
        settings = self._settings
        idle_ms = settings.idle_timeout_ms
        if idle_ms is not None and not link.streams and now_s - link.idle_since_s >= idle_ms / 1000:
            link.close()
            return
        if settings.keepalive_time_s is None:
            return
        if link.pinged_at_s is not None:
            if now_s - link.pinged_at_s >= (settings.keepalive_timeout_s or PING_ANSWER_S):
                link.fail("keepalive: the pod does not answer pings")
        elif now_s - link.heard_at_s >= settings.keepalive_time_s:
            link.ping(now_s)


def _authority(address: str, settings: ConnectionSettings) -> bytes:
    """`:authority` of RPCs whose Mapping and client say none: the name that the pod's certificate carries, or the
    address."""
    tls = settings.tls
    if tls is not None and (tls.authority or tls.server_name):
        return (tls.authority or tls.server_name).encode("latin-1")
    return address.encode("latin-1")


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
