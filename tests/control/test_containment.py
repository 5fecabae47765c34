"""An object that makes the compiler raise: found, named, and kept from ending anything."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import pytest
from compiling import destinations, mapping, module, said

from grpcgw.control.containment import MOST_CULPRITS, CannotCompile, Containment
from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.objects import KubeObject, ObjectKey
from grpcgw.model.route_source import NOTHING_TO_REUSE, Compiled, CompileOptions, Reuse


class Stumbling:
    """The compiler with a defect: it raises for every object that has `stumble` in it."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(
        self,
        objects: Iterable[KubeObject],
        good: Mapping[ObjectKey, KubeObject],
        options: CompileOptions,
        reuse: Mapping[str, Reuse],
    ) -> Compiled:
        self.runs += 1
        found = tuple(objects)
        if any("stumble" in str(obj.body) for obj in found):
            raise ZeroDivisionError("no divisor")
        return compile_snapshot(found, good, options, reuse)


@pytest.fixture(autouse=True)
def expected_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")


@pytest.fixture
def stumbling() -> Stumbling:
    return Stumbling()


@pytest.fixture
def containment(stumbling: Stumbling) -> Containment:
    return Containment(stumbling)


def compile_all(containment: Containment, *objects: KubeObject, last: Compiled | None = None) -> Compiled:
    return containment.compile(objects, last.last_good if last else {}, CompileOptions(), NOTHING_TO_REUSE)


FINE = [mapping(f"m{number}", prefix=f"/m{number}/") for number in range(40)]
BAD = mapping("bad", prefix="/stumble/")


def test_a_mapping_that_cannot_be_compiled_is_named_and_left_out_alone(containment: Containment) -> None:
    compiled = compile_all(containment, *FINE[:20], BAD, *FINE[20:])
    assert len(destinations(compiled)) == 40
    (problem,) = said(compiled)
    assert problem.startswith("bad.yaml: error: Mapping bad.shop: compiling failed, which is a defect of grpcgw")
    assert "(ZeroDivisionError: no divisor); it is left out" in problem


def test_its_last_good_version_serves_on(containment: Containment) -> None:
    good = mapping("bad", prefix="/good/")
    before = compile_all(containment, *FINE, good)
    compiled = compile_all(containment, *FINE, BAD, last=before)
    assert compiled.snapshot.routes == before.snapshot.routes
    assert "its last good version serves on" in said(compiled)[0]


def test_it_is_looked_for_once_and_tried_again_when_it_changes(containment: Containment, stumbling: Stumbling) -> None:
    before = compile_all(containment, *FINE, BAD)
    assert stumbling.runs < 15, "it is found by halving"
    stumbling.runs = 0
    again = compile_all(containment, *FINE, mapping("more", prefix="/more/"), BAD, last=before)
    assert (stumbling.runs, len(destinations(again)), len(said(again))) == (1, 41, 1)
    mended = compile_all(containment, *FINE, mapping("bad", prefix="/mended/"), last=again)
    assert (len(destinations(mended)), said(mended)) == (41, [])


def test_several_are_each_found(containment: Containment) -> None:
    compiled = compile_all(containment, BAD, *FINE, mapping("worse", prefix="/stumble/2/"))
    assert len(destinations(compiled)) == 40
    assert sorted(str(problem.object) for problem in compiled.problems) == ["Mapping bad.shop", "Mapping worse.shop"]


def test_what_may_keep_people_out_is_not_left_out(containment: Containment) -> None:
    with pytest.raises(
        CannotCompile, match=r"Module ambassador.shop: compiling failed.* what was served before serves on"
    ):
        compile_all(containment, *FINE, module(stumble=True))


def test_a_compiler_that_always_raises_is_given_up(containment: Containment) -> None:
    with pytest.raises(CannotCompile, match="compiling failed"):
        compile_all(containment, *(mapping(f"bad{number}", prefix="/stumble/") for number in range(MOST_CULPRITS + 1)))
