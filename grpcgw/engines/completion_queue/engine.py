"""The default engine: sessions driven directly by grpcio's completion queues, without a thread per RPC.

It and its ports alone import `grpc._cython`. One thread takes the events of all ports, one per pod that pod's events,
and one keeps house (join windows, connection states, idle RPCs, ports that close). An RPC's events may come from two
of them: its lock makes them one at a time. `check_fit` says whether the installed grpcio has the shape used here;
where it has not, importing this module raises EngineUnfit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

# Must be set before grpc is imported. With the event engine off, the thread that waits on a queue does its socket I/O
# as well: about a third less CPU per RPC (docs/performance.md). The backup poller notices what happens to a
# connection while no RPC is on it; its default of 5 s would leave a dead pod in the picker for as long.
# None of this is for a program that embeds the gateway, which never imports this module.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")
os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "200")

import grpc
from grpc._cython import cygrpc

from grpcgw import __version__
from grpcgw.engines.completion_queue.port import QueuePort
from grpcgw.engines.contract import REFUSING_S, ServerOptions, channel_arguments, pod_target, sweep_interval_s
from grpcgw.engines.exchange import Exchange, begin_exchange
from grpcgw.engines.health_probe import CHECK_METHOD, encode_request, judge_answer
from grpcgw.engines.pod_credentials import make_credentials
from grpcgw.errors import EngineUnfit
from grpcgw.listeners.open_ports import Ports, PortView
from grpcgw.logs import DefectLog
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.endpoints import PodState
from grpcgw.model.listener import Listener
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import POD_LEFT, Reason, Status, core_cause
from grpcgw.policy.client_certificates import read_certificate
from grpcgw.policy.held_messages import HeldMessages
from grpcgw.policy.request import Peer, Request, parse_peer
from grpcgw.policy.timeouts import upstream_deadline
from grpcgw.session.call import JOIN_WINDOW_S, Attempt, CopyEvents, Opening
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Pod, close_connections

if TYPE_CHECKING:
    from grpcgw.upstream.pod import Connection

log = logging.getLogger(__name__)

NO_FLAGS = 0
NO_DEADLINE_S = 4e9
"""cygrpc gives "no deadline" as a huge epoch value; taken for a deadline it would end every RPC at once."""
REFRESH_S = 0.05
"""How often connections are looked at; faster (JOIN_WINDOW_S) while some are still connecting."""
KNOWN_PEERS = 4096
CUT_OFF_S = 1.0
"""How long an RPC that was ended because its port closes may take to be over, before core cuts it off."""
CANCELLED, UNAVAILABLE = 1, 14

Event = Any
"""cygrpc's BatchOperationEvent or RequestCallEvent: no type information is published for them."""

_STATES = {0: PodState.IDLE, 1: PodState.CONNECTING, 2: PodState.READY, 3: PodState.FAILING, 4: PodState.FAILING}

_USED = {
    "Channel": ("integrated_call", "check_connectivity_state", "next_call_event", "close_on_fork"),
    "Server": (
        "request_call",
        "register_completion_queue",
        "add_http2_port",
        "start",
        "shutdown",
        "cancel_all_calls",
        "destroy",
    ),
    "CompletionQueue": ("poll", "shutdown"),
    "CompletionType": ("queue_shutdown", "queue_timeout"),
    "IntegratedCall": ("operate", "cancel"),
    "Call": ("start_server_batch", "peer", "cancel"),
    "BatchOperationEvent": ("batch_operations", "success", "tag"),
    "RequestCallEvent": ("call", "call_details", "invocation_metadata"),
    "auth_context": (),
    "ReceiveCloseOnServerOperation": ("cancelled",),
    "ReceiveMessageOperation": ("message",),
    "ReceiveInitialMetadataOperation": ("initial_metadata",),
    "ReceiveStatusOnClientOperation": ("code", "details", "trailing_metadata"),
    "SendInitialMetadataOperation": (),
    "SendMessageOperation": (),
    "SendStatusFromServerOperation": (),
    "SendCloseFromClientOperation": (),
}


def check_fit() -> None:
    """Raise EngineUnfit where the installed grpcio lacks what this engine calls. Runs when the module is imported."""
    missing = [name for name in _USED if not hasattr(cygrpc, name)]
    missing += [
        f"{name}.{attribute}"
        for name, attributes in _USED.items()
        for attribute in attributes
        if name not in missing and not hasattr(getattr(cygrpc, name), attribute)
    ]
    if missing:
        raise EngineUnfit(f"grpcio {grpc.__version__} does not have {', '.join(missing)}")


