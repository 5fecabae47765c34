"""Placeholders for access-restricting objects in text that cannot be parsed: only their kind and line are known.

The dialect reports a placeholder as an error, like any object it cannot read, and refuses the calls that the object
could have restricted. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import UNREADABLE_FILE, KubeObject, ObjectKey, Source

_KIND = re.compile(r"""(?:^|[\s{,"'])kind["']?\s*:\s*(?:[!&]\S*\s+)*["']?(\w+)""")
"""YAML tags and anchors may stand between the key and the kind."""
_UNREADABLE_SPEC = "(it cannot be read)"


def find_placeholders(
    text: str, origin: str, namespace: str, dialect: DialectObjects, first_line: int = 1, at_line: int | None = None
) -> tuple[KubeObject, ...]:
    """One for each restricting kind named in `text`; with `at_line` only in the YAML document that has this line."""
    document, wanted, found = 0, None, []
    for number, line in enumerate(text.splitlines(), first_line):
        document += line.startswith("---")
        if number == at_line:
            wanted = document
        found += [
            (document, make_placeholder(kind, namespace, Source(origin, {(): number}), dialect))
            for kind in _kinds_in(line, dialect)
        ]
    return tuple(one for document, one in found if at_line is None or document == wanted)


def _kinds_in(line: str, dialect: DialectObjects) -> Iterator[str]:
    written = "" if line.lstrip().startswith("#") else line
    return (kind for kind in _KIND.findall(written) if kind in dialect.restricting_kinds)


def make_placeholder(kind: str, namespace: str, source: Source, dialect: DialectObjects) -> KubeObject:
    """Its name contains the line, since the object's own name is not known, unless the kind has one name only."""
    name = dialect.singletons.get(kind, f"line-{source.lines.get((), 1)}")
    body = {"kind": kind, "metadata": {"name": name}, "spec": _UNREADABLE_SPEC}
    return KubeObject(dialect.placeholder_version, ObjectKey(kind, namespace, name), body, source)


def make_unreadable_file(path: str) -> KubeObject:
    """For a file or directory that cannot be read and may contain any object."""
    return KubeObject("", ObjectKey(UNREADABLE_FILE, "", path), {}, Source(path))
