"""What carriers report, as problems of the objects that cause it."""

from __future__ import annotations

from grpcgw.carriers.carrier import CarrierReport, RefusedSnapshot, UncarriedRoute
from grpcgw.control.carrier_problems import find_carrier_problems
from grpcgw.listeners.open_ports import PortFault
from grpcgw.model.objects import KubeObject, ObjectKey, Source

LISTENER, MAPPING = ObjectKey("Listener", "shop", "mine"), ObjectKey("Mapping", "shop", "cart")
OBJECTS = {
    LISTENER: KubeObject("v3alpha1", LISTENER, {}, Source("ports.yaml", {("spec", "port"): 7})),
    MAPPING: KubeObject("v3alpha1", MAPPING, {}, Source("cart.yaml", {(): 3})),
}


def problems(report: CarrierReport) -> list[str]:
    return [str(problem) for problem in find_carrier_problems({"envoy": report}, OBJECTS)]


def test_a_port_that_cannot_be_opened_is_a_problem_where_its_listener_is_written() -> None:
    faults = PortFault(str(LISTENER), "the port is taken"), PortFault("--port", "no descriptors are left")
    assert problems(CarrierReport(port_faults=faults)) == [
        "ports.yaml:7: error: Listener mine.shop spec.port: the port is taken",
        "--port: error: no descriptors are left",
    ]


def test_a_listener_that_has_just_gone_is_named_all_the_same() -> None:
    report = CarrierReport(port_faults=(PortFault("Listener gone.shop", "the port is taken"),))
    assert problems(report) == ["Listener gone.shop: error: the port is taken"]


def test_a_refused_snapshot_is_a_problem_of_the_mapping_where_it_is_known() -> None:
    known, unknown = RefusedSnapshot("worker 0", "KeyError", MAPPING), RefusedSnapshot("worker 1", "OSError")
    first, second = problems(CarrierReport(refused=(known, unknown)))
    assert first.startswith("cart.yaml:3: error: Mapping cart.shop: worker 0: the configuration cannot be served")
    assert second.startswith("grpcgw: error: worker 1: the configuration cannot be served")


def test_a_route_that_a_carrier_cannot_carry_is_a_problem_of_the_route_for_that_carrier() -> None:
    report = CarrierReport(uncarried=(UncarriedRoute(MAPPING, "it has no load balancer of this kind"),))
    assert problems(report) == [
        "cart.yaml:3: error: Mapping cart.shop: envoy cannot carry it: it has no load balancer of this kind"
    ]
