"""The control process: the one place that wires sources, compiler, resolvers, workers and admin port together.

Everything here runs in one event loop. It decides when to compile and whom to tell; what is decided is elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from grpcgw.admin.allowed_hosts import KnownHosts
from grpcgw.admin.recent import RecentTraffic
from grpcgw.admin.server import AdminServer
from grpcgw.admin.state import GatewayState, ListenerState
from grpcgw.ambassador.objects import make_dialect_objects
from grpcgw.control.containment import CannotCompile, Containment
from grpcgw.control.dead_routes import find_dead_routes
from grpcgw.control.empty_endpoints import EmptySetDelay
from grpcgw.control.task_restarts import TaskRestarter, find_user_error
from grpcgw.discovery.resolvers.resolver import Resolver
from grpcgw.discovery.resolvers.resolver_catalogue import RESOLVERS
from grpcgw.discovery.sources.certificate_files import CertificateFiles
from grpcgw.discovery.sources.directory import DirectorySource
from grpcgw.discovery.sources.yaml_objects import ObjectReader
from grpcgw.discovery.store import ObjectStore
from grpcgw.errors import UserError
from grpcgw.listeners.data_ports import DataPorts, find_open, find_worker_problems
from grpcgw.listeners.open_ports import OpenPort
from grpcgw.listeners.self_signed import make_self_signed
from grpcgw.logs import DefectLog, count, set_up_logging
from grpcgw.model.cluster import Cluster, ResolverKind
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.expiry import find_expiring
from grpcgw.model.listener import ServerCertificate, Transport
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity
from grpcgw.model.route_source import NOTHING_TO_REUSE, Compiled, CompileOptions, Reuse
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.settings import EngineName, Settings, cores
from grpcgw.workers import gc_tuning
from grpcgw.workers.messages import WorkerPlan
from grpcgw.workers.shared_turns import FIRST_TURNS
from grpcgw.workers.supervisor import DataPlane, WorkerHere, WorkerProcesses

if TYPE_CHECKING:
    from grpcgw.cluster_status.writer import StatusWriter
    from grpcgw.discovery.sources.kubernetes_api import ClusterAccess

log = logging.getLogger(__name__)

QUIET_S, AT_MOST_S = 0.02, 0.1
"""A change is compiled when nothing else changed for so long, or after at most so long."""
RELEASE_S = 0.02
"""How often pods that are withheld are looked at, while there are any."""
PORTS_AGAIN_S = 3.0
"""How often a port that another program has is tried again."""
JUDGE_ROUTES_S = 1.0
"""How often it is judged whether every route has pods to go to."""
MOST_LOGGED = 30
"""Problems of one configuration that are logged; the diagnostics have all of them."""
NOT_COMPILED_KINDS = frozenset({"Service", "Endpoints", "EndpointSlice"})
"""Pods come and go without a compilation; every other kind is the compiler's business."""


class ObjectSource(Protocol):
    async def run(self) -> None: ...


