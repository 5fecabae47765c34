"""The completion-queue engine (default): drives sessions by grpcio's completion queues, without a thread per RPC.

One thread takes the events of all ports, one per pod that pod's events, and one does the housekeeping (timers,
connection states, sweeps of RPCs, closing ports). The parts: `core` (what is used of grpcio's private API), `port`,
`client_rpc`, `pod_connection`, `pod_attempt`. Importing this module raises EngineUnfit where grpcio does not fit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from grpcgw.engines.completion_queue.client_rpc import ClientRpc
from grpcgw.engines.completion_queue.core import Event, cygrpc
from grpcgw.engines.completion_queue.pod_attempt import contain
from grpcgw.engines.completion_queue.pod_connection import PodConnection
from grpcgw.engines.completion_queue.port import QueuePort
from grpcgw.engines.contract import REFUSING_S, ServerOptions, sweep_interval_s
from grpcgw.engines.coroutine_loop import CoroutineLoop
from grpcgw.engines.grpc_limits import why_unsupported
from grpcgw.errors import UserError
from grpcgw.listeners.open_ports import Ports, PortViews
from grpcgw.logs import DefectLog
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.listener import Listener
from grpcgw.policy.catalogue import CATALOGUE, Catalogue
from grpcgw.policy.held_messages import HeldMessages
from grpcgw.policy.request import Peer, parse_peer
from grpcgw.session.call import COALESCE_WINDOW_S, Timer
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Connection, close_connections

log = logging.getLogger(__name__)

REFRESH_S = 0.05
"""Interval of checking connections; shorter (COALESCE_WINDOW_S) while some are still connecting."""
KNOWN_PEERS = 4096
CUT_OFF_S = 1.0
"""Time for an RPC that was ended because its port closes to be over, before core cuts it off."""


class CompletionQueueEngine:
    name = "completion-queue"

    def __init__(
        self,
        options: ServerOptions,
        first_turn: int = 0,
        drain_time_s: float = 30.0,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        self._options, self._drain_time_s = options, drain_time_s
        self.serving = Serving(self._connect, first_turn, drain_time_s, options.max_metadata_bytes, catalogue)
        self.coroutines = CoroutineLoop()
        self.serving.held = HeldMessages(options.max_message_bytes)
        self.timers: dict[ClientRpc, tuple[float, Timer]] = {}
        self.active: set[ClientRpc] = set()
        self._peers: dict[bytes, Peer] = {}
        self.ports = Ports(self._open_port)
        self._queue: Any = None
        self._closing_ports: dict[QueuePort, float] = {}
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._wake_housekeeping = threading.Event()
        self._threads: list[threading.Thread] = []

    # --- life

    def start(self, settle_s: float) -> None:
        self._queue = cygrpc.CompletionQueue()
        self._spawn("server", self._run_server)
        self._spawn("housekeeping", self._run_housekeeping)
        self._settled.wait(settle_s)

    def _spawn(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"grpcgw {name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def drain(self, limit_s: float) -> None:
        self.serving.begin_drain(time.monotonic())
        limit = time.monotonic() + limit_s
        self._stopping.wait(min(REFUSING_S, limit_s))
        self.ports.update(())
        for rpc in self.active.copy():
            rpc.sweep(time.monotonic())
        if not self._wait_closed(limit):
            for rpc in self.active.copy():
                rpc.end_for_drain(limit)
            self._wait_closed(time.monotonic() + CUT_OFF_S)

    def _wait_closed(self, limit_s: float) -> bool:
        return all(port.closed.wait(max(0.0, limit_s - time.monotonic())) for port in self._closing_ports.copy())

    def stop(self) -> None:
        if not self.serving.draining:
            self.drain(0.0)
        for port in self._closing_ports.copy():
            if not port.closed.is_set():
                port.cut_off()
                port.closed.wait()
        self.coroutines.stop()
        self._stopping.set()
        self._wake_housekeeping.set()
        if self._queue is not None:
            self._queue.shutdown()
        for thread in self._threads:
            thread.join()
        close_connections(self.serving.clusters.pods())

    # --- ports

    def _open_port(self, listener: Listener, views: PortViews) -> QueuePort:
        if why := why_unsupported(listener):
            raise UserError(why)
        return QueuePort(self._queue, self._options, listener, views, self._take, self._note_closing)

    def _note_closing(self, port: QueuePort) -> None:
        self._closing_ports[port] = time.monotonic() + self._drain_time_s

    def _see_ports_out(self, now_s: float) -> None:
        """End what still runs on ports whose drain time is over."""
        for port, limit_s in self._closing_ports.copy().items():
            if port.closed.is_set():
                del self._closing_ports[port]
            elif now_s >= limit_s + CUT_OFF_S:
                port.cut_off()
            elif now_s >= limit_s:
                for rpc in [rpc for rpc in self.active.copy() if rpc.port is port]:
                    rpc.end_for_drain(now_s)

    def _connect(self, address: str, settings: ConnectionSettings) -> Connection:
        return PodConnection(address, self._options.max_metadata_bytes, settings, contain)

    # --- RPCs

    def peer(self, call: Any) -> Peer:
        text = call.peer()
        peer = self._peers.get(text)
        if peer is None:
            if len(self._peers) >= KNOWN_PEERS:
                self._peers.clear()
            peer = self._peers[text] = parse_peer(text.decode() if isinstance(text, bytes) else text)
        return peer

    def set_timer(self, rpc: ClientRpc, timer: Timer, delay_s: float) -> None:
        self.timers[rpc] = time.monotonic() + delay_s, timer
        if not self._wake_housekeeping.is_set():
            self._wake_housekeeping.set()

    def forget(self, rpc: ClientRpc) -> None:
        self.active.discard(rpc)

    def _take(self, port: QueuePort, event: Event) -> None:
        now_s = time.monotonic()
        rpc = ClientRpc(self, port, event, now_s)
        self.active.add(rpc)
        try:
            rpc.start(now_s)
        except Exception:  # see _run_server
            rpc.end_for_defect()

    def _run_server(self) -> None:
        poll = self._queue.poll
        while True:
            event = poll()
            if event.completion_type == cygrpc.CompletionType.queue_shutdown:
                return
            if event.completion_type == cygrpc.CompletionType.queue_timeout:
                continue
            try:
                event.tag(event)
            except Exception:  # the thread serves every RPC: an exception of one must not end it
                contain(event.tag)

    # --- housekeeping

    def _run_housekeeping(self) -> None:
        defects = DefectLog(log)
        while not self._stopping.is_set():
            try:
                self._keep_house()
            except Exception:  # without this thread timers never expire and dead pods stay: it must go on
                defects.note("housekeeping failed")
                self._stopping.wait(REFRESH_S)

    def _keep_house(self) -> None:
        next_refresh_s = next_sweep_s = 0.0
        while not self._stopping.is_set():
            now_s = time.monotonic()
            self._expire_timers(now_s)
            if now_s >= next_refresh_s:
                next_refresh_s = now_s + (REFRESH_S if self._refresh(now_s) else COALESCE_WINDOW_S)
            if now_s >= next_sweep_s:
                next_sweep_s = now_s + sweep_interval_s(self.serving.snapshot)
                for rpc in self.active.copy():
                    rpc.sweep(now_s)
            self._rest(min(next_refresh_s, next_sweep_s) - now_s)

    def _rest(self, at_most_s: float) -> None:
        if self.timers:
            self._stopping.wait(min(COALESCE_WINDOW_S, at_most_s))
        else:
            self._wake_housekeeping.clear()
            if not self.timers:
                self._wake_housekeeping.wait(at_most_s)

    def _expire_timers(self, now_s: float) -> None:
        for rpc, due in self.timers.copy().items():  # copy() is one step, iterating is not
            if due[0] <= now_s:
                rpc.expire(due, now_s)

    def _refresh(self, now_s: float) -> bool:
        """Whether every connection is either established or has failed."""
        close_connections(self.serving.refresh(now_s))
        self._see_ports_out(now_s)
        settled = self.serving.clusters.settled()
        if settled:
            self._settled.set()
        return settled
