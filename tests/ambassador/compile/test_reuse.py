"""What a compilation takes over from the one before changes nothing but the time it takes."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.objects import KubeObject
from grpcgw.model.route_source import Compiled, CompileOptions
from tests.compiling import mapping, module, obj

MANY = 2_000

CHOICES: dict[str, list[KubeObject]] = {
    "a": [mapping("a"), mapping("a", weight=30), mapping("a", grpc="yes"), mapping("a", connect_timeout_ms=5)],
    "b": [mapping("b"), mapping("b", weight=80), mapping("b", resolver="pods"), mapping("b", prefix_exact=True)],
    "c": [mapping("c", prefix="/c/"), mapping("c", service="bad..name")],
    "module": [module(), module(cluster_request_timeout_ms=7), module(resolver="pods"), module(regex_max_size=0)],
    "resolver": [obj("KubernetesEndpointResolver", "pods")],
}
STEP = st.fixed_dictionaries({name: st.none() | st.sampled_from(objects) for name, objects in CHOICES.items()})


@given(steps=st.lists(STEP, min_size=2, max_size=6))
def test_a_history_of_changes_ends_the_same_with_and_without_reuse(steps: list[dict[str, KubeObject | None]]) -> None:
    plain: Compiled | None = None
    reusing: Compiled | None = None
    for step in steps:
        objects = [one for one in step.values() if one is not None]
        plain = compile_snapshot(objects, plain.last_good if plain else {}, CompileOptions())
        if reusing is None:
            reusing = compile_snapshot(objects, {}, CompileOptions())
        else:
            reusing = compile_snapshot(objects, reusing.last_good, CompileOptions(), reusing.reuse)
        assert reusing == plain
        assert reusing.snapshot.version == plain.snapshot.version


def test_what_did_not_change_is_the_same_object_again() -> None:
    objects = [mapping(f"m{number}", prefix=f"/{number}/") for number in range(5)]
    first = compile_snapshot(objects, {}, CompileOptions())
    objects[2] = mapping("m2", prefix="/2/", timeout_ms=1)
    second = compile_snapshot(objects, first.last_good, CompileOptions(), first.reuse)
    assert [one is other for one, other in zip(first.snapshot.routes, second.snapshot.routes, strict=True)] == [
        True, True, False, True, True,
    ]  # fmt: skip


def test_one_change_among_many_costs_a_fraction_of_all() -> None:
    objects = [mapping(f"m{number}", prefix=f"/pkg.Service{number}/") for number in range(MANY)]
    began_s = time.process_time()
    first = compile_snapshot(objects, {}, CompileOptions())
    all_s = time.process_time() - began_s
    objects[MANY // 2] = mapping(f"m{MANY // 2}", prefix=f"/pkg.Service{MANY // 2}/", timeout_ms=1)
    began_s = time.process_time()
    second = compile_snapshot(objects, first.last_good, CompileOptions(), first.reuse)
    one_s = time.process_time() - began_s
    assert second.snapshot.version != first.snapshot.version
    assert one_s < all_s / 2
