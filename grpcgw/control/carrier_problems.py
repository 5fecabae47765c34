"""Problems that carriers report: ports that cannot be opened, snapshots they refuse, routes they cannot carry.

Carriers know Listeners and Mappings by name only; a problem says where its object is written. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from grpcgw.carriers.carrier import CarrierReport, RefusedSnapshot, UncarriedRoute
from grpcgw.listeners.open_ports import PortFault
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity

Objects = Mapping[ObjectKey, KubeObject]


def find_carrier_problems(reports: Mapping[str, CarrierReport], objects: Objects) -> tuple[Problem, ...]:
    """`reports`: by the carrier's name. `objects`: where Listeners and Mappings are written."""
    return tuple(problem for name, report in reports.items() for problem in _find(name, report, objects))


def _find(carrier: str, report: CarrierReport, objects: Objects) -> Iterator[Problem]:
    yield from (_explain_refusal(refused, objects) for refused in report.refused)
    if report.port_faults:
        listeners = {str(key): obj for key, obj in objects.items() if key.kind == "Listener"}
        yield from (_explain_fault(fault, listeners) for fault in report.port_faults)
    yield from (_explain_uncarried(carrier, route, objects) for route in report.uncarried)


def _explain_refusal(refused: RefusedSnapshot, objects: Objects) -> Problem:
    obj = objects.get(refused.key) if refused.key is not None else None
    message = (
        f"{refused.by}: the configuration cannot be served, which is a defect of grpcgw: please report it "
        f"({refused.why}); what was served before serves on"
    )
    return Problem(Severity.ERROR, message, "grpcgw" if obj is None else obj.source.locate(), refused.key)


def _explain_fault(fault: PortFault, listeners: Mapping[str, KubeObject]) -> Problem:
    obj = listeners.get(fault.listener)
    if obj is None:  # a flag, or a Listener that has just gone
        return Problem(Severity.ERROR, fault.why, fault.listener)
    return Problem(Severity.ERROR, fault.why, obj.source.locate(("spec", "port")), obj.key, "spec.port")


def _explain_uncarried(carrier: str, route: UncarriedRoute, objects: Objects) -> Problem:
    obj = objects.get(route.key)
    where = carrier if obj is None else obj.source.locate()
    return Problem(Severity.ERROR, f"{carrier} cannot carry it: {route.why}", where, route.key)
