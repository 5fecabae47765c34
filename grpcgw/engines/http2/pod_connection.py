"""A pod as the engine sees it: its HTTP/2 connections, the tries that wait for a stream, the state for the balancer.

One connection serves a pod. Where its streams are used up (SETTINGS_MAX_CONCURRENT_STREAMS), RPCs wait and another
connection is opened, up to MAX_LINKS; another takes new RPCs where one has carried many resets, which pods bound.
After GOAWAY another takes new RPCs too, and those that run end on the old one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from grpcgw import __version__
from grpcgw.engines.health_probe import CHECK_METHOD
from grpcgw.engines.http2.handshake import HandshakeQueue
from grpcgw.engines.http2.headers import CONTENT_TYPE, TE, Field
from grpcgw.engines.http2.health_probe import HealthProbe
from grpcgw.engines.http2.pod_attempt import OwnRpc, PodAttempt
from grpcgw.engines.http2.pod_dialer import Dialer
from grpcgw.engines.http2.pod_handshake import PodHandshake
from grpcgw.engines.http2.pod_link import PodLink
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.engines.http2.turn import Turn
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.endpoints import PodState
from grpcgw.model.status import POD_LEFT
from grpcgw.session.call import Opening, TryEvents

_RESTS_OR_NOT = {PodState.IDLE, PodState.READY}
"""Between these a connection that may rest changes without effect on picking."""
MAX_LINKS = 4
"""Connections to one pod at most, beside those that are worn."""
MOST_WORN = 12
"""Connections to one pod that may have sent so many resets that new RPCs go to others."""
SPARE_IDLE_S = 60.0
"""A further connection to a pod is closed after this time without RPCs."""
SETTLED_S = 1.0
"""A connection that ends earlier, and on which no RPC was answered nor runs on, counts as a failure to connect."""
SHORTEST_PAUSE_S = 0.01
"""Between two looks at a pod's connections for idle ones and lost ones."""
PING_ANSWER_S = 20.0
"""gRPC's default keepalive time-out."""


class ConnectionsEngine(Protocol):
    """What a pod's connections use of their engine."""

    loop: asyncio.AbstractEventLoop
    turn: Turn
    timers: Timers
    pod_handshakes: HandshakeQueue
    max_metadata_bytes: int

    def note_change(self, decides: bool) -> None:
        """The state of a pod's connection changed. `decides`: other pods than before may be picked."""
        ...


