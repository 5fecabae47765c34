"""The http2 engine: drives sessions on libnghttp2, with one event loop in one thread for all clients and pods.

The parts: `h2` (the binding), `headers`; `port`, `arrival`, `client_connection`, `client_rpc` towards clients;
`pod_connection`, `pod_link`, `pod_attempt` towards pods; `turn` and `timers` of the loop. The loop is uvloop
(docs/decisions). Configuration comes from other threads: it changes `serving` and `ports`, which the loop only reads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from grpcgw.engines.contract import REFUSING_S, ServerOptions, sweep_interval_s
from grpcgw.engines.http2.client_rpc import ClientRpc
from grpcgw.engines.http2.coroutines import LoopCoroutine
from grpcgw.engines.http2.handshake import HandshakeQueue
from grpcgw.engines.http2.pod_connection import PodConnection
from grpcgw.engines.http2.port import Http2Port
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.turn import Turn
from grpcgw.engines.late_http_client import LateHttpClient
from grpcgw.listeners.open_ports import Ports, PortViews
from grpcgw.logs import DefectLog
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.listener import Listener
from grpcgw.policy.catalogue import CATALOGUE, Catalogue
from grpcgw.policy.contract import CoroutineWork, RunningWork
from grpcgw.session.serving import Serving
from grpcgw.telemetry.client_counters import ClientCounters
from grpcgw.upstream.pod import Connection, close_connections

log = logging.getLogger(__name__)

REFRESH_S = 0.05
"""Interval of looking at time-outs of pods and balancers; a changed connection is looked at once."""
CHANGE_SHARE = 4
"""While connections change all the time, refreshes take at most a fifth of the time."""
SETTLING_S = 0.005
"""The same while connections are being opened at the start."""
REFRESH_SHARE = 50
"""A refresh of many pods takes at most one fiftieth of the time."""
CUT_OFF_S = 1.0
"""Time for an RPC that was ended because its port closes to be over, before its connection is cut."""
LOOK_S = 0.01


class Http2Engine:
    name = "http2"

    def __init__(
        self,
        options: ServerOptions,
        first_turn: int = 0,
        drain_time_s: float = 30.0,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        self._options, self._drain_time_s = options, drain_time_s
        self.max_metadata_bytes = options.max_metadata_bytes
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.turn, self.timers = Turn(self.loop, options.busy_poll_s), Timers(self.loop)
        self.serving = Serving(self._connect, first_turn, drain_time_s, options.max_metadata_bytes, catalogue)
        self._http = self.serving.http = LateHttpClient()
        self.clients = self.serving.counters.clients = ClientCounters()
        self.ports = Ports(self._open_port)
        self.active: set[ClientRpc] = set()
        self.handshakes = HandshakeQueue(self.loop, "grpcgw handshakes")
        self.pod_handshakes = HandshakeQueue(self.loop, "grpcgw pod handshakes")
        """A thread of its own: a storm of clients must not delay connections to pods until they time out."""
        self._closing_ports: dict[Http2Port, float] = {}
        self._coroutines: set[LoopCoroutine] = set()
        self._thread = threading.Thread(target=self._run_loop, name="grpcgw loop", daemon=True)
        self._settled = threading.Event()
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._refresh_soon = self._changed = False
        self._next_refresh_s = 0.0
        """Earliest monotonic time of a refresh for a changed connection."""
        self._defects = DefectLog(log)
        self.loop.set_exception_handler(self._note_defect)

    # --- called from outside the loop

    def start(self, settle_s: float) -> None:
        self._thread.start()
        self.loop.call_soon_threadsafe(self._begin)
        self._settled.wait(settle_s)

    def drain(self, limit_s: float) -> None:
        self.serving.begin_drain(time.monotonic())
        limit = time.monotonic() + limit_s
        threading.Event().wait(min(REFUSING_S, limit_s))
        self.ports.update(())
        self._call(self._finish(limit))

    def stop(self) -> None:
        if self._thread.is_alive():
            if not self.serving.draining:
                self.drain(0.0)
            self._call(self._close())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.handshakes.close()
        self.pod_handshakes.close()
        self.loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _note_defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's own handler would log each: a client may cause any number."""
        error = context.get("exception")
        with self._defects.contained("a callback of the loop failed:", str(context.get("message"))):
            raise error if isinstance(error, Exception) else RuntimeError(str(context))

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _open_port(self, listener: Listener, views: PortViews) -> Http2Port:
        port = Http2Port(self, self._options, listener, views, self._note_closing)
        self._call(port.start())
        return port

    def _note_closing(self, port: Http2Port) -> None:
        self.loop.call_soon_threadsafe(self._begin_to_close, port)

    def _connect(self, address: str, settings: ConnectionSettings) -> Connection:
        return PodConnection(self, address, settings)

    # --- in the loop

    def _begin(self) -> None:
        self._refresh()
        self._sweep()

    def _begin_to_close(self, port: Http2Port) -> None:
        self._closing_ports[port] = time.monotonic() + self._drain_time_s
        port.begin_to_close()

    async def _finish(self, limit_s: float) -> None:
        """Wait until the last RPC is over, at the latest until `limit_s`, then end the rest."""
        await self._wait_closed(limit_s)
        for port in tuple(self._closing_ports):
            port.end_rpcs()
        await self._wait_closed(time.monotonic() + CUT_OFF_S)

    async def _wait_closed(self, limit_s: float) -> None:
        for port in tuple(self._closing_ports):
            await port.wait_closed(limit_s - time.monotonic())

    async def _close(self) -> None:
        for handle in (self._refresh_timer, self._sweep_timer):
            if handle is not None:
                handle.cancel()
        for port in tuple(self._closing_ports):
            port.cut_off()
        for coroutine in tuple(self._coroutines):
            coroutine.cancel()
        await self._http.close()
        close_connections(self.serving.clusters.pods())
        await asyncio.sleep(0)
        self.timers.close()
        self.turn.memory.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CUT_OFF_S)
        await asyncio.sleep(LOOK_S)  # transports close in the next turns of the loop

    # --- housekeeping

    def note_change(self, decides: bool) -> None:
        """The state of a pod's connection changed: refresh the pickers soon if that `decides` which pods are picked."""
        self._changed = True
        if decides and not self._refresh_soon and self._refresh_timer is not None:
            self._refresh_soon = True
            self._refresh_timer.cancel()
            self._refresh_timer = self.loop.call_later(max(0.0, self._next_refresh_s - time.monotonic()), self._refresh)

    def _refresh(self) -> None:
        self._refresh_soon = False
        began_s = time.monotonic()
        pause_s = REFRESH_S
        looks, self._changed = self._changed, False
        with self._defects.contained("housekeeping failed"):
            over, looks = self.serving.refresh(began_s, looks), False
            close_connections(over)
            self._see_ports_out(began_s)
            if self.serving.clusters.settled():
                self._settled.set()
            elif not self._settled.is_set():
                pause_s = SETTLING_S
        self._changed |= looks  # where the refresh failed
        ended_s = time.monotonic()
        took_s = ended_s - began_s
        self._next_refresh_s = ended_s + CHANGE_SHARE * took_s
        self._refresh_timer = self.loop.call_later(max(pause_s, REFRESH_SHARE * took_s), self._refresh)

    def _see_ports_out(self, now_s: float) -> None:
        """End what still runs on ports whose drain time is over."""
        for port, limit_s in tuple(self._closing_ports.items()):
            if port.is_closed():
                del self._closing_ports[port]
            elif now_s >= limit_s + CUT_OFF_S:
                port.cut_off()
            elif now_s >= limit_s:
                port.end_rpcs()

    def _sweep(self) -> None:
        now_s = time.monotonic()
        for rpc in tuple(self.active):
            rpc.sweep(now_s)
        self._sweep_timer = self.loop.call_later(sweep_interval_s(self.serving.snapshot), self._sweep)

    # --- coroutines of policies

    def run_coroutine(self, work: CoroutineWork, on_result: Callable[[object], None]) -> RunningWork:
        running = LoopCoroutine(self.loop, work, on_result, self._coroutines.discard)
        self._coroutines.add(running)
        return running
