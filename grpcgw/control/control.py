"""The control process: wires sources, compiler, resolvers, carriers and admin port together, and starts and ends them.

Everything here runs in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence

from grpcgw.admin.access import read_access
from grpcgw.admin.access_files import AccessFiles
from grpcgw.admin.allowed_hosts import KnownHosts
from grpcgw.admin.recent import RecentTraffic
from grpcgw.admin.server import AdminServer
from grpcgw.admin.state import GatewayState
from grpcgw.ambassador.dialect_objects import make_dialect_objects
from grpcgw.carriers.carrier import Carrier, CarrierReport, ServedPort
from grpcgw.control.carrier_problems import find_carrier_problems
from grpcgw.control.cluster_watches import ClusterWatches
from grpcgw.control.compile_loop import CompileLoop
from grpcgw.control.dead_routes import find_dead_routes
from grpcgw.control.factories import make_carriers, make_source, make_status_writer
from grpcgw.control.problem_log import log_new_problems
from grpcgw.control.publishing import Publisher
from grpcgw.control.shown_ports import describe_protocol, show_port
from grpcgw.control.task_restarts import TaskRestarter, find_user_error
from grpcgw.discovery.sources.certificate_files import CertificateFiles
from grpcgw.discovery.sources.key_sets import KeySets
from grpcgw.discovery.store import ObjectStore
from grpcgw.logs import DefectLog, count, set_up_logging
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.expiry import find_expiring
from grpcgw.model.objects import Problem
from grpcgw.model.route_source import Compiled
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.settings import EngineName, Settings
from grpcgw.workers import gc_tuning

log = logging.getLogger(__name__)

CHECK_ROUTES_S, CHECK_ROUTES_AT_ONCE_S = 1.0, 0.1
"""How often to check whether every route has endpoints: usually, and while endpoints have errors."""


def run(settings: Settings) -> int:
    """Run the gateway until SIGTERM or SIGINT; returns the exit code. Raises UserError for what the user can fix."""
    set_up_logging(settings.log_level, "control")
    gc_tuning.enable()
    asyncio.run(_run_until_signal(settings))
    return 0


async def _run_until_signal(settings: Settings) -> None:
    control = Control(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, control.shut_down)
    await control.run()


class Control:
    """One gateway. `run` returns after `shut_down` was called and everything has ended."""

    def __init__(self, settings: Settings, carriers: Sequence[Carrier] = ()) -> None:
        """Takes the data ports. Raises UserError if one is taken, or `settings` name no source.

        `carriers`: none means those that `settings` name. `run` closes them.
        """
        self._settings = settings
        self._store = ObjectStore()
        self._source = make_source(settings, self._store)
        dialect = make_dialect_objects(settings.ambassador_id)
        self._certificate_files = CertificateFiles(self._store, dialect)
        self._key_sets = KeySets(self._store, dialect)
        self._status_writer = make_status_writer(settings, self._store)
        hosts = KnownHosts(settings.admin_hosts, settings.node_name or socket.gethostname())
        access = read_access(
            settings.admin_token_file, settings.admin_tls_cert, settings.admin_tls_key, settings.admin_tls_client_ca
        )
        self._admin = AdminServer(self, settings.admin_address, settings.admin_port, hosts, access=access)
        self._access_files = AccessFiles(access)
        self._admin_scheme = "http" if access.tls is None else "https"
        self._compile_loop = CompileLoop(
            self._store, self._certificate_files, self._key_sets, settings, self._on_compiled
        )
        self._watches = ClusterWatches(self._store, self._on_endpoints, self._is_change_pending)
        self._publisher = Publisher(carriers or make_carriers(settings), self._watches.endpoints, self._on_taken)
        self._stop_wanted = asyncio.Event()
        self._carriers_changed = asyncio.Event()
        self._started = asyncio.Event()
        self._check_routes_now = asyncio.Event()
        self._snapshot: Snapshot = EMPTY_SNAPSHOT
        self._started_at_s = time.time()
        self._configured_at_s = 0.0
        self._recent = RecentTraffic()
        self._ports: tuple[ServedPort, ...] = ()
        self._carrier_problems: tuple[Problem, ...] = ()
        self._dead_routes: tuple[Problem, ...] = ()
        self._defects = DefectLog(log)
        self._restarter = TaskRestarter()
        self._draining = False
        self.admin_port = 0
        """The admin port in fact bound, once `listening` returned."""

    # --- life cycle

    async def run(self) -> None:
        """Raises UserError for what the user can fix."""
        try:
            self.admin_port = await self._admin.start()
            address = self._settings.admin_address
            log.info("diagnostics: %s://%s:%d/ambassador/v0/diag/", self._admin_scheme, address, self.admin_port)
            await self._run_until_stopped()
        except ExceptionGroup as errors:
            raise (find_user_error(errors) or errors) from None
        finally:
            await self._admin.stop()
            self._publisher.close()

    async def _run_until_stopped(self) -> None:
        unsubscribe = self._store.subscribe(self._compile_loop.note_change)
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(work, name=name) for name, work in self._work().items()]
                await self._stop_wanted.wait()
                self._draining = True
                log.info("draining: running RPCs may take %.0f s", self._settings.drain_time_s)
                await self._publisher.drain(self._settings.drain_time_s)
                for task in background:
                    task.cancel()
        finally:
            unsubscribe()

    def _work(self) -> dict[str, Coroutine[object, object, None]]:
        """The background tasks, by name."""
        keep_running = self._restarter.keep_running
        work = {
            "source": keep_running("the source", self._source.run),
            "certificate files": keep_running("the reading of certificate files", self._certificate_files.run),
            "files of the admin port": keep_running("the reading of the admin port's files", self._access_files.run),
            "key sets": keep_running("the fetching of key sets", self._key_sets.run),
            "endpoints": self._watches.run(),
            "carriers": self._publisher.run(self._restarter, self._carriers_changed.set, self._key_sets.fetch_early),
            "compiler": self._compile_loop.run(),
            "carrier reports": self._follow_carriers(),
            "routes": self._check_routes_regularly(),
        }
        if self._status_writer is not None:
            work["status"] = keep_running("the writing of statuses", self._status_writer.run)
        return work

    def shut_down(self) -> None:
        """Drain, then end. A second call does not hurry it."""
        self._stop_wanted.set()

    async def listening(self) -> tuple[int, ...]:
        """The data ports open then, by number, once every carrier serves the first complete configuration.

        A carrier that fails before is not waited for, if another has started.
        """
        await self._started.wait()
        return tuple(port.number for port in self._ports)

    # --- from configuration to carriers

    async def _on_compiled(self, compiled: Compiled | None) -> None:
        if compiled is not None:
            await self._watches.watch(compiled.snapshot.clusters)
            self._publisher.publish(compiled.snapshot)
            self._note_carriers(self._publisher.reports())
            self._check_routes()
        self._report_statuses()

    def _on_taken(self, snapshot: Snapshot) -> None:
        self._watches.keep_only(set(self._publisher.clusters()))
        self._snapshot, self._configured_at_s = snapshot, time.time()
        sizes = count(len(snapshot.routes), "route"), count(len(snapshot.clusters), "cluster")
        log.info("configuration %s: %s, %s", snapshot.version, *sizes)
        self._check_routes()

    def _is_change_pending(self) -> bool:
        return self._compile_loop.is_pending() or self._publisher.busy()

    def _on_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._publisher.set_endpoints(cluster, endpoints)
        if endpoints.error or self._dead_routes:
            self._check_routes_now.set()

    async def _check_routes_regularly(self) -> None:
        """Endpoints change without a compilation."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_ROUTES_S):
                    await self._check_routes_now.wait()
            self._check_routes_now.clear()
            with self._defects.contained("routes cannot be checked"):
                self._check_routes()
            await asyncio.sleep(CHECK_ROUTES_AT_ONCE_S)

    def _check_routes(self) -> None:
        """Find Mappings whose Service or pods are missing."""
        workers = [worker for report in self._publisher.reports().values() for worker in report.workers]
        objects = self._compile_loop.last_good
        found = find_dead_routes(self._snapshot, self._watches.endpoints, workers, objects)
        if found != self._dead_routes:
            log_new_problems(found, self._dead_routes)
            self._dead_routes = found
            self._report_statuses()

    def _report_statuses(self) -> None:
        """Problems of objects, and of what they lead to."""
        compiled = self._compile_loop.compiled
        if self._status_writer is not None and compiled is not None:
            problems = (*self._compile_loop.problems, *self._carrier_problems, *self._dead_routes)
            self._status_writer.report(compiled.last_good, problems)

    # --- from carriers

    async def _follow_carriers(self) -> None:
        while not self._started.is_set():
            await self._carriers_changed.wait()
            self._carriers_changed.clear()
            self._note_carriers(self._publisher.reports())
            if not self._publisher.is_starting():
                self._started.set()
        await self._note_engine()
        while True:
            await self._carriers_changed.wait()
            self._carriers_changed.clear()
            if self._draining:  # all ports close now, one after the other
                return
            with self._defects.contained("the reports of carriers cannot be handled"):
                self._note_carriers(self._publisher.reports())

    def _note_carriers(self, reports: Mapping[str, CarrierReport]) -> None:
        """Log which ports open and close, and new problems."""
        before, self._ports = self._ports, tuple(port for report in reports.values() for port in report.ports)
        known = {(str(port), describe_protocol(port)) for port in before}
        now = {(str(port), describe_protocol(port)) for port in self._ports}
        for address, _ in sorted(known - now):
            log.info("no longer listening on %s", address)
        for address, protocol in sorted(now - known):
            log.info("listening on %s (%s)", address, protocol)
        found = find_carrier_problems(reports, self._compile_loop.last_good)
        if found != self._carrier_problems:
            log_new_problems(found, self._carrier_problems)
            self._carrier_problems = found
            self._report_statuses()

    async def _note_engine(self) -> None:
        """The compiler's problems depend on the engine, which may be another than the settings ask for."""
        reports = await self._publisher.collect()
        engines = {worker.engine for report in reports.values() for worker in report.workers}
        if EngineName.GENERIC_HANDLER in engines:
            self._compile_loop.set_engine(EngineName.GENERIC_HANDLER)

    # --- what the admin port shows

    async def state(self) -> GatewayState:
        """As `StateProvider.state`."""
        reports = await self._publisher.collect()  # first: everything below is of one moment
        if not self._draining:
            self._note_carriers(reports)
        workers = tuple(worker for report in reports.values() for worker in report.workers)
        now_s = time.time()
        return GatewayState(
            now_s=now_s,
            started_at_s=self._started_at_s,
            hostname=socket.gethostname(),
            ambassador_id=self._settings.ambassador_id,
            ambassador_namespace=self._settings.ambassador_namespace,
            namespace=self._settings.namespace,
            ready=not self._draining and any(report.ready for report in reports.values()),
            draining=self._draining,
            snapshot=self._snapshot,
            configured_at_s=self._configured_at_s,
            compile_ms=self._compile_loop.compile_ms,
            problems=(*self._problems(), *find_expiring(self._snapshot, now_s)),
            endpoints=self._watches.endpoints,
            sources=self._store.statuses(),
            key_sets=self._key_sets.statuses(),
            workers=workers,
            listeners=tuple(show_port(port, self._snapshot.rate_limits) for port in self._ports),
            configuration_errors_total=self._compile_loop.errors_total,
            worker_restarts_total=sum(report.restarts for report in reports.values()),
            recent=self._recent.note(workers, now_s),
        )

    def _problems(self) -> Iterable[Problem]:
        yield from self._restarter.problems()
        yield from self._access_files.problems
        yield from self._store.problems()
        yield from self._compile_loop.problems
        yield from self._carrier_problems
        yield from self._dead_routes