check_fit()

_RECEIVE_CLOSE = cygrpc.ReceiveCloseOnServerOperation
_RECEIVE_MESSAGE = cygrpc.ReceiveMessageOperation
_RECEIVE_HEADERS = cygrpc.ReceiveInitialMetadataOperation
_RECEIVE_STATUS = cygrpc.ReceiveStatusOnClientOperation
_SEND_HEADERS = cygrpc.SendInitialMetadataOperation
_SEND_MESSAGE = cygrpc.SendMessageOperation
_SEND_STATUS = cygrpc.SendStatusFromServerOperation
_HALF_CLOSE = cygrpc.SendCloseFromClientOperation(NO_FLAGS)


class _PodConnection:
    """A channel to one pod and the thread that takes its events."""

    def __init__(self, address: str, max_metadata_bytes: int, settings: ConnectionSettings) -> None:
        arguments = tuple(channel_arguments(max_metadata_bytes, f"grpcgw/{__version__}", settings))
        credentials = None if settings.tls is None else make_credentials(settings.tls)._credentials
        self._channel = cygrpc.Channel(pod_target(address).encode(), arguments, credentials)
        self._rests = settings.idle_timeout_ms is not None
        self._woken = False
        self.integrated_call = self._channel.integrated_call
        self.closing = False
        self._thread = threading.Thread(target=self._run, name=f"grpcgw pod {address}", daemon=True)
        self._thread.start()

    def state(self) -> PodState:
        # A connection that may rest is woken once, to know that it can be; afterwards by its RPCs alone.
        state = _STATES[self._channel.check_connectivity_state(not (self._rests and self._woken))]
        self._woken |= state is PodState.READY
        return state

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        def on_answer(event: Event) -> None:
            *_, reply, status = event.batch_operations
            if not self.closing:
                report(judge_answer(check, status.code(), status.details(), reply.message()))

        message = _SEND_MESSAGE(encode_request(check), NO_FLAGS)
        answer = (_RECEIVE_HEADERS(NO_FLAGS), _RECEIVE_MESSAGE(NO_FLAGS), _RECEIVE_STATUS(NO_FLAGS))
        batches = (((_SEND_HEADERS((), NO_FLAGS), message, _HALF_CLOSE, *answer), on_answer),)
        deadline_s = time.time() + check.timeout_ms / 1000
        authority = check.authority.encode() or None
        self.integrated_call(NO_FLAGS, CHECK_METHOD.encode(), authority, deadline_s, (), None, batches, None)

    def close(self) -> None:
        self.closing = True
        # A call whose deadline has passed ends at once: its event wakes the thread, which then closes the channel.
        batches = (((_RECEIVE_STATUS(NO_FLAGS),), _ignore),)
        self.integrated_call(NO_FLAGS, b"/", None, time.time() - 1, (), None, batches, None)
        self._thread.join()

    def _run(self) -> None:
        next_event = self._channel.next_call_event
        while not self.closing:
            event = next_event()
            try:
                event.tag(event)
            except Exception:  # the thread serves every RPC on this pod: nothing one of them does may end it
                _contain(event.tag)
        # Despite its name this is the close that cancels running calls and takes their events in this thread.
        self._channel.close_on_fork(UNAVAILABLE, POD_LEFT)


def _ignore(event: Event) -> None:
    """For batches whose end tells nothing."""


def _contain(handler: object) -> None:
    """An event could not be handled: the RPC whose it was ends, and nothing else does."""
    owner = getattr(handler, "__self__", None)
    if isinstance(owner, _Attempt):
        owner = owner._rpc
    if isinstance(owner, _Rpc | _Copying):
        owner.end_for_defect()
    else:
        log.exception("defect: an event could not be handled")