def run(settings: Settings) -> int:
    """Run the gateway until SIGTERM or SIGINT; returns the exit code. Raises UserError for what the user can mend."""
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

    def __init__(self, settings: Settings, data_plane: DataPlane | None = None) -> None:
        """Takes the data ports. Raises UserError where one is taken, or `settings` name no source.

        `data_plane`: what serves the RPCs; None: what `settings` say.
        """
        self._settings = settings
        self._store = ObjectStore()
        self._source = make_source(settings, self._store)
        self._certificate_files = CertificateFiles(self._store, make_dialect_objects(settings.ambassador_id))
        self._status_writer = make_status_writer(settings, self._store)
        self._resolvers = Resolvers(self._store, self._on_endpoints, self._is_compiling)
        machine = socket.gethostname()
        self_signed = make_self_signed(machine, datetime.datetime.now(datetime.UTC))
        self._ports = DataPorts(settings.address, settings.port, settings.tls_port, self_signed)
        self._engine = settings.engine
        self._data_plane = data_plane or make_data_plane(settings, make_plan(settings))
        hosts = KnownHosts(settings.admin_hosts, settings.node_name or machine)
        self._admin = AdminServer(self, settings.admin_address, settings.admin_port, hosts)
        self._stop_wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._compiling = True
        self._compiled: Compiled | None = None
        self._containment = Containment()
        self._last_good: Mapping[ObjectKey, KubeObject] = {}
        self._reuse: Mapping[str, Reuse] = NOTHING_TO_REUSE
        self._snapshot: Snapshot = EMPTY_SNAPSHOT
        self._problems: tuple[Problem, ...] = ()
        self._compile_ms = 0.0
        self._started_at_s = time.time()
        self._recent = RecentTraffic()
        self._configured_at_s = 0.0
        self._errors_total = 0
        self._open: tuple[OpenPort, ...] = ()
        self._port_problems: tuple[Problem, ...] = ()
        self._dead_routes: tuple[Problem, ...] = ()
        self._pods_missing = asyncio.Event()
        self._defects = DefectLog(log)
        self._restarter = TaskRestarter()
        self._serving = False
        self._draining = False
        self.admin_port = 0
        """The admin port in fact bound, once `listening` returned."""

    async def run(self) -> None:
        """Raises UserError for what the user can mend."""
        try:
            self.admin_port = await self._admin.start()
            log.info("diagnostics: http://%s:%d/ambassador/v0/diag/", self._settings.admin_address, self.admin_port)
            await self._run_until_stopped()
        except ExceptionGroup as errors:
            raise (find_user_error(errors) or errors) from None
        finally:
            await self._admin.stop()
            self._ports.release()

    async def _run_until_stopped(self) -> None:
        unsubscribe = self._store.subscribe(self._on_change)
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(work, name=name) for name, work in self._work().items()]
                await self._stop_wanted.wait()
                await self._drain()
                for task in background:
                    task.cancel()
        finally:
            unsubscribe()

    def _work(self) -> dict[str, Coroutine[object, object, None]]:
        """What goes on side by side, by name."""
        work = {
            "source": self._restarter.keep_running("the source", self._source.run),
            "certificate files": self._restarter.keep_running(
                "the reading of certificate files", self._certificate_files.run
            ),
            "resolvers": self._resolvers.run(),
            "workers": self._data_plane.run(),
            "compiler": self._compile_on_change(),
            "listeners": self._follow_ports(),
            "ports": self._try_ports_again(),
            "routes": self._keep_judging_routes(),
        }
        if self._status_writer is not None:
            work["status"] = self._restarter.keep_running("the writing of statuses", self._status_writer.run)
        return work

    def shut_down(self) -> None:
        """Drain, then end. A second call does not hurry it."""
        self._stop_wanted.set()

    async def listening(self) -> tuple[int, ...]:
        """The data ports open then (clear text, then TLS), once the first complete configuration is served."""
        return await self._data_plane.listening()

    async def state(self) -> GatewayState:
        """What the admin port shows (`StateProvider`)."""
        workers = await self._data_plane.reports()  # first: everything below is of one moment
        now_s = time.time()
        expiring = find_expiring(self._snapshot, now_s)
        return GatewayState(
            now_s=now_s,
            started_at_s=self._started_at_s,
            hostname=socket.gethostname(),
            ambassador_id=self._settings.ambassador_id,
            ambassador_namespace=self._settings.ambassador_namespace,
            namespace=self._settings.namespace,
            ready=self._serving and not self._draining and self._takes_connections(),
            draining=self._draining,
            snapshot=self._snapshot,
            configured_at_s=self._configured_at_s,
            compile_ms=self._compile_ms,
            problems=(*self._all_problems(), *expiring),
            endpoints=self._resolvers.endpoints,
            sources=self._store.statuses(),
            workers=workers,
            listeners=self._show_listeners(),
            configuration_errors_total=self._errors_total,
            worker_restarts_total=self._data_plane.restarts,
            recent=self._recent.note(workers, now_s),
        )

    def _all_problems(self) -> tuple[Problem, ...]:
        found = *self._problems, *self._port_problems, *self._dead_routes
        return *self._restarter.problems(), *self._store.problems(), *found

    # --- configuration

    def _on_change(self, changed: frozenset[ObjectKey]) -> None:
        if not self._configured_at_s or any(key.kind not in NOT_COMPILED_KINDS for key in changed):
            self._changed.set()

    async def _compile_on_change(self) -> None:
        """Compile when every source has been read once, then after each burst of changes."""
        while not self._store.synced():
            await self._changed.wait()
            self._changed.clear()
        while True:
            try:
                await self._compile()
            except UserError:
                raise
            except Exception as error:  # what was served before serves on, and the page says why
                self._note_defect(error)
            self._compiling = False
            await self._changed.wait()
            self._compiling = True
            await self._until_quiet()

    def _note_defect(self, error: Exception) -> None:
        if isinstance(error, CannotCompile):
            problem = error.problem
        else:
            log.error("defect: the configuration cannot be taken over", exc_info=error)
            message = f"the configuration cannot be taken over, which is a defect of grpcgw, to be reported ({error!r})"
            problem = Problem(Severity.ERROR, message, "grpcgw")
        known = () if self._compiled is None else self._compiled.problems
        self._errors_total += 1
        self._problems = _log_news((*known, problem), self._problems)
        self._report_statuses()

    def _is_compiling(self) -> bool:
        """Whether something has changed that is not yet in force."""
        return self._compiling or self._changed.is_set()

    async def _until_quiet(self) -> None:
        limit_s = time.monotonic() + AT_MOST_S
        while self._changed.is_set() and time.monotonic() < limit_s:
            self._changed.clear()
            await asyncio.sleep(QUIET_S)
        self._changed.clear()

    async def _compile(self) -> None:
        began_s = time.perf_counter()
        options = CompileOptions(
            gateway_id=self._settings.ambassador_id,
            gateway_namespace=self._settings.ambassador_namespace,
            now=datetime.datetime.now(datetime.UTC),
            environment=os.environ,
            authority_hidden_by="" if self._engine.shows_authority else self._engine,
            serve_without_auth=self._settings.serve_without_auth,
            zone_unknown=not self._settings.zone,
        )
        await self._certificate_files.read_wanted()
        # In a thread: thousands of Mappings take seconds, and pods come and go meanwhile.
        objects = list(self._store.objects())
        work = partial(self._containment.compile, objects, self._last_good, options, self._reuse)
        with gc_tuning.paused():
            compiled = await asyncio.to_thread(work)
        self._compile_ms = 1000 * (time.perf_counter() - began_s)
        await self._take(compiled)

    async def _take(self, compiled: Compiled) -> None:
        snapshot = compiled.snapshot
        if self._data_plane.opens_ports:
            snapshot = self._ports.settle(snapshot)
            compiled = replace(compiled, problems=(*compiled.problems, *self._ports.problems(compiled.last_good)))
        if not self._configured_at_s:
            gc_tuning.freeze()
        self._compiled = compiled
        self._last_good, self._reuse = compiled.last_good, compiled.reuse
        self._errors_total += any(problem.severity is Severity.ERROR for problem in compiled.problems)
        self._problems = _log_news(compiled.problems, self._problems)
        if (snapshot.version, snapshot.listeners) != (self._snapshot.version, self._snapshot.listeners):
            await self._serve(snapshot)
        elif self._port_problems:
            await self._data_plane.apply(self._snapshot)
        self._judge_routes()
        self._report_statuses()

    async def _serve(self, snapshot: Snapshot) -> None:
        self._resolvers.want(snapshot.clusters)
        await self._data_plane.apply(snapshot)
        self._resolvers.drop_unwanted()
        self._snapshot, self._configured_at_s = snapshot, time.time()
        sizes = count(len(snapshot.routes), "route"), count(len(snapshot.clusters), "cluster")
        log.info("configuration %s: %s, %s", snapshot.version, *sizes)

    async def _keep_judging_routes(self) -> None:
        """Pods come and go without a compilation."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(JUDGE_ROUTES_S):
                    await self._pods_missing.wait()
            self._pods_missing.clear()
            with self._defects.contained("routes cannot be judged"):
                before = self._dead_routes
                self._judge_routes()
                if self._dead_routes != before:
                    self._report_statuses()
            await asyncio.sleep(AT_MOST_S)

    def _judge_routes(self) -> None:
        """Find Mappings whose Service or pods are missing."""
        reports = self._data_plane.last_reports()
        found = find_dead_routes(self._snapshot, self._resolvers.endpoints, reports, self._last_good)
        self._dead_routes = _log_news(found, self._dead_routes)

    def _report_statuses(self) -> None:
        """What is wrong with objects: with themselves, and with what they lead to."""
        if self._status_writer is not None and self._compiled is not None:
            self._status_writer.report(self._compiled.last_good, (*self._problems, *self._dead_routes))

    def _on_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._data_plane.set_endpoints(cluster, endpoints)
        if endpoints.error or self._dead_routes:
            self._pods_missing.set()

    # --- ports

    async def _follow_ports(self) -> None:
        await self._data_plane.listening()
        self._note_ports()
        self._serving = True
        await self._note_engine()
        while True:
            await self._data_plane.ports.changed.wait()
            self._data_plane.ports.changed.clear()
            if self._draining:  # they all close now, one after the other
                return
            with self._defects.contained("what workers say of their ports cannot be taken up"):
                self._note_ports()

    def _takes_connections(self) -> bool:
        """Whether clients can come in, as far as the gateway knows: by a port of its own, or of its host program."""
        return bool(self._open) if self._data_plane.opens_ports else not self._port_problems

    def _note_ports(self) -> None:
        heard = self._data_plane.ports.by_worker
        before, self._open = self._open, find_open(heard.values())
        for port in before:
            if port not in self._open:
                log.info("listening on %s no more", self._address(port))
        for port in self._open:
            if port not in before:
                log.info("listening on %s (%s)", self._address(port), _protocol(port))
        known, self._port_problems = self._port_problems, find_worker_problems(heard, self._last_good)
        for problem in self._port_problems:
            if problem not in known:
                log.warning("%s", problem)

    async def _note_engine(self) -> None:
        """Compile anew where another engine serves than was asked for: what the compiler says depends on it."""
        engines = {report.engine for report in await self._data_plane.reports()}
        if EngineName.GENERIC_HANDLER in engines and self._engine is not EngineName.GENERIC_HANDLER:
            self._engine = EngineName.GENERIC_HANDLER
            self._changed.set()

    async def _try_ports_again(self) -> None:
        while True:
            await asyncio.sleep(PORTS_AGAIN_S)
            if self._ports.taken or self._port_problems:
                self._changed.set()

    def _show_listeners(self) -> tuple[ListenerState, ...]:
        if not self._serving:
            return ()
        certificates = {each.name: each.certificates for each in self._snapshot.listeners or ()}
        return tuple(
            ListenerState(self._address(port), _protocol(port), _describe(port, certificates.get(port.listener, ())))
            for port in self._open
        )

    def _address(self, port: OpenPort) -> str:
        address = self._settings.address
        return f"[{address}]:{port.number}" if ":" in address else f"{address}:{port.number}"

    async def _drain(self) -> None:
        self._draining = True
        log.info("draining: running RPCs may take %.0f s", self._settings.drain_time_s)
        await self._data_plane.drain(self._settings.drain_time_s)


def _protocol(port: OpenPort) -> str:
    return "tls" if port.transport is Transport.TLS else "h2c"


def _describe(port: OpenPort, certificates: Iterable[ServerCertificate]) -> str:
    """The Listener, unless it is a flag, and its certificates."""
    names = [] if port.listener.startswith("--") else [port.listener]
    return ", ".join([*names, *(certificate.name for certificate in certificates)])


def describe_news(problems: Iterable[Problem], earlier: Iterable[Problem]) -> list[str]:
    """What the log is told of a configuration's problems: those it had not `earlier`, errors first, at most so many."""
    known = set(earlier)
    new = [problem for problem in dict.fromkeys(problems) if problem not in known]
    new.sort(key=lambda problem: problem.severity is not Severity.ERROR)
    lines = [str(problem) for problem in new[:MOST_LOGGED]]
    if len(new) > MOST_LOGGED:
        lines.append(f"... and {len(new) - MOST_LOGGED} more, see the diagnostics")
    return lines


