"""A worker: one engine, and the messages that configure it. Runs as a process, or inside the control process.

`python -m grpcgw.workers.worker FD LOG` is the process: it handles the messages of the inherited socket FD and ends
when the socket is closed; its log goes to the descriptor LOG. It is a fresh interpreter, not a fork, so that no grpc
object exists before the process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from grpcgw.engines.contract import Engine, ServerOptions, quiet_core
from grpcgw.errors import UserError
from grpcgw.listeners.open_ports import PortFault
from grpcgw.logs import DefectLog, set_up_logging
from grpcgw.model.difference import WrongBase, apply_difference
from grpcgw.model.jwt import MissingKey
from grpcgw.model.listener import Listener
from grpcgw.model.log_format import LogFormat, LogType
from grpcgw.model.snapshot import Snapshot
from grpcgw.policy.limits.limiter import Limiter
from grpcgw.routing.binding import CannotServe
from grpcgw.session.serving import RpcLog, Serving
from grpcgw.settings import AccessLogMode, EngineName
from grpcgw.telemetry.log_writer import AccessLog
from grpcgw.telemetry.report import WorkerReport
from grpcgw.telemetry.resource_usage import measure_process
from grpcgw.workers import gc_tuning
from grpcgw.workers.answer_sender import AnswerSender
from grpcgw.workers.heap_trimming import keep_freed_memory, make_trimmer
from grpcgw.workers.messages import (
    FRAME,
    Answer,
    ApplySnapshot,
    Behind,
    Collect,
    Configure,
    Drain,
    Listening,
    Refused,
    Report,
    SetEndpoints,
    WantKey,
    WorkerPlan,
    decode,
)
from grpcgw.workers.scheduling import arrange_threads
from grpcgw.workers.shared_limits import map_tables
from grpcgw.workers.shared_turns import take_turn_of

if TYPE_CHECKING:
    from grpcgw.services.reflection_source import DescriptorKeeper
    from grpcgw.workers.redis_buckets import RedisBuckets

log = logging.getLogger(__name__)
_defects = DefectLog(log)

Listeners = tuple[Listener, ...]

SETTLE_S = 1.0
"""A new worker waits this long for its first connections to pods before it opens its ports."""
LOG_CLOSE_S = 2.0
"""How long to wait at the end until the access log is written."""


def make_engine(plan: WorkerPlan, worker: int) -> Engine:
    """The engine of `plan`, or the one on grpcio's public API where the default's libraries cannot be loaded."""
    quiet_core()
    options = ServerOptions(
        plan.settings.address,
        plan.settings.max_concurrent_streams,
        plan.settings.max_metadata_bytes,
        plan.settings.max_connection_age_s,
        plan.settings.max_connection_age_grace_s,
        plan.settings.max_message_bytes,
        plan.settings.busy_poll_us / 1e6,
    )
    if plan.settings.engine is EngineName.HTTP2:
        try:
            # Imported here: a platform without its libraries still has the other engine.
            from grpcgw.engines.http2.engine import Http2Engine

            return Http2Engine(options, plan.first_turn + worker, plan.settings.drain_time_s)
        except ImportError as missing:
            log.warning("the http2 engine cannot be loaded: %s; the generic-handler engine takes over", missing)
    from grpcgw.engines.generic_handler.engine import GenericHandlerEngine

    return GenericHandlerEngine(options, plan.first_turn + worker, plan.settings.drain_time_s)


def own_format(plan: WorkerPlan) -> LogFormat:
    """The format of the access log where the configuration sets none."""
    return LogFormat(LogType(plan.settings.access_log.value))


def make_access_log(plan: WorkerPlan) -> AccessLog | None:
    return None if plan.settings.access_log is AccessLogMode.OFF else AccessLog(own_format(plan))


def make_report(worker: int, engine: str, serving: Serving, started_at_s: float) -> WorkerReport:
    """`started_at_s`: seconds since the epoch."""
    used, clients = measure_process(), serving.counters.clients
    return WorkerReport(
        worker,
        os.getpid(),
        engine,
        serving.snapshot.version,
        started_at_s,
        serving.counters.reports(),
        serving.clusters.pod_reports(),
        serving.counters.events(),
        serving.shadow_reports(),
        serving.policy_services.counters.policy_reports(),
        serving.policy_services.counters.cache_reports(),
        serving.policy_services.counters.slow_check_reports(),
        handshake_failures=dict(serving.counters.handshake_failures.by_cause),
        cpu_s=used.cpu_s,
        memory_bytes=used.memory_bytes,
        clients=None if clients is None else clients.report(),
    )


def make_keeper(plan: WorkerPlan, serving: Serving) -> DescriptorKeeper | None:
    if not plan.settings.reflection:
        return None
    # Imported here: it loads grpc, for which the engine prepares the environment.
    from grpcgw.services.reflection_source import DescriptorKeeper

    return DescriptorKeeper(serving)


def make_remote_buckets(plan: WorkerPlan) -> RedisBuckets | None:
    """Raises UserError where the client library is not installed, or the password cannot be read."""
    settings = plan.settings
    if settings.rate_limit_redis is None:
        return None
    try:
        # Imported here: a gateway without Redis needs no client of it.
        from grpcgw.workers.redis_buckets import RedisBuckets

        file = settings.rate_limit_redis_password
        password = None if file is None else file.read_text(encoding="utf-8").strip()
        return RedisBuckets(settings.rate_limit_redis, password)
    except ImportError as missing:
        raise UserError(
            f"--rate-limit-redis needs the client library: pip install 'grpcgw[redis]' ({missing})"
        ) from missing
    except OSError as error:
        raise UserError(f"the password of Redis cannot be read: {error}") from error


class Worker:
    """Call its methods from one thread at a time; `drain` blocks."""

    def __init__(self, number: int, plan: WorkerPlan) -> None:
        self._number, self._plan = number, plan
        self._engine = make_engine(plan, number)
        self._engine.serving.clusters.zone = plan.settings.zone
        if plan.limits is not None:
            services = self._engine.serving.policy_services
            buckets, services.in_flight = map_tables(plan.limits, number)
            services.limiter = Limiter(buckets)
        self._engine.serving.policy_services.limiter.remote = self._remote = make_remote_buckets(plan)
        self._started = False
        self._refused: Refused | None = None
        self._faults: tuple[PortFault, ...] = ()
        self._access_log = make_access_log(plan)
        if self._access_log is not None:
            self._engine.serving.rpc_log = RpcLog(self._access_log.put, plan.settings.access_log_sample_percent)
        self._keeper = make_keeper(plan, self._engine.serving)
        self._started_at_s = time.time()

    def ask_for_keys_by(self, send: Callable[[MissingKey], object]) -> None:
        """`send` gets keys that tokens have and that are not known, in the thread of an RPC."""
        self._engine.serving.policy_services.key_requests.connect(send, asyncio.sleep)

    def try_to_apply(self, snapshot: Snapshot, listeners: Listeners) -> Listening:
        """As `apply`. Where a defect prevents that, the snapshot before stays served and the answer says why."""
        try:
            self._refused = None
            return self.apply(snapshot, listeners)
        except Exception as error:
            log.exception("defect: configuration %s cannot be served", snapshot.version)
            known = error if isinstance(error, CannotServe) else None
            self._refused = Refused(str(error) if known else repr(error), known.mapping if known else None)
        if self._started:
            self._faults = self._engine.ports.update(self._engine.serving.snapshot.listeners or ())
        return self.listening()

    def apply(self, snapshot: Snapshot, listeners: Listeners) -> Listening:
        """Serve `snapshot` on the ports of `listeners`. Returns which are open, and why others are not."""
        self._engine.ports.retire(listeners)
        # Rules of Hosts and Listeners depend on the ports that this worker opens.
        self._engine.serving.apply(replace(snapshot, listeners=listeners), time.monotonic())
        if self._access_log is not None:
            self._access_log.log_format = snapshot.access_log or own_format(self._plan)
        first = not self._started
        if first:
            self._engine.start(SETTLE_S)
            self._started = True
        self._faults = self._engine.ports.update(listeners)
        if self._keeper is not None:
            if first:
                self._keeper.start()
            else:
                self._keeper.look_again()
        return self.listening()

    def listening(self) -> Listening:
        """The ports as they are now: one may have closed by itself since `apply`."""
        ports = self._engine.ports
        version = self._engine.serving.snapshot.version
        return Listening(ports.list_open(), (*self._faults, *ports.faults()), self._refused, version)

    def apply_message(self, message: ApplySnapshot) -> Listening | Behind:
        """Apply a difference to the snapshot that is served, and serve the result."""
        difference = message.difference
        try:
            snapshot = apply_difference(self._engine.serving.snapshot, difference)
        except WrongBase as error:
            log.warning("%s", error)
            return Behind()
        self._engine.serving.clusters.shared_turns = {key: take_turn_of(file) for key, file in message.turns.items()}
        with gc_tuning.paused():
            listening = self.try_to_apply(snapshot, message.listeners)
        if difference.is_whole():
            gc_tuning.freeze()
        return listening

    def set_endpoints(self, message: SetEndpoints) -> None:
        self._engine.serving.set_endpoints(message.cluster, message.endpoints, time.monotonic())
        if self._keeper is not None:
            self._keeper.look_again()

    def report(self) -> WorkerReport:
        report = make_report(self._number, self._engine.name, self._engine.serving, self._started_at_s)
        if self._remote is not None:
            report = replace(report, redis_away=self._remote.away)
        return report if self._access_log is None else replace(report, access_log_dropped=self._access_log.dropped)

    def drain(self, limit_s: float) -> None:
        """Refuse new RPCs, let the others finish for at most `limit_s`, then close everything."""
        if self._started:
            self._engine.drain(limit_s)
        self._engine.stop()
        if self._keeper is not None:
            self._keeper.close()
        if self._access_log is not None:
            self._access_log.close(LOG_CLOSE_S)


# --- the process


def read_messages(connection: socket.socket) -> Iterator[object]:
    """Messages until the other end is closed, or this end for reading."""
    with connection.makefile("rb") as stream:
        while len(header := stream.read(FRAME.size)) == FRAME.size:
            (length,) = FRAME.unpack(header)
            body = stream.read(length)
            if len(body) < length:
                return
            yield decode(body)


@contextlib.contextmanager
def contained(what: str, subject: str = "") -> Iterator[None]:
    """A defect in handling one message does not end the worker: its replacement would get the same message."""
    try:
        yield
    except OSError:  # of the socket to the control process
        raise
    except Exception:
        _defects.note(what, subject)


def handle_messages(worker: Worker, commands: Iterator[object], answer: Callable[[Answer], None]) -> Drain | None:
    """Handle commands until `Drain`, which it returns; None if the control process closed the socket.

    Raises TypeError for an unknown command.
    """
    ports: Listening | Behind | None = None
    heap = make_trimmer()
    for command in commands:
        match command:
            case ApplySnapshot():
                ports = worker.apply_message(command)
                answer(ports)
            case SetEndpoints():
                with contained("cannot use the endpoints of cluster", command.cluster):
                    worker.set_endpoints(command)
            case Collect(number):
                if isinstance(ports, Listening) and ports != worker.listening():  # one closed by itself, or is back
                    ports = worker.listening()
                    answer(ports)
                with contained("cannot make a report"):
                    answer(Report(number, worker.report()))
                heap.check()
            case Drain():
                return command
            case _:
                raise TypeError(f"no command for a worker: {command!r}")
    return None


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))

    def stop_reading(*_: object) -> None:
        with contextlib.suppress(OSError):  # already so
            connection.shutdown(socket.SHUT_RD)

    # Another process ends this worker: it finishes its RPCs while the control process starts its replacement.
    signal.signal(signal.SIGTERM, stop_reading)
    commands = read_messages(connection)
    configure = next(commands, None)
    if not isinstance(configure, Configure):
        return
    set_up_logging(configure.plan.settings.log_level, f"worker {configure.worker}", int(sys.argv[2]))
    gc_tuning.enable()
    keep_freed_memory()
    arrange_threads(configure.plan.settings.engine is EngineName.GENERIC_HANDLER, configure.core)
    with contextlib.suppress(ConnectionError):  # the control process is gone: nobody reads the answers
        run_worker(configure, commands, AnswerSender(connection))


def run_worker(configure: Configure, commands: Iterator[object], answers: AnswerSender) -> None:
    """Serve until `Drain` or until the socket is closed; then let running RPCs finish, and return."""
    worker = Worker(configure.worker, configure.plan)
    worker.ask_for_keys_by(lambda missing: answers.send_beside(WantKey(missing)))
    gc.collect()
    gc_tuning.freeze()
    drain = None
    with contextlib.suppress(ConnectionError):
        drain = handle_messages(worker, commands, answers.send)
    worker.drain(configure.plan.settings.drain_time_s if drain is None else drain.limit_s)


if __name__ == "__main__":
    main()
