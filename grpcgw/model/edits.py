"""Changes to an RPC on its way: path rewrites, metadata to add and to remove."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegexRewrite:
    pattern: str
    """RE2; every match in the path is replaced."""
    substitution: str
    """With `\\1` for groups."""


@dataclass(frozen=True, slots=True)
class HeaderAdd:
    name: str
    value: str
    """May hold Envoy's `%…%` operators, checked by the compiler."""
    append: bool = True
    """False replaces what is there."""


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    """Removals happen first, then additions, as Envoy does."""

    add: tuple[HeaderAdd, ...] = ()
    remove: tuple[str, ...] = ()


NO_EDITS = HeaderEdits()
