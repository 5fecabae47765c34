"""Figures with their targets, and their tables (Markdown, ready for docs/performance.md). Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One result. `ok`: whether the target is met; None if there is none."""

    name: str
    measured: str
    target: str = ""
    ok: bool | None = None

    @property
    def verdict(self) -> str:
        return "" if self.ok is None else "met" if self.ok else "not met"


def at_most(name: str, measured: float, limit: float, unit: str = "") -> Figure:
    return Figure(name, _with_unit(measured, unit), f"at most {limit:g}{unit}", measured <= limit)


def at_least(name: str, measured: float, limit: float) -> Figure:
    return Figure(name, f"{measured:.2f}", f"at least {limit:g}", measured >= limit)


def count_at_most(name: str, measured: int, limit: int) -> Figure:
    return Figure(name, f"{measured:,}", f"at most {limit:,}", measured <= limit)


def none_of(name: str, found: int, among: int) -> Figure:
    """A count whose target is zero."""
    return Figure(name, f"{found} of {among:,}", "0", found == 0)


def for_information(name: str, measured: str) -> Figure:
    return Figure(name, measured)


def _with_unit(value: float, unit: str) -> str:
    return f"{value:.2f}" if not unit else f"{value:.0f}{unit}" if value >= 10 else f"{value:.1f}{unit}"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of `values` do not exceed. `values` must not be empty."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def render_figures(figures: Sequence[Figure]) -> str:
    rows = [(figure.name, figure.target or "-", figure.measured, figure.verdict or "-") for figure in figures]
    return render_table(("figure", "target", "measured", "verdict"), rows)


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
