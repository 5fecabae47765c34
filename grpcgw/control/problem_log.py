"""Logs problems when they appear: each once, errors first, and never a flood."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from grpcgw.model.objects import Problem, Severity

log = logging.getLogger(__name__)

MOST_LOGGED = 30
"""Problems logged at once; the diagnostics have all of them."""


def log_new_problems(problems: Iterable[Problem], earlier: Iterable[Problem]) -> None:
    """Log those of `problems` that are not among `earlier`."""
    for line in describe_new_problems(problems, earlier):
        log.warning("%s", line)


def describe_new_problems(problems: Iterable[Problem], earlier: Iterable[Problem]) -> list[str]:
    """One line for each of `problems` that is not among `earlier`: errors first, at most MOST_LOGGED."""
    known = set(earlier)
    new = [problem for problem in dict.fromkeys(problems) if problem not in known]
    new.sort(key=lambda problem: problem.severity is not Severity.ERROR)
    lines = [str(problem) for problem in new[:MOST_LOGGED]]
    if len(new) > MOST_LOGGED:
        lines.append(f"... and {len(new) - MOST_LOGGED} more, see the diagnostics")
    return lines
