"""Measures thousands of Mappings without any RPC: their compilation, and the match of a path."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Iterable
from statistics import median

from bench.pods import Body, describe_full_mapping, describe_mapping, describe_resolver
from grpcgw.control.dialects import compile_snapshot
from grpcgw.errors import UserError
from grpcgw.model.objects import KubeObject, ObjectKey, Severity, Source
from grpcgw.model.route_source import Compiled, CompileOptions
from grpcgw.routing.table import RouteTable
from grpcgw.workers import gc_tuning

SERVICES = 100
LOOPS, REPEATS = 200, 9
PATHS = 100

Describe = Callable[[str, str, str], Body]


def make_objects(count: int, describe: Describe) -> list[KubeObject]:
    mappings = (describe(f"m{n}", f"service-{n % SERVICES}", f"/pkg.Service{n}/") for n in range(count))
    return [make_object(body) for body in (describe_resolver(), *mappings)]


def make_object(body: Body) -> KubeObject:
    metadata = body["metadata"]
    key = ObjectKey(body["kind"], metadata["namespace"], metadata["name"])
    return KubeObject(body["apiVersion"], key, body, Source("bench"))


def compile_all(objects: Iterable[KubeObject], count: int) -> Compiled:
    """Raises UserError unless every Mapping serves without an error."""
    compiled = compile_snapshot(objects, {}, CompileOptions())
    errors = [str(problem) for problem in compiled.problems if problem.severity is Severity.ERROR]
    if errors or len(compiled.snapshot.routes) != count:
        raise UserError(f"of {count} Mappings {len(compiled.snapshot.routes)} serve: {errors[:3]}")
    return compiled


def measure_compilation(count: int, full: bool, times: int) -> float:
    """Seconds of processor time, the median of `times`, as the control process does it; `full`: every field is set."""
    objects = make_objects(count, describe_full_mapping if full else describe_mapping)
    taken_s = []
    for _ in range(times):
        with gc_tuning.paused():
            began_s = time.process_time()
            compile_all(objects, count)
            taken_s.append(time.process_time() - began_s)
    return median(taken_s)


def measure_match(counts: Iterable[int]) -> list[float]:
    """Nanoseconds to find the Route of a path among so many, for each of `counts`, alternating."""
    tables = [make_table(count) for count in counts]
    least_ns = [float("inf")] * len(tables)
    for _ in range(REPEATS):
        for place, (table, paths) in enumerate(tables):
            match = table.match
            taken_s = timeit.timeit(lambda: [match(path) for path in paths], number=LOOPS)  # noqa: B023  # called here
            least_ns[place] = min(least_ns[place], 1e9 * taken_s / LOOPS / len(paths))
    return least_ns


def make_table(count: int) -> tuple[RouteTable, list[str]]:
    """With paths from the whole table, each looked up once and checked."""
    table = RouteTable(compile_all(make_objects(count, describe_mapping), count).snapshot.routes)
    paths = [f"/pkg.Service{n * count // PATHS}/Method" for n in range(PATHS)]
    for path in paths:
        found = table.match(path)
        if found is None or not path.startswith(found.match.value):
            raise UserError(f"{path} is not found among {count} Mappings")
    return table, paths
