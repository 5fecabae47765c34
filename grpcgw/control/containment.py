"""Contains a defect of the compiler: finds the object that makes it raise, and compiles without it.

Such a route object (a Mapping) is found by bisection and left out alone: its last good version serves on, if it has
one. Any other kind may restrict who may call; if one of those is to blame, nothing is compiled and the last snapshot
serves on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from grpcgw.control.dialects import ROUTE_KINDS, compile_snapshot
from grpcgw.errors import GrpcgwError
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity
from grpcgw.model.route_source import NOTHING_TO_REUSE, Compiled, CompileOptions, ObjectsByKey, Reuse

log = logging.getLogger(__name__)

MOST_CULPRITS = 8
"""Of one compilation. If there are more, the defect is not in one object."""

Compile = Callable[[Iterable[KubeObject], ObjectsByKey, CompileOptions, Mapping[str, Reuse]], Compiled]


class CannotCompile(GrpcgwError):
    """Nothing can be compiled; `problem` says why, and names the object where it is known."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Containment:
    """Compiles, and remembers the objects that made the compiler raise until they change. One thread at a time."""

    def __init__(self, compile_objects: Compile = compile_snapshot) -> None:
        self._compile = compile_objects
        self._culprits: dict[ObjectKey, tuple[KubeObject, Exception]] = {}

    def compile(
        self,
        objects: Iterable[KubeObject],
        last_good: ObjectsByKey,
        options: CompileOptions,
        reuse: Mapping[str, Reuse],
    ) -> Compiled:
        """As `compile_snapshot`. Raises CannotCompile if that raises whatever route object is left out."""
        given = tuple(objects)
        by_key = {obj.key: obj for obj in given}
        self._culprits = {key: each for key, each in self._culprits.items() if by_key.get(key) is each[0]}
        while True:
            kept = self._replace_culprits(given, last_good)
            try:
                compiled = self._compile(kept, last_good, options, reuse)
            except Exception as error:  # whatever it is: the gateway serves on
                log.exception("defect: the configuration cannot be compiled; looking for the object to blame")
                culprit, why = self._find_culprit(kept, last_good, options, error)
                if len(self._culprits) >= MOST_CULPRITS or by_key.get(culprit.key) is not culprit:
                    raise CannotCompile(Problem(Severity.ERROR, _explain(why), "grpcgw")) from error
                self._culprits[culprit.key] = (culprit, why)
                continue
            return replace(compiled, problems=(*compiled.problems, *self._problems(last_good)))

    def _replace_culprits(self, objects: Sequence[KubeObject], last_good: ObjectsByKey) -> list[KubeObject]:
        """The objects with the last good version of each culprit in its place, if it has one."""
        kept = [obj for obj in objects if obj.key not in self._culprits]
        good = (last_good.get(key) for key in self._culprits)
        return [*kept, *(obj for obj in good if obj is not None and obj is not self._culprits[obj.key][0])]

    def _find_culprit(
        self, objects: Sequence[KubeObject], last_good: ObjectsByKey, options: CompileOptions, error: Exception
    ) -> tuple[KubeObject, Exception]:
        """The first object with which compiling fails. Changed ones are tried last; route objects after all others."""

        def failure(count: int) -> Exception | None:
            try:
                self._compile(ordered[:count], last_good, options, NOTHING_TO_REUSE)
            except Exception as why:
                return why
            return None

        ordered = sorted(objects, key=lambda obj: (obj.key.kind in ROUTE_KINDS, last_good.get(obj.key) is not obj))
        if not ordered or failure(0) is not None:
            raise CannotCompile(Problem(Severity.ERROR, _explain(error), "grpcgw")) from error
        good, bad, why = 0, len(ordered), error
        while bad - good > 1:
            middle = (good + bad) // 2
            found = failure(middle)
            good, bad, why = (middle, bad, why) if found is None else (good, middle, found)
        culprit = ordered[bad - 1]
        if culprit.key.kind not in ROUTE_KINDS:
            raise CannotCompile(_blame(culprit, why, "what was served before serves on")) from error
        return culprit, why

    def _problems(self, last_good: ObjectsByKey) -> list[Problem]:
        return [
            _blame(obj, why, "its last good version serves on" if last_good.get(key) else "it is left out")
            for key, (obj, why) in self._culprits.items()
        ]


def _blame(obj: KubeObject, why: Exception, consequence: str) -> Problem:
    return Problem(Severity.ERROR, f"{_explain(why)}; {consequence}", obj.source.locate(), obj.key)


def _explain(why: Exception) -> str:
    return f"compiling failed, which is a defect of grpcgw: please report it ({type(why).__name__}: {why})"