class _Attempt:
    """One try on one pod. Its events reach the session (or the copy) only while it is the RPC's current try."""

    __slots__ = ("_answered", "_call", "_connection", "_rpc", "over")

    def __init__(self, rpc: _Rpc | _Copying, connection: _PodConnection) -> None:
        self._rpc, self._connection = rpc, connection
        self._call: Any = None
        self._answered = False
        """Headers were reported before the status: the pod's, if nothing else shows whose."""
        self.over = False

    def open(self, path: bytes, authority: bytes, metadata: Metadata, deadline_s: float | None, first: Opening) -> None:
        opening: tuple[Any, ...] = (_SEND_HEADERS(metadata, NO_FLAGS),)
        if first.message is not None:
            opening += (_SEND_MESSAGE(first.message, NO_FLAGS),)
        # Headers and status have events of their own: which of them comes first is what `_cause` goes by.
        if first.half_close:
            # Nothing more will be sent: that this was written need not be known before the headers are here.
            sending, on_headers = ((*opening, _HALF_CLOSE), _ignore), self._on_whole
        else:
            sending, on_headers = (opening, self._on_sent), self._on_headers
        # Sent last: of what has come before it is asked for, headers come first whoever made them.
        batches = (
            ((_RECEIVE_HEADERS(NO_FLAGS),), on_headers),
            ((_RECEIVE_MESSAGE(NO_FLAGS),), self._on_message),
            ((_RECEIVE_STATUS(NO_FLAGS),), self._on_status),
            sending,
        )
        try:
            self._call = self._connection.integrated_call(
                NO_FLAGS, path, authority, deadline_s, metadata, None, batches, None
            )
        except ValueError as closed:  # the channel was closed after the pod was picked
            raise ConnectionError(str(closed)) from closed

    def read(self) -> None:
        # False once the call is over: its status tells, and nothing is left to be read then.
        if not self._call.operate((_RECEIVE_MESSAGE(NO_FLAGS),), self._on_message):
            self._rpc.session.on_no_more_replies()

    def send(self, message: bytes | None, half_close: bool) -> None:
        operations = () if message is None else (_SEND_MESSAGE(message, NO_FLAGS),)
        self._call.operate((*operations, _HALF_CLOSE) if half_close else operations, self._on_sent)

    def cancel(self) -> None:
        self._call.cancel(CANCELLED, "the RPC ended on the client's side")

    def _on_whole(self, event: Event) -> None:
        rpc = self._rpc
        headers = event.batch_operations[0].initial_metadata() if event.success else None
        with rpc.lock:
            self._answered = event.success
            if rpc.attempt is self:
                now_s = time.monotonic()
                rpc.session.on_pod_sent(event.success, now_s)
                rpc.session.on_pod_headers(headers, now_s)

    def _on_sent(self, event: Event) -> None:
        rpc = self._rpc
        with rpc.lock:
            if rpc.attempt is self:
                rpc.session.on_pod_sent(event.success, time.monotonic())

    def _on_headers(self, event: Event) -> None:
        rpc = self._rpc
        headers = event.batch_operations[0].initial_metadata() if event.success else None
        with rpc.lock:
            self._answered = event.success
            if rpc.attempt is self:
                rpc.session.on_pod_headers(headers, time.monotonic())

    def _on_message(self, event: Event) -> None:
        rpc = self._rpc
        with rpc.lock:
            if rpc.attempt is self:
                rpc.session.on_pod_message(event.batch_operations[0].message(), time.monotonic())

    def _on_status(self, event: Event) -> None:
        rpc = self._rpc
        received = event.batch_operations[0]
        with rpc.lock:
            self.over = True
            code, details = received.code(), received.details()
            status = Status(code, details, received.trailing_metadata(), self._cause(code, details) if code else None)
            if rpc.attempt is self:
                rpc.session.on_pod_status(status, time.monotonic())
                rpc.release()

    def _cause(self, code: int, details: str) -> Reason | None:
        """Why core ended the call, where it provably was core: the status comes before headers, or without any.

        Core reports a pod's headers when it has read them, and its status after them. A call that core ends itself
        it gives a status first, and then, for the headers that never came, an empty list; nothing, where the call never
        got as far as a stream. All come through one queue, in that order.
        """
        if self._connection.closing and POD_LEFT in details:
            return Reason.CONNECTION_LOST
        return None if self._answered else core_cause(code, details)