def _log_news(problems: tuple[Problem, ...], earlier: Iterable[Problem]) -> tuple[Problem, ...]:
    for line in describe_news(problems, earlier):
        log.warning("%s", line)
    return problems


class Resolvers:
    """One watch per cluster in use, and the pods it last published."""

    def __init__(
        self, store: ObjectStore, publish: Callable[[str, EndpointSet], None], is_compiling: Callable[[], bool]
    ) -> None:
        """`is_compiling`: whether a change of the configuration is not yet in force."""
        self._resolvers: dict[ResolverKind, Resolver] = {kind: make(store) for kind, make in RESOLVERS.items()}
        self._publish, self._is_compiling = publish, is_compiling
        self._withholding = EmptySetDelay()
        self._defects = DefectLog(log)
        self._withheld = asyncio.Event()
        self._wanted: Mapping[str, Cluster] = {}
        self._watches: dict[str, Callable[[], None]] = {}
        self.endpoints: dict[str, EndpointSet] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for kind, resolver in self._resolvers.items():
                tasks.create_task(resolver.run(), name=f"resolver {kind}")
            tasks.create_task(self._release_withheld(), name="withheld pods")

    def want(self, clusters: Mapping[str, Cluster]) -> None:
        """Watch what is new in `clusters`, before the routes to it are served: most pods are known at once."""
        self._wanted = clusters
        for name, cluster in clusters.items():
            if name not in self._watches:
                self._watches[name] = self._watch(cluster)

    def _watch(self, cluster: Cluster) -> Callable[[], None]:
        publish = self._publisher(cluster.name)
        try:
            return self._resolvers[cluster.resolver].watch(cluster, publish)
        except Exception as error:  # the other clusters are to be followed
            self._defects.note("cannot follow the pods of cluster", cluster.name)
            publish(EndpointSet(error=f"its pods cannot be followed, which is a defect of grpcgw ({error!r})"))
            return _nothing

    def drop_unwanted(self) -> None:
        """End the watches nobody wants any more, after the routes to them are gone."""
        for name in [name for name in self._watches if name not in self._wanted]:
            self._watches.pop(name)()
            self._withholding.forget(name)
            self.endpoints.pop(name, None)

    def _publisher(self, cluster: str) -> Callable[[EndpointSet], None]:
        def publish(endpoints: EndpointSet) -> None:
            if self._withholding.admit(cluster, endpoints, time.monotonic()):
                self._publish_now(cluster, endpoints)
            else:
                self._withheld.set()

        return publish

    def _publish_now(self, cluster: str, endpoints: EndpointSet) -> None:
        self.endpoints[cluster] = endpoints
        try:
            self._publish(cluster, endpoints)
        except Exception:  # who tells of pods has others to tell of
            self._defects.note("cannot pass on the pods of cluster", cluster)

    async def _release_withheld(self) -> None:
        while True:
            await self._withheld.wait()
            self._withheld.clear()
            while self._withholding:
                await asyncio.sleep(RELEASE_S)
                for cluster, endpoints in self._withholding.take_due(time.monotonic(), self._is_compiling()).items():
                    self._publish_now(cluster, endpoints)


