"""Fetches descriptors from pods over their `grpc.reflection` service, on grpcio's public API.

One pod describes its cluster. `DescriptorKeeper` fetches again when the pods of a cluster change, in its own thread, so
that no RPC waits for it. A cluster keeps its descriptors until a later fetch succeeds.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from grpcgw.model.endpoints import PodState
from grpcgw.services.own_descriptors import OWN_SERVICES
from grpcgw.session.serving import Serving
from grpcgw.upstream.descriptors import DescriptorIndex, Descriptors
from grpcgw.upstream.pod import pod_target

log = logging.getLogger(__name__)

FETCH_S = 2.0
"""Limit on one fetch."""
SETTLE_S = 1.0
"""A changed cluster is fetched again when its pods have been the same for so long."""
RETRY_FIRST_S, RETRY_MOST_S = 1.0, 60.0
"""After a failed fetch the next pod is tried after the first pause, doubled each time up to the most."""
MAX_FILES = 2_000
"""A fetch stops at this many files."""
_VERSIONS = ("v1", "v1alpha")
_OWN = ("grpc.reflection.", "grpc.health.")
"""Services that every pod has: the gateway answers these itself."""
_Ask = Callable[[ServerReflectionRequest], ServerReflectionResponse]


def fetch_descriptors(target: str, timeout_s: float) -> Descriptors | None:
    """The descriptors of the pod at `target` (a grpc target); None: it has no reflection service.

    Raises ConnectionError if the pod does not answer within `timeout_s`, or not with descriptors.
    """
    deadline_s = time.monotonic() + timeout_s
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(target, options) as channel:
        for version in _VERSIONS:
            try:
                return _fetch(_asker(channel, version, deadline_s))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise ConnectionError(f"{target}: {error.code().name}: {error.details()}") from error
            except DecodeError as error:
                raise ConnectionError(f"{target}: its descriptors cannot be read: {error}") from error
    return None


def _asker(channel: grpc.Channel, version: str, deadline_s: float) -> _Ask:
    method = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )

    def ask(request: ServerReflectionRequest) -> ServerReflectionResponse:
        call = method(iter((request,)), timeout=max(0.0, deadline_s - time.monotonic()))
        return next(iter(call), ServerReflectionResponse())

    return ask


def _fetch(ask: _Ask) -> Descriptors:
    listed = ask(ServerReflectionRequest(list_services="*")).list_services_response.service
    services = tuple(service.name for service in listed if not service.name.startswith(_OWN))
    files: dict[str, bytes] = {}
    for service in services:
        _add(files, ask(ServerReflectionRequest(file_containing_symbol=service)))
    while missing := _missing(files.values()) - files.keys():
        before = len(files)
        for name in sorted(missing):
            _add(files, ask(ServerReflectionRequest(file_by_filename=name)))
        if len(files) == before or len(files) > MAX_FILES:
            break  # the pod does not have what is missing, or there are too many files
    return Descriptors(services, files)


def _add(files: dict[str, bytes], response: ServerReflectionResponse) -> None:
    for data in response.file_descriptor_response.file_descriptor_proto:
        files.setdefault(FileDescriptorProto.FromString(data).name, data)


def _missing(files: Iterable[bytes]) -> set[str]:
    return {dependency for data in files for dependency in FileDescriptorProto.FromString(data).dependency}


Fetch = Callable[[str, float], Descriptors | None]


@dataclass(slots=True)
class _Cluster:
    """The descriptors of one cluster, and when to fetch next."""

    addresses: frozenset[str]
    due_s: float
    failures: int = 0
    descriptors: Descriptors | None = None


class DescriptorKeeper:
    """Keeps `serving.reflection` current, between `start` and `close`."""

    def __init__(
        self,
        serving: Serving,
        fetch: Fetch = fetch_descriptors,
        settle_s: float = SETTLE_S,
        retry_first_s: float = RETRY_FIRST_S,
    ) -> None:
        self._serving, self._fetch = serving, fetch
        self._settle_s, self._retry_first_s = settle_s, retry_first_s
        self._clusters: dict[str, _Cluster] = {}
        self._silent: set[str] = set()
        self._closing = False
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="grpcgw descriptors", daemon=True)
        serving.reflection = DescriptorIndex({}, OWN_SERVICES)

    def start(self) -> None:
        self._thread.start()

    def look_again(self) -> None:
        """Clusters or their pods may have changed. Never blocks."""
        self._changed.set()

    def close(self) -> None:
        """Blocks while a fetch runs."""
        self._closing = True
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._changed.clear()
            due_s = self._keep(time.monotonic())
            self._changed.wait(None if math.isinf(due_s) else max(0.0, due_s - time.monotonic()))

    def _keep(self, now_s: float) -> float:
        """Fetch what is due; returns the monotonic time of the next fetch if nothing changes."""
        addresses = self._addresses()
        changed = bool(self._clusters.keys() - addresses.keys())
        self._clusters = {name: known for name, known in self._clusters.items() if name in addresses}
        for name, ordered in addresses.items():
            known = self._note(name, frozenset(ordered), now_s)
            if known.due_s <= now_s and ordered and not self._closing:
                changed |= self._ask(name, known, ordered[known.failures % len(ordered)])
        if changed:
            self._publish()
        return min((known.due_s for known in self._clusters.values() if known.addresses), default=math.inf)

    def _addresses(self) -> dict[str, list[str]]:
        """The pods of each cluster without TLS, connected ones first."""
        found: dict[str, list[str]] = {}
        for cluster, pods in self._serving.clusters.in_use():
            if cluster.connection.tls is None:
                ordered = sorted(pods, key=lambda pod: pod.state is not PodState.READY)
                found[cluster.name] = [str(pod.endpoint) for pod in ordered]
            elif cluster.name not in self._silent:
                self._silent.add(cluster.name)
                log.info("reflection: %s is not described, since its pods use TLS", cluster.name)
        return found

    def _note(self, name: str, addresses: frozenset[str], now_s: float) -> _Cluster:
        known = self._clusters.get(name)
        if known is None:
            known = self._clusters[name] = _Cluster(addresses, now_s)
        elif known.addresses != addresses:
            # The first pods of a cluster are due at once.
            known.due_s = now_s + self._settle_s if known.addresses else now_s
            known.addresses, known.failures = addresses, 0
        return known

    def _ask(self, name: str, known: _Cluster, address: str) -> bool:
        """Fetch from one pod. Returns whether the descriptors changed."""
        try:
            found = self._fetch(pod_target(address), FETCH_S)
        except ConnectionError as error:
            known.failures += 1
            pause_s = min(RETRY_MOST_S, self._retry_first_s * 2 ** min(known.failures - 1, 10))
            known.due_s = time.monotonic() + pause_s
            log.info("reflection: cannot fetch the descriptors of %s, again in %.0f s: %s", name, pause_s, error)
            return False
        known.due_s, known.failures = math.inf, 0
        if found is None:
            log.info("reflection: the pods of %s have no reflection service", name)
        changed, known.descriptors = found != known.descriptors, found
        return changed

    def _publish(self) -> None:
        known = {name: one.descriptors for name, one in self._clusters.items() if one.descriptors is not None}
        self._serving.reflection = DescriptorIndex(known, OWN_SERVICES)