class _Rpc:
    """One RPC on the client's side: the session's `Call`."""

    __slots__ = ("_asked_again", "_call", "_closed", "_engine", "attempt", "lock", "port", "session")

    def __init__(self, engine: CompletionQueueEngine, port: QueuePort, event: Event, now_s: float) -> None:
        self._engine, self.port, self._call = engine, port, event.call
        self.lock = threading.Lock()
        self._closed = self._asked_again = False
        self.attempt: _Attempt | None = None
        details = event.call_details
        deadline_s, wall_s = details.deadline, time.time()
        request = Request(
            details.method.decode("utf-8", "replace"),
            details.host.decode("utf-8", "replace"),
            event.invocation_metadata,
            now_s + deadline_s - wall_s if deadline_s < NO_DEADLINE_S else None,
            engine.peer(event.call),
            wall_s,
            port.view,
        )
        if engine.serving.wants_certificate(port.view):
            request.certificate = read_certificate(cygrpc.auth_context(event.call))
        self.session: Exchange = begin_exchange(engine.serving, self, request, now_s)

    def start(self, now_s: float) -> None:
        with self.lock:
            self._call.start_server_batch((_RECEIVE_CLOSE(NO_FLAGS),), self._on_closed)
            self.session.start(now_s)

    # --- what the session asks for

    def read(self) -> None:
        self._call.start_server_batch((_RECEIVE_MESSAGE(NO_FLAGS),), self._on_message)

    def send(self, headers: Metadata | None, message: bytes | None) -> None:
        operations: tuple[Any, ...] = () if headers is None else (_SEND_HEADERS(headers, NO_FLAGS),)
        if message is not None:
            operations += (_SEND_MESSAGE(message, NO_FLAGS),)
        self._call.start_server_batch(operations, self._on_sent)

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        operations: tuple[Any, ...] = () if headers_sent else (_SEND_HEADERS(headers or (), NO_FLAGS),)
        if message is not None:
            operations += (_SEND_MESSAGE(message, NO_FLAGS),)
        operations += (_SEND_STATUS(status.trailers, status.code, status.details, NO_FLAGS),)
        self._call.start_server_batch(operations, _ignore)

    def abort(self, status: Status) -> None:
        self._call.cancel(status.code, status.details)

    def join(self, delay_s: float = JOIN_WINDOW_S) -> None:
        self._engine.join(self, delay_s)

    def leave(self) -> None:
        self._engine.joining.pop(self, None)

    def open(
        self,
        pod: Pod,
        path: str,
        authority: str,
        metadata: Metadata,
        deadline_s: float | None,
        first: Opening,
        copy: CopyEvents | None = None,
    ) -> Attempt:
        connection = pod.connection
        assert isinstance(connection, _PodConnection)
        if deadline_s is not None:
            now_s = time.time()
            deadline_s = upstream_deadline(now_s + deadline_s - time.monotonic(), now_s)
        owner = self if copy is None else _Copying(copy)
        owner.attempt = attempt = _Attempt(owner, connection)
        attempt.open(path.encode(), authority.encode(), metadata, deadline_s, first)
        return attempt

    # --- what grpc core reports

    def _on_message(self, event: Event) -> None:
        message = event.batch_operations[0].message()
        with self.lock:
            if self._closed:
                return
            if not event.success:  # not a half-close: a message that core refuses, `_on_closed` follows
                self.session.on_message_refused()
            elif message is None and not self._asked_again:
                # A half-close, or a client that is gone: core says the same of both. It closes a stream that is cut
                # off in one step, so that what it answers to a second question comes after `_on_closed`.
                self._asked_again = True
                self.read()
            else:
                self.session.on_request_message(message, time.monotonic())

    def _on_sent(self, event: Event) -> None:
        with self.lock:
            self.session.on_client_sent(event.success, time.monotonic())

    def _on_closed(self, event: Event) -> None:
        self._engine.forget(self)
        with self.lock:
            if event.batch_operations[0].cancelled():
                self.session.on_client_closed(time.monotonic())
            self._closed = True
            self.release()

    def release(self) -> None:
        """Let go of what is over. Without it the objects of an RPC hold each other until the garbage collector runs,
        and grpc core counts a call as an open stream for as long."""
        if self._closed:
            self._call = None
            if self.attempt is not None and self.attempt.over:
                self.attempt = None

    # --- what housekeeping asks

    def on_join_expired(self, now_s: float) -> None:
        self._tell(self.session.on_join_expired, now_s)

    def sweep(self, now_s: float) -> None:
        self._tell(self.session.on_sweep, now_s)

    def end_for_drain(self, now_s: float) -> None:
        self._tell(self.session.on_drained, now_s)

    def _tell(self, event: Callable[[float], None], now_s: float) -> None:
        try:
            with self.lock:
                event(now_s)
        except Exception:  # housekeeping goes on with the other RPCs
            self.end_for_defect()

    def end_for_defect(self) -> None:
        """For an exception that is being handled."""
        log.exception("defect: an event of an RPC could not be handled")
        try:
            with self.lock:
                self.session.on_defect(time.monotonic())
        except Exception:  # two defects in one RPC: the others must go on
            log.exception("defect: an RPC could not be ended")


class _Copying:
    """Stands in for the RPC where a try is a copy's, which may outlive it."""

    __slots__ = ("attempt", "session")

    lock = contextlib.nullcontext()
    """A copy locks itself."""

    def __init__(self, copy: CopyEvents) -> None:
        self.session = copy
        self.attempt: _Attempt | None = None

    def release(self) -> None:
        self.attempt = None

    def end_for_defect(self) -> None:
        """As `_Rpc` does."""
        log.exception("defect: an event of a copy could not be handled")
        try:
            self.session.on_defect(time.monotonic())
        except Exception:
            log.exception("defect: a copy could not be ended")


