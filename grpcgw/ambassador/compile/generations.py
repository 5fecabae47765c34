"""Chooses the version of each object that serves: the new one if it compiles, else the last good one, else none.

Independent of kinds: callers pass the function that compiles an object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity

T = TypeVar("T")

Build = Callable[[KubeObject, Findings], T | None]
"""Compiles one object; None, or errors in the findings, if it cannot be compiled."""

SERVES_ON = "the last good version keeps serving"
LEFT_OUT = "left out"


class Generations:
    """The versions of one compilation. `problems` and `last_good` are its results, complete when all was served."""

    def __init__(self, earlier: Mapping[ObjectKey, KubeObject]) -> None:
        self.earlier = earlier
        """The versions that served in the compilation before."""
        self.last_good: dict[ObjectKey, KubeObject] = {}
        self.problems: list[Problem] = []

    def serve(self, obj: KubeObject, build: Build[T], left_out: str = LEFT_OUT) -> T | None:
        """The result of `build` for the object or, if that fails, for its last good version; None if both fail:
        `left_out` says the consequence.
        """
        findings = Findings(obj)
        built = build(obj, findings)
        if built is not None and not findings.rejected:
            self.last_good[obj.key] = obj
            self.problems += findings.problems
            return built
        former = self.serve_earlier(obj.key, build)
        outcome = left_out if former is None else SERVES_ON
        self.problems += (_with_outcome(problem, outcome) for problem in findings.problems)
        return former

    def serve_earlier(self, key: ObjectKey, build: Build[T]) -> T | None:
        """The result of `build` for the last good version now. Its problems were reported when it was new."""
        self.last_good.pop(key, None)
        earlier = self.earlier.get(key)
        if earlier is None:
            return None
        # Kept even if it does not compile now: an object that it needs (a resolver, say) may come back.
        self.last_good[key] = earlier
        findings = Findings(earlier)
        built = build(earlier, findings)
        return None if findings.rejected else built

    def report(self, findings: Findings) -> None:
        self.problems += findings.problems

    def leave_out(self, obj: KubeObject, message: str) -> None:
        findings = Findings(obj)
        findings.error(f"{message}; {LEFT_OUT}")
        self.report(findings)


def _with_outcome(problem: Problem, outcome: str) -> Problem:
    if problem.severity is not Severity.ERROR:
        return problem
    return replace(problem, message=f"{problem.message}; {outcome}")
