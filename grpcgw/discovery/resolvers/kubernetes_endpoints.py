"""KubernetesEndpointResolver: the ready pods of a Service, from EndpointSlices or Endpoints in the store.

`endpoints_of` computes the pods and is pure; `EndpointsResolver` finds the services that a changed object belongs to.
Runs in the control loop, does no I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address

from grpcgw.discovery.resolvers.address_families import explain_disabled, is_enabled
from grpcgw.discovery.resolvers.resolver import Publish
from grpcgw.discovery.resolvers.watch_tasks import Watch
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.cluster import DEFAULT_ADDRESSING, Addressing, Cluster, ServiceRef
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.objects import KubeObject, ObjectKey

SERVICE_LABEL = "kubernetes.io/service-name"
_IP_TYPES = ("IPv4", "IPv6")

ServiceName = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port to find in slices and subsets: by the Service port's name, or by number if the Service has no ports."""

    name: str | None
    number: int

    def pod_port(self, ports: object) -> int | None:
        """The port of the pods, from `ports` of an EndpointSlice or an Endpoints subset."""
        for port in _tcp_ports(ports):
            if self.name == _text(port.get("name")) or (self.name is None and self.number == port.get("port")):
                return _port_number(port.get("port"))
        return None

    def __str__(self) -> str:
        if self.name is None:
            return f"port {self.number}"
        return f"port named {self.name!r}" if self.name else "port without a name"


def endpoints_of(
    service: ServiceRef,
    service_object: KubeObject | None,
    slices: Iterable[KubeObject],
    endpoints_object: KubeObject | None,
    addressing: Addressing = DEFAULT_ADDRESSING,
) -> EndpointSet:
    """The ready pods behind `service`: from all its `slices` if there is one, otherwise from all subsets of Endpoints.

    If no pod is ready, terminating pods that still serve are used, as in kube-proxy (KEP-1669): the last replica on a
    node that is drained. Only slices have this condition.

    The port of `service` is the Service port; the port of the pods has the same name in the slice or subset. Without a
    Service there are no pods, even if there are Endpoints. Never raises: malformed parts are left out, and `error` says
    why a set is empty unless the reason is only that no pod is ready.
    """
    label = f"{service.name} in namespace {service.namespace}"
    if service_object is None:
        return EndpointSet(error=f"no Service {label}")
    spec = _mapping(service_object.body.get("spec"))
    if spec.get("type") == "ExternalName":
        target = f"an ExternalName ({spec.get('externalName')})"
        return EndpointSet(error=f"Service {label} is {target} without endpoints: use a KubernetesServiceResolver")
    port = _find_port(service.port, spec)
    if port is None:
        return EndpointSet(error=f"Service {label} has no TCP port {service.port}; it has {_describe_ports(spec)}")
    given = sorted(slices, key=lambda found: found.key)
    families, others = _families(spec, addressing)
    every = tuple(_slice_groups(given, families, _is_ready) if given else _subset_groups(endpoints_object))
    groups = tuple(group.enabled(addressing) for group in every)
    found = _merge(port, groups, _slice_groups(given, others, _is_ready))
    if not found.endpoints:
        ending = _slice_groups(given, families, _serves_while_ending)
        found = _merge(
            port, (group.enabled(addressing) for group in ending), _slice_groups(given, others, _serves_while_ending)
        )
    unusable = [found.key.name for found in given if _address_type(found) not in _IP_TYPES]
    if unusable:
        error = f"EndpointSlice {', '.join(unusable)} of Service {label} is left out: its addresses are no IP addresses"
        return replace(found, error=error)
    if found.endpoints or not any(group.pods for group in every):
        return found
    has = f"Service {label} has ready pods"
    if not any(group.pods for group in groups):
        return EndpointSet(error=explain_disabled(has, addressing))
    return EndpointSet(error=f"{has}, but none with a TCP {port}")


@dataclass(frozen=True, slots=True)
class _ReadyPod:
    address: str
    name: str
    uid: str = ""
    """Of the object behind the address, where the slice has it: the same in slices of both families."""
    zone: str = ""
    for_zones: frozenset[str] = frozenset()
    """The zones it is assigned to; empty: no hint."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Ready pods that share their ports: one EndpointSlice, or one subset of Endpoints."""

    ports: object
    pods: tuple[_ReadyPod, ...]

    def enabled(self, addressing: Addressing) -> _Group:
        """The group with only the pods whose address family is enabled."""
        return _Group(self.ports, tuple(pod for pod in self.pods if is_enabled(pod.address, addressing)))