class CompletionQueueEngine:
    name = "completion-queue"

    def __init__(self, options: ServerOptions, first_turn: int = 0, drain_time_s: float = 30.0) -> None:
        self._options, self._drain_time_s = options, drain_time_s
        self.serving = Serving(self._connect, first_turn, drain_time_s, options.max_metadata_bytes)
        self.serving.held = HeldMessages(options.max_message_bytes)
        self.joining: dict[_Rpc, float] = {}
        self._active: set[_Rpc] = set()
        self._peers: dict[bytes, Peer] = {}
        self.ports = Ports(self._open_port)
        self._queue: Any = None
        self._closing_ports: dict[QueuePort, float] = {}
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._housekeeping_wanted = threading.Event()
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
        for rpc in self._active.copy():
            rpc.sweep(time.monotonic())
        if not self._wait_closed(limit):
            for rpc in self._active.copy():
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
        self._stopping.set()
        self._housekeeping_wanted.set()
        if self._queue is not None:
            self._queue.shutdown()
        for thread in self._threads:
            thread.join()
        close_connections(self.serving.clusters.pods())

    # --- ports

    def _open_port(self, listener: Listener, view: PortView) -> QueuePort:
        return QueuePort(self._queue, self._options, listener, view, self._take, self._note_closing)

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
                for rpc in [rpc for rpc in self._active.copy() if rpc.port is port]:
                    rpc.end_for_drain(now_s)

    def _connect(self, address: str, settings: ConnectionSettings) -> Connection:
        return _PodConnection(address, self._options.max_metadata_bytes, settings)

    # --- RPCs

    def peer(self, call: Any) -> Peer:
        text = call.peer()
        peer = self._peers.get(text)
        if peer is None:
            if len(self._peers) >= KNOWN_PEERS:
                self._peers.clear()
            peer = self._peers[text] = parse_peer(text.decode() if isinstance(text, bytes) else text)
        return peer

    def join(self, rpc: _Rpc, delay_s: float) -> None:
        self.joining[rpc] = time.monotonic() + delay_s
        if not self._housekeeping_wanted.is_set():
            self._housekeeping_wanted.set()

    def forget(self, rpc: _Rpc) -> None:
        self._active.discard(rpc)

    def _take(self, port: QueuePort, event: Event) -> None:
        now_s = time.monotonic()
        rpc = _Rpc(self, port, event, now_s)
        self._active.add(rpc)
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
            except Exception:  # the thread serves every RPC: nothing one of them does may end it
                _contain(event.tag)

    # --- housekeeping

    def _run_housekeeping(self) -> None:
        defects = DefectLog(log)
        while not self._stopping.is_set():
            try:
                self._keep_house()
            except Exception:  # without this thread joins never expire and dead pods stay: it must go on
                defects.note("housekeeping stumbled")
                self._stopping.wait(REFRESH_S)

    def _keep_house(self) -> None:
        next_refresh_s = next_sweep_s = 0.0
        while not self._stopping.is_set():
            now_s = time.monotonic()
            self._expire_joins(now_s)
            if now_s >= next_refresh_s:
                next_refresh_s = now_s + (REFRESH_S if self._refresh(now_s) else JOIN_WINDOW_S)
            if now_s >= next_sweep_s:
                next_sweep_s = now_s + sweep_interval_s(self.serving.snapshot)
                for rpc in self._active.copy():
                    rpc.sweep(now_s)
            self._rest(min(next_refresh_s, next_sweep_s) - now_s)

    def _rest(self, at_most_s: float) -> None:
        if self.joining:
            self._stopping.wait(min(JOIN_WINDOW_S, at_most_s))
        else:
            self._housekeeping_wanted.clear()
            if not self.joining:
                self._housekeeping_wanted.wait(at_most_s)

    def _expire_joins(self, now_s: float) -> None:
        for rpc, due_s in self.joining.copy().items():  # copy() is one step, iterating is not
            if due_s <= now_s:
                self.joining.pop(rpc, None)
                rpc.on_join_expired(now_s)

    def _refresh(self, now_s: float) -> bool:
        """Whether every connection has come to rest."""
        close_connections(self.serving.refresh(now_s))
        self._see_ports_out(now_s)
        settled = self.serving.clusters.settled()
        if settled:
            self._settled.set()
        return settled
