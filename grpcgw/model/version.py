"""The version of a configuration: a hash of its content, the same on every worker, page and log line.

What is hashed is decided by the values themselves: fields that do not compare, or that are not shown, are left out.
Those are where a Mapping was read, and private keys, each of which belongs to exactly one certificate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass

_DIGITS = 12


def digest(value: object) -> bytes:
    return hashlib.sha256(_write(value).encode("utf-8", "surrogatepass")).digest()


def hash_content(digests: Iterable[bytes]) -> str:
    """12 hex digits over the digests of everything that decides traffic, in their order."""
    whole = hashlib.sha256()
    for one in digests:
        whole.update(one)
    return whole.hexdigest()[:_DIGITS]


def _write(value: object) -> str:
    """A text that equal values share and others do not. Fields that are as by default are not written: most are."""
    if value is None or type(value) in (str, int):
        return repr(value)
    names = _names(type(value))
    if names:
        parts = [
            f"{name}={_write(part)}"
            for name, default in names
            if (part := getattr(value, name)) is not default and part != default
        ]
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, tuple):
        return f"({','.join([_write(part) for part in value])})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted([_write(part) for part in value]))}}}"
    return repr(value)


def _names(kind: type) -> tuple[tuple[str, object], ...]:
    """Of a dataclass, the fields that count, with their defaults."""
    known = _known_names.get(kind)
    if known is None:
        found = fields(kind) if is_dataclass(kind) else ()
        known = _known_names[kind] = tuple((one.name, one.default) for one in found if one.compare and one.repr)
    return known


_known_names: dict[type, tuple[tuple[str, object], ...]] = {}
