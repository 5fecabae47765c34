"""Problems in the log: each once, errors first, and never a flood."""

from __future__ import annotations

import time

from grpcgw.control.problem_log import MOST_LOGGED, describe_new_problems
from grpcgw.model.objects import ObjectKey, Problem, Severity


def problem(number: int, message: str = "has no effect", severity: Severity = Severity.NOTICE) -> Problem:
    return Problem(severity, message, f"m.yaml:{number}", ObjectKey("Mapping", "default", f"m{number}"), "spec.cors")


def test_a_problem_is_logged_when_it_is_new_and_only_once() -> None:
    first, second = problem(1), problem(2)
    assert describe_new_problems([first, first], []) == [str(first)]
    assert describe_new_problems([first, second], [first]) == [str(second)]
    assert describe_new_problems([first], [first, second]) == []


def test_many_are_cut_short_after_the_errors() -> None:
    notices = [problem(number) for number in range(100)]
    error = problem(100, "no such field", Severity.ERROR)
    lines = describe_new_problems([*notices, error], notices[:10])
    assert lines[0] == str(error)
    assert lines[1] == str(notices[10])
    assert len(lines) == MOST_LOGGED + 1
    assert lines[-1] == f"... and {91 - MOST_LOGGED} more, see the diagnostics"


def test_ten_thousand_problems_are_compared_with_ten_thousand_in_no_time() -> None:
    before = [problem(number) for number in range(10_000)]
    after = [problem(number, "has another meaning") for number in range(10_000)]
    began_s = time.thread_time()
    lines = describe_new_problems(after, before)
    assert time.thread_time() - began_s < 1, "comparing each with each takes half a minute"
    assert lines[-1] == f"... and {10_000 - MOST_LOGGED} more, see the diagnostics"
