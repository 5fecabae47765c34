"""The version of a configuration: a hash of its content, the same on every worker, page and log line.

Fields that are not compared or not shown in `repr` are not hashed: where a Mapping was read, and private keys, each of
which belongs to exactly one certificate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass

_DIGITS = 12


def digest(value: object) -> bytes:
    return hashlib.sha256(_write(value).encode("utf-8", "surrogatepass")).digest()


def hash_content(digests: Iterable[bytes]) -> str:
    """12 hex digits over the ordered digests of everything that affects traffic."""
    whole = hashlib.sha256()
    for one in digests:
        whole.update(one)
    return whole.hexdigest()[:_DIGITS]


def _write(value: object) -> str:
    """A text that is equal for equal values only. Fields with their default value are omitted: most have it."""
    if value is None or type(value) in (str, int):
        return repr(value)
    if isinstance(value, str):
        return str.__repr__(value)  # of an enum, whose own repr and name take ten times as long
    names = _names(type(value))
    if names:
        parts = [
            f"{name}={part!r}" if type(part) is str else f"{name}={_write(part)}"  # most are: a call less
            for name, default in names
            if (part := getattr(value, name)) is not default and part != default
        ]
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, tuple):
        return f"({','.join([repr(part) if type(part) is str else _write(part) for part in value])})"
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted([_write(part) for part in value]))}}}"
    return repr(value)


def _names(kind: type) -> tuple[tuple[str, object], ...]:
    """The hashed fields of a dataclass with their defaults."""
    known = _known_names.get(kind)
    if known is None:
        found = fields(kind) if is_dataclass(kind) else ()
        known = _known_names[kind] = tuple((one.name, one.default) for one in found if one.compare and one.repr)
    return known


_known_names: dict[type, tuple[tuple[str, object], ...]] = {}