def _nothing() -> None:
    """Ends a watch that never began."""


def make_source(settings: Settings, store: ObjectStore) -> ObjectSource:
    dialect = make_dialect_objects(settings.ambassador_id)
    if settings.config_dir is not None:
        source = DirectorySource(store, settings.config_dir, ObjectReader(dialect, os.environ))
        return _Directory(source)
    if not settings.kubernetes:
        raise UserError("say where the configuration comes from: --config DIR or --kubernetes")
    # Loaded where there is a cluster: Kubernetes' client takes a quarter of the time that a start takes.
    from grpcgw.discovery.sources.kubernetes import KubernetesSource

    return KubernetesSource(store, make_access(settings), dialect, settings.namespace)


def make_status_writer(settings: Settings, store: ObjectStore) -> StatusWriter | None:
    """None where there is no cluster to write to."""
    if not settings.kubernetes:
        return None
    from grpcgw.cluster_status.writer import StatusWriter

    access = make_access(settings)
    plurals = {kind.name: kind.candidates[0].plural for kind in make_dialect_objects(settings.ambassador_id).watched}
    return StatusWriter(store, access, plurals, settings.ambassador_namespace, settings.ambassador_id)


def make_access(settings: Settings) -> ClusterAccess:
    from grpcgw.discovery.sources.kubernetes_api import ClusterAccess

    return ClusterAccess(settings.kubeconfig, settings.context, settings.in_cluster)


class _Directory:
    """A directory is first loaded, then followed."""

    def __init__(self, source: DirectorySource) -> None:
        self._source = source

    async def run(self) -> None:
        await self._source.load()
        await self._source.run()


def make_plan(settings: Settings) -> WorkerPlan:
    return WorkerPlan(settings, random.randrange(FIRST_TURNS))


def make_data_plane(settings: Settings, plan: WorkerPlan) -> DataPlane:
    return WorkerProcesses(plan, settings.workers, cores()) if settings.workers else WorkerHere(plan)