def _merge(port: ServicePort, groups: Iterable[_Group], others: Iterable[_Group]) -> EndpointSet:
    """`others`: the same pods by the Service's second address family."""
    found: dict[Endpoint, tuple[Endpoint, _ReadyPod]] = {}
    for number, pod in _pods_at(port, groups):
        endpoint = Endpoint(pod.address, number, pod.name, pod.zone)
        found.setdefault(endpoint, (endpoint, pod))
    chosen = [found[endpoint] for endpoint in sorted(found)]
    hints = tuple(pod.for_zones for _, pod in chosen)
    second = {(pod.uid, number): pod.address for number, pod in _pods_at(port, others) if pod.uid}
    other_addresses = tuple(second.get((pod.uid, endpoint.port), "") for endpoint, pod in chosen)
    return EndpointSet(
        tuple(endpoint for endpoint, _ in chosen),
        zone_hints=hints if all(hints) else (),
        other_addresses=other_addresses if any(other_addresses) else (),
    )


def _pods_at(port: ServicePort, groups: Iterable[_Group]) -> Iterator[tuple[int, _ReadyPod]]:
    """The pods that have the port, and its number there."""
    for group in groups:
        number = port.pod_port(group.ports)
        for pod in group.pods if number is not None else ():
            yield number or 0, pod


def _find_port(number: int, spec: Mapping[str, object]) -> ServicePort | None:
    if not _list(spec.get("ports")):
        return ServicePort(None, number)
    for port in _tcp_ports(spec.get("ports")):
        if port.get("port") == number:
            return ServicePort(_text(port.get("name")), number)
    return None


def _describe_ports(spec: Mapping[str, object]) -> str:
    ports = _tcp_ports(spec.get("ports"))
    return ", ".join(f"{port.get('port')} ({_text(port.get('name')) or 'unnamed'})" for port in ports) or "none"


def _families(spec: Mapping[str, object], addressing: Addressing) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """The address types to read, and those of the pods' other addresses: of a dual-stack Service, which has each pod in
    slices of both, the first enabled and the second."""
    families = _list(spec.get("ipFamilies"))
    if len(families) < 2:
        return _IP_TYPES, ()
    enabled = {"IPv4": addressing.ipv4, "IPv6": addressing.ipv6}
    used = tuple(family for family in families if enabled.get(_text(family)))
    return used[:1], used[1:]


Accepts = Callable[[Mapping[str, object]], bool]
"""Whether a pod is used, given the conditions of its endpoint in a slice."""


def _slice_groups(slices: Iterable[KubeObject], families: tuple[object, ...], accepts: Accepts) -> Iterator[_Group]:
    for found in slices:
        if _address_type(found) in families:
            endpoints = _mappings(found.body.get("endpoints"))
            accepted = (item for item in endpoints if accepts(_mapping(item.get("conditions"))))
            pods = (
                _ReadyPod(address, *_target_of(item), _text(item.get("zone")), _zones(item.get("hints")))
                for item in accepted
                for address in _addresses(item.get("addresses"))
            )
            yield _Group(found.body.get("ports"), tuple(pods))


def _subset_groups(endpoints_object: KubeObject | None) -> Iterator[_Group]:
    """`notReadyAddresses` are ignored: they do not distinguish terminating pods from pods that never were ready."""
    body = endpoints_object.body if endpoints_object is not None else {}
    for subset in _mappings(body.get("subsets")):
        pods = (
            _ReadyPod(address, *_target_of(item))
            for item in _mappings(subset.get("addresses"))
            for address in _addresses([item.get("ip")])
        )
        yield _Group(subset.get("ports"), tuple(pods))


def _is_ready(conditions: Mapping[str, object]) -> bool:
    """An absent condition means ready (EndpointSlice API); a terminating pod gets no new RPC, even if it is ready."""
    return conditions.get("ready") in (True, None) and conditions.get("terminating") is not True


def _serves_while_ending(conditions: Mapping[str, object]) -> bool:
    """An absent `serving` condition means true (EndpointSlice API)."""
    return conditions.get("terminating") is True and conditions.get("serving") in (True, None)


