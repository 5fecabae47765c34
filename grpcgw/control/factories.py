"""Builds what the settings name: the source of objects, the status writer, and the carriers."""

from __future__ import annotations

import datetime
import os
import random
import socket
from typing import TYPE_CHECKING, Protocol

from grpcgw.ambassador.dialect_objects import make_dialect_objects
from grpcgw.carriers.carrier import Carrier
from grpcgw.discovery.sources.directory import DirectorySource
from grpcgw.discovery.sources.yaml_objects import ObjectReader
from grpcgw.discovery.store import ObjectStore
from grpcgw.errors import UserError
from grpcgw.listeners.data_ports import DataPorts
from grpcgw.listeners.self_signed import make_self_signed
from grpcgw.settings import Settings, cores
from grpcgw.workers.in_process import InProcessWorker
from grpcgw.workers.messages import WorkerPlan
from grpcgw.workers.port_status import RETRY_PORTS_S
from grpcgw.workers.processes import WorkerProcesses
from grpcgw.workers.shared_turns import FIRST_TURNS

if TYPE_CHECKING:  # loaded only where there is a cluster: the Kubernetes client takes a quarter of the start time
    from grpcgw.cluster_status.writer import StatusWriter
    from grpcgw.discovery.sources.kubernetes_api import ClusterAccess


class ObjectSource(Protocol):
    """Keeps its partition of the store up to date."""

    async def run(self) -> None: ...


def make_source(settings: Settings, store: ObjectStore) -> ObjectSource:
    """Raises UserError if `settings` name no source."""
    dialect = make_dialect_objects(settings.ambassador_id)
    if settings.config_dir is not None:
        return _Directory(DirectorySource(store, settings.config_dir, ObjectReader(dialect, os.environ)))
    if not settings.kubernetes:
        raise UserError("say where the configuration comes from: --config DIR or --kubernetes")
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


def make_data_ports(settings: Settings) -> DataPorts:
    """Takes the ports of the command line. Raises UserError if one is taken."""
    self_signed = make_self_signed(socket.gethostname(), datetime.datetime.now(datetime.UTC))
    port = settings.rate_limit_service
    limit_service = None if port is None else (settings.rate_limit_service_address, port)
    return DataPorts(settings.address, settings.port, settings.tls_port, self_signed, limit_service)


def make_workers(settings: Settings, plan: WorkerPlan, retry_ports_s: float = RETRY_PORTS_S) -> Carrier:
    """The carrier of the embedded data plane, in processes or in this one. Raises UserError if a port is taken."""
    data_ports = make_data_ports(settings)
    if settings.workers:
        return WorkerProcesses(plan, settings.workers, cores(), data_ports, retry_ports_s)
    return InProcessWorker(plan, data_ports, retry_ports_s)


def make_carriers(settings: Settings) -> tuple[Carrier, ...]:
    """Raises UserError if a port is taken."""
    return (make_workers(settings, make_plan(settings)),)