class PodConnection:
    """`state`, `check_health`, `set_other_address` and `close` may be called from any thread, the rest from the loop's
    alone."""

    def __init__(self, engine: ConnectionsEngine, address: str, settings: ConnectionSettings) -> None:
        host, _, port = address.rpartition(":")
        self._engine, self._host, self._settings = engine, host.strip("[]"), settings
        self.turn, self.timers = engine.turn, engine.timers
        self._address = address
        self._links: list[PodLink] = []
        self._waiting: OrderedDict[PodAttempt, None] = OrderedDict()
        """Tries without a stream, in the order in which they came."""
        self._state = PodState.IDLE
        self._why = "there is no connection to it"
        timeout_ms = settings.connect_timeout_ms
        self._dialer = Dialer(engine.loop, engine.timers, (self._host, int(port)), timeout_ms, self)
        self._upkeep: LoopTimer | None = None
        self._connected_at_s = 0.0
        self._was_ready = settings.on_demand
        self._woken = self._closed = False
        self.authority = _authority(address, settings)
        self.scheme = b"http" if settings.tls is None else b"https"

    # --- the port for the balancer

    def state(self) -> PodState:
        if self._state is PodState.IDLE and not self._may_rest and not self._woken:
            self._woken = True
            self._engine.loop.call_soon_threadsafe(self._wake)
        return self._state

    @property
    def _may_rest(self) -> bool:
        """A connection with an idle timeout is opened once (unless on demand), to see that it can be; afterwards its
        RPCs open it, unless it fails."""
        return self._was_ready and self._settings.idle_timeout_ms is not None and self._state is not PodState.FAILING

    def _wake(self) -> None:
        self._woken = False
        if self._state is PodState.IDLE and not self._closed:
            self._extend()

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        self._engine.loop.call_soon_threadsafe(self._check_health, check, report)

    def _check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        if self._closed:
            return
        began_s = time.monotonic()
        probe = HealthProbe(check, report, lambda: self._closed, lambda: self._is_heard_since(began_s))
        fields = self.request_fields(CHECK_METHOD, check.authority)
        fields += [CONTENT_TYPE, (b"user-agent", f"grpcgw/{__version__}".encode())]
        deadline_s = began_s + check.timeout_ms / 1000
        probe.attempt = attempt = self.begin(None, probe, fields, Opening(probe.request(), True), deadline_s)
        if attempt in self._waiting:
            self._waiting.move_to_end(attempt, last=False)

    def _is_heard_since(self, since_s: float) -> bool:
        return any(link.received_at_s >= since_s for link in self._links)

    def set_other_address(self, address: str) -> None:
        self._engine.loop.call_soon_threadsafe(self._dialer.set_other_address, address)

    def close(self) -> None:
        self._closed = True
        self._engine.loop.call_soon_threadsafe(self.close_now)

    def close_now(self) -> None:
        """In the loop."""
        self._closed = True
        self._dialer.close()
        if self._upkeep is not None:
            self._upkeep.cancel()
        self._stop_waiting(POD_LEFT)
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
        rpc: OwnRpc | None,
        events: TryEvents,
        fields: list[Field],
        first: Opening,
        deadline_s: float | None,
        is_large: bool = False,
    ) -> PodAttempt:
        """Send an RPC to this pod as soon as it has a stream. `is_large`: as for PodAttempt.

        Raises ConnectionError if the connection is closed.
        """
        if self._closed:
            raise ConnectionError("the connection is closed")
        attempt = PodAttempt(self, rpc, events, fields, first, deadline_s, is_large)
        if not self._waiting and self._send(attempt):
            return attempt
        if self._state is PodState.FAILING and not self._has_usable_link():
            attempt.on_unsent(self._why)
        else:
            self._waiting[attempt] = None
            self._extend()
        return attempt

    def give_up(self, attempt: PodAttempt) -> None:
        self._waiting.pop(attempt, None)

    def is_too_large(self, fields_bytes: int) -> bool:
        return fields_bytes > self._engine.max_metadata_bytes

    def _send(self, attempt: PodAttempt) -> bool:
        """Whether some connection had a stream for it."""
        link = self._find_room()
        while link is not None and not link.open(attempt, time.monotonic()):
            link = self._find_room()
        return link is not None

    def _find_room(self) -> PodLink | None:
        for link in self._links:
            if len(link.streams) < link.most_streams and link.has_room():
                return link
        return self._find_crowded()

    def _find_crowded(self) -> PodLink | None:
        """A connection with many RPCs or resets: one that has rested since then, or else, while another is being
        opened, the one that may send most. Rather one that others may leave soon than one that they have left, where
        resets that wait would wait for the last RPC."""
        crowded = [link for link in self._links if link.has_room()]
        if not crowded:
            return None
        now_s = time.monotonic()
        for link in crowded:
            link.rest(now_s)
            if len(link.streams) < link.most_streams:
                return link
        self._extend()
        return max(crowded, key=lambda link: (not link.is_worn, link.resets_left(now_s)))

    def on_room(self) -> None:
        while self._waiting:
            attempt = next(iter(self._waiting))
            if not self._send(attempt):
                return
            self._waiting.pop(attempt, None)

    def _stop_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, OrderedDict()
        for attempt in waiting:
            attempt.on_unsent(why)

    # --- connecting

    def _extend(self) -> None:
        """Open another connection, where one more is allowed and none is being opened."""
        usable = self._count_usable()
        worn = sum(link.is_worn and not link.is_leaving for link in self._links)
        if usable - min(worn, MOST_WORN) < MAX_LINKS and self._dialer.dial() and not usable and not self._keeps_state:
            self._set_state(PodState.CONNECTING)

    @property
    def _keeps_state(self) -> bool:
        """While it connects: a pod that fails counts as failing until it is connected, and a connection that rests as
        ready, because an RPC must pick it to wake it."""
        return self._state is PodState.FAILING or self._may_rest

    def make_link(self) -> PodLink:
        tls, engine = self._settings.tls, self._engine
        secure = None
        if tls is not None:
            secure = engine.pod_handshakes, PodHandshake(tls, tls.server_name or self._host)
        return PodLink(self.turn, engine.max_metadata_bytes, secure, self)

    def on_connected(self, link: PodLink) -> None:
        if self._closed:
            link.close()
            return
        self._connected_at_s = time.monotonic()
        if link.is_lost or link.is_leaving:  # it has ended since its settings came
            link.close()
            self._lose_last(link)
            return
        self._links.append(link)
        self._was_ready = True
        self._set_state(PodState.READY)
        self.on_room()
        if self._waiting:
            self._extend()
        for other in tuple(self._links):
            if other.is_worn and not other.streams:
                other.close()
        self._schedule_upkeep()

    def on_dial_failed(self, why: str) -> None:
        if not self._closed:
            self._fail(f"cannot connect to {self._address}: {why}")

    def _fail(self, why: str) -> None:
        """There is no further connection for now."""
        self._dialer.back_off()
        if not self._has_usable_link():
            self._why = why
            self._set_state(PodState.FAILING)
            self._stop_waiting(why)

    def on_pause_over(self) -> None:
        if not self._closed and (self._waiting or not (self._has_usable_link() or self._may_rest)):
            self._extend()

    def _count_usable(self) -> int:
        return sum(not link.is_leaving for link in self._links)

    def _has_usable_link(self) -> bool:
        return any(not link.is_leaving for link in self._links)

    def _set_state(self, state: PodState) -> None:
        before, self._state = self._state, state
        if state is not before:
            rests = self._settings.idle_timeout_ms is not None and {state, before} == _RESTS_OR_NOT
            self._engine.note_change(decides=not rests)

    # --- a connection changed

    def on_change(self, link: PodLink) -> None:
        if link not in self._links:
            return
        if not link.streams and not link.is_lost and (link.is_leaving or self._is_spent(link)):
            link.close()
            return  # it comes here again
        if link.is_lost:
            self._links.remove(link)
        if self._closed or self._state is not PodState.READY:
            return
        if not self._has_usable_link():
            self._lose_last(link)
        elif self._waiting:
            self._extend()

    def _is_spent(self, link: PodLink) -> bool:
        """It has sent many resets, and another takes its place."""
        return link.is_worn and any(not other.is_worn and not other.is_leaving for other in self._links)

    def _lose_last(self, link: PodLink) -> None:
        """No connection takes new RPCs: connect again, at once if the last one was of use."""
        if self._has_usable_link():
            return
        was_of_use = (
            link.has_answered or link.is_worn or link.streams or time.monotonic() >= self._connected_at_s + SETTLED_S
        )
        if not was_of_use:
            why = "the pod sent GOAWAY" if link.is_leaving else link.lost_why
            self._fail(f"the connection to {self._address} ended as soon as it was established: {why}")
            return
        self._dialer.forget_failures()
        self._set_state(PodState.IDLE)
        if self._waiting:
            self._extend()

    # --- upkeep: keepalive and idle time

    def _schedule_upkeep(self) -> None:
        now_s = time.monotonic()
        due_s = min((self._due_s(link, now_s) for link in self._links), default=math.inf)
        if due_s == math.inf:
            return
        if self._upkeep is not None:
            self._upkeep.cancel()
        self._upkeep = self.timers.at(max(due_s, now_s + SHORTEST_PAUSE_S), self._keep_up)

    def _due_s(self, link: PodLink, now_s: float) -> float:
        """When to look at this connection again; infinite: never."""
        due_s, idle_s = math.inf, self._most_idle_s(link)
        if idle_s is not None:
            due_s = (now_s if link.streams else link.idle_since_s) + idle_s
        return due_s if self._settings.keepalive_time_s is None else min(due_s, self._ping_due_s(link))

    def _most_idle_s(self, link: PodLink) -> float | None:
        """A connection is closed after this time without RPCs; None: never."""
        idle_ms = self._settings.idle_timeout_ms
        if idle_ms is not None:
            return idle_ms / 1000
        return SPARE_IDLE_S if not link.is_leaving and self._count_usable() > 1 else None

    def _ping_due_s(self, link: PodLink) -> float:
        """When the next ping is due, or the answer to the last one at the latest."""
        settings = self._settings
        if link.pinged_at_s is not None:
            return max(link.pinged_at_s, link.received_at_s) + (settings.keepalive_timeout_s or PING_ANSWER_S)
        return link.received_at_s + (settings.keepalive_time_s or 0)

    def _keep_up(self) -> None:
        self._upkeep = None
        now_s = time.monotonic()
        for link in tuple(self._links):
            idle_s = self._most_idle_s(link)
            if idle_s is not None and not link.streams and now_s >= link.idle_since_s + idle_s:
                self._links.remove(link)
                link.close()
            elif self._settings.keepalive_time_s is not None and now_s >= self._ping_due_s(link):
                self._keep_alive(link, now_s)
        if self._state is PodState.READY and not self._has_usable_link():
            self._set_state(PodState.IDLE)
        self._schedule_upkeep()

    def _keep_alive(self, link: PodLink, now_s: float) -> None:
        if link.pinged_at_s is None:
            link.ping(now_s)
        else:
            link.fail("keepalive: the pod does not answer pings")


def _authority(address: str, settings: ConnectionSettings) -> bytes:
    """`:authority` of RPCs whose Mapping and client say none: the name that the pod's certificate carries, or the
    address."""
    tls = settings.tls
    if tls is not None and (tls.authority or tls.server_name):
        return (tls.authority or tls.server_name).encode("latin-1")
    return address.encode("latin-1")
