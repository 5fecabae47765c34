"""Gateways of the files in `examples/`, as they stand."""

from __future__ import annotations

from pathlib import Path

from dataplane.lab import Gateway, Lab
from dataplane.pods import Pod
from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.route_source import CompileOptions
from grpcgw.model.snapshot import Snapshot
from tests.parsing import parse_objects

EXAMPLES = Path(__file__).parents[2] / "examples"
GREET = "/greet.GrpcService/Greet"


def compile_example(name: str) -> Snapshot:
    """The snapshot of a file that has no problem. `name`: its path below `examples/`."""
    objects, faults = parse_objects((EXAMPLES / name).read_text(encoding="utf-8"), name)
    compiled = compile_snapshot(objects, {}, CompileOptions())
    assert [*faults, *map(str, compiled.problems)] == []
    return compiled.snapshot


def example(lab: Lab, name: str) -> tuple[Gateway, Pod]:
    """The gateway of an example with one Mapping, and the pod of the Mapping."""
    snapshot = compile_example(name)
    (cluster,) = snapshot.clusters
    pod = lab.pod("greet", {GREET: lambda requests, _: iter(list(requests))})
    gateway = lab.gateway(configuration=snapshot, clusters={cluster: (pod,)})
    gateway.wait_for_ready_pods(1)
    return gateway, pod
