"""Problems that carriers report: ports that stay closed, snapshots they refuse, routes they cannot carry, lost Redis.

Carriers know Listeners and Mappings by name only; a problem says where its object is written. `grpcgw check` has no
carrier, and finds here what one on grpc would refuse. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from grpcgw.carriers.carrier import CarrierReport, RefusedSnapshot, UncarriedRoute, find_unbuilt
from grpcgw.engines.generic_handler.grpc_limits import why_unsupported, why_unsupported_for_pods
from grpcgw.listeners.open_ports import PortFault
from grpcgw.model.listener import Listener, SecurityModel, Transport
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity
from grpcgw.model.snapshot import Snapshot

Objects = Mapping[ObjectKey, KubeObject]


def find_carrier_problems(reports: Mapping[str, CarrierReport], objects: Objects) -> tuple[Problem, ...]:
    """`reports`: by the carrier's name. `objects`: where Listeners and Mappings are written."""
    return tuple(problem for name, report in reports.items() for problem in _find(name, report, objects))


def find_limits_of_grpc(snapshot: Snapshot, objects: Objects) -> tuple[Problem, ...]:
    """What a worker of the generic-handler engine would refuse: to open a port, to connect to pods."""
    listeners = _index_listeners(objects)
    ports = snapshot.listeners
    if ports is None:
        ports = (Listener("--tls-port", 0, Transport.TLS, SecurityModel.XFP, certificates=snapshot.certificates),)
    unopened = ((listener.name, why_unsupported(listener)) for listener in ports)
    tls = dict.fromkeys(one.connection.tls for one in snapshot.clusters.values() if one.connection.tls is not None)
    unconnected = ((one.name, why_unsupported_for_pods(one)) for one in tls)
    return (
        *(
            _explain_fault(PortFault(name, f"the port is not opened: {why}"), listeners)
            for name, why in unopened
            if why
        ),
        *(_explain_unconnected(name, why, objects) for name, why in unconnected if why),
    )


def find_unbuilt_policies(snapshot: Snapshot, objects: Objects) -> tuple[Problem, ...]:
    """What each carrier would refuse because a policy cannot be built."""
    return tuple([_explain_uncarried("grpcgw", route, objects) for route in find_unbuilt(snapshot)])


def _find(carrier: str, report: CarrierReport, objects: Objects) -> Iterator[Problem]:
    yield from (_explain_refusal(refused, objects) for refused in report.refused)
    if report.port_faults:
        listeners = _index_listeners(objects)
        yield from (_explain_fault(fault, listeners) for fault in report.port_faults)
    yield from (_explain_uncarried(carrier, route, objects) for route in report.uncarried)
    if any(worker.redis_away for worker in report.workers):
        yield Problem(Severity.ERROR, "Redis is away: rate limits hold on this machine alone", "--rate-limit-redis")


def _explain_refusal(refused: RefusedSnapshot, objects: Objects) -> Problem:
    obj = objects.get(refused.key) if refused.key is not None else None
    message = (
        f"{refused.by}: the configuration cannot be served, which is a defect of grpcgw: please report it "
        f"({refused.why}); what was served before serves on"
    )
    return Problem(Severity.ERROR, message, "grpcgw" if obj is None else obj.source.locate(), refused.key)


def _index_listeners(objects: Objects) -> dict[str, KubeObject]:
    return {str(key): obj for key, obj in objects.items() if key.kind == "Listener"}


def _explain_unconnected(context: str, why: str, objects: Objects) -> Problem:
    obj = next((obj for key, obj in objects.items() if str(key) == f"TLSContext {context}"), None)
    message = f"pods are not connected to by it: {why}"
    if obj is None:  # a name from somewhere else than a TLSContext
        return Problem(Severity.ERROR, message, context)
    return Problem(Severity.ERROR, message, obj.source.locate(), obj.key)


def _explain_fault(fault: PortFault, listeners: Mapping[str, KubeObject]) -> Problem:
    obj = listeners.get(fault.listener)
    if obj is None:  # a flag, or a Listener that has just gone
        return Problem(Severity.ERROR, fault.why, fault.listener)
    return Problem(Severity.ERROR, fault.why, obj.source.locate(("spec", "port")), obj.key, "spec.port")


def _explain_uncarried(carrier: str, route: UncarriedRoute, objects: Objects) -> Problem:
    if route.key is None:
        return Problem(Severity.ERROR, f"all calls are refused: {route.why}", carrier)
    obj = objects.get(route.key)
    where = carrier if obj is None else obj.source.locate()
    return Problem(Severity.ERROR, f"{carrier} cannot carry it: {route.why}", where, route.key)
