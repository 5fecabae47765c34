"""Metadata whose value is a Go template: what Filters and limits add to requests, answers and refusals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeaderTemplate:
    """A metadata key and the Go template (`model.go_template`) of its value."""

    name: str
    """In lower case."""
    value: str