def _address_type(found: KubeObject) -> object:
    """IPv4, IPv6, or FQDN, which cannot be connected to; hand-written slices may leave it out."""
    return found.body.get("addressType", "IPv4")


def _zones(hints: object) -> frozenset[str]:
    """The zones that `hints.forZones` of an EndpointSlice's endpoint names."""
    named = (_text(zone.get("name")) for zone in _mappings(_mapping(hints).get("forZones")))
    return frozenset(name for name in named if name)


def _target_of(item: Mapping[str, object]) -> tuple[str, str]:
    """Name and uid of the pod behind an address; "" where the slice does not say."""
    target = _mapping(item.get("targetRef"))
    return _text(target.get("name")), _text(target.get("uid"))


def _addresses(values: object) -> Iterator[str]:
    for value in _list(values):
        with suppress(ValueError):
            yield str(ip_address(_text(value)))


def _tcp_ports(ports: object) -> Iterator[Mapping[str, object]]:
    return (port for port in _mappings(ports) if (port.get("protocol") or "TCP") == "TCP")


def _port_number(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 65536 else None


def _mappings(values: object) -> Iterator[Mapping[str, object]]:
    return (value for value in _list(values) if isinstance(value, Mapping))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class EndpointsResolver:
    """Resolver from objects in the store. A changed object recomputes only the watched services it belongs to."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._watches: dict[ServiceName, list[Watch]] = {}
        self._slices: dict[ServiceName, dict[ObjectKey, KubeObject]] = {}
        self._owners: dict[ObjectKey, ServiceName] = {}
        for found in store.of_kind("EndpointSlice"):
            self._index_slice(found.key)
        self._unsubscribe = store.subscribe(self._on_change)

    async def run(self) -> None:
        """Publish on changes of the store until cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            self._unsubscribe()

    def watch(self, cluster: Cluster, publish: Publish) -> Callable[[], None]:
        service = cluster.service
        name = (service.namespace, service.name)
        watch = Watch(cluster, publish)
        self._watches.setdefault(name, []).append(watch)
        watch.offer(self._endpoints_of(service, cluster.addressing))

        def end() -> None:
            if not watch.ended:
                watch.ended = True
                self._forget(name, watch)

        return end

    def _forget(self, name: ServiceName, watch: Watch) -> None:
        self._watches[name].remove(watch)
        if not self._watches[name]:
            del self._watches[name]

    def _on_change(self, changed: frozenset[ObjectKey]) -> None:
        names: set[ServiceName] = set()
        for key in changed:
            if key.kind == "EndpointSlice":
                names |= self._index_slice(key)
            elif key.kind in ("Service", "Endpoints"):
                names.add((key.namespace, key.name))
        for name in names & self._watches.keys():
            self._publish(name)

    def _publish(self, name: ServiceName) -> None:
        computed: dict[tuple[ServiceRef, Addressing], EndpointSet] = {}
        for watch in tuple(self._watches.get(name, ())):
            wanted = (watch.cluster.service, watch.cluster.addressing)
            if wanted not in computed:
                computed[wanted] = self._endpoints_of(*wanted)
            watch.offer(computed[wanted])

    def _index_slice(self, key: ObjectKey) -> set[ServiceName]:
        """Update the Service that the slice belongs to; returns that Service and the one before."""
        found = self._store.get(key)
        before = self._owners.pop(key, None)
        after = _owner_of(found) if found is not None else None
        if before is not None:
            self._slices[before].pop(key, None)
            if not self._slices[before]:
                del self._slices[before]
        if found is not None and after is not None:
            self._owners[key] = after
            self._slices.setdefault(after, {})[key] = found
        return {name for name in (before, after) if name is not None}

    def _endpoints_of(self, service: ServiceRef, addressing: Addressing) -> EndpointSet:
        namespace, name = service.namespace, service.name
        return endpoints_of(
            service,
            self._store.get(ObjectKey("Service", namespace, name)),
            self._slices.get((namespace, name), {}).values(),
            self._store.get(ObjectKey("Endpoints", namespace, name)),
            addressing,
        )


def _owner_of(found: KubeObject) -> ServiceName | None:
    labels = _mapping(_mapping(found.body.get("metadata")).get("labels"))
    name = _text(labels.get(SERVICE_LABEL))
    return (found.key.namespace, name) if name else None
