"""What keeps people out and stands in a text that cannot be read, as objects of which no more is known than their kind.

They are errors as any object is that cannot be read, and close what they could have meant: while it is not known whom
to keep out, nobody is let in. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from grpcgw.ambassador.compile.misspelt import RESTRICTING_KINDS
from grpcgw.model.objects import UNREADABLE_FILE, KubeObject, ObjectKey, Source

_KIND = re.compile(r"""(?:^|[\s{,"'])kind["']?\s*:\s*(?:[!&]\S*\s+)*["']?(\w+)""")
"""Between may be YAML's tags and anchors."""
_LOST = "(it cannot be read)"


def find_lost(
    text: str, origin: str, namespace: str, first_line: int = 1, at_line: int | None = None
) -> tuple[KubeObject, ...]:
    """Those in `text`; with `at_line` only in the YAML document that has this line."""
    document, wanted, found = 0, None, []
    for number, line in enumerate(text.splitlines(), first_line):
        document += line.startswith("---")
        if number == at_line:
            wanted = document
        found += [(document, make_lost(kind, namespace, Source(origin, {(): number}))) for kind in _kinds_in(line)]
    return tuple(one for document, one in found if at_line is None or document == wanted)


def _kinds_in(line: str) -> Iterator[str]:
    written = "" if line.lstrip().startswith("#") else line
    return (kind for kind in _KIND.findall(written) if kind in RESTRICTING_KINDS)


def make_lost(kind: str, namespace: str, source: Source) -> KubeObject:
    """Its name tells the line, as the object's own is not known; but there is one name for Modules."""
    name = "ambassador" if kind == "Module" else f"line-{source.lines.get((), 1)}"
    body = {"kind": kind, "metadata": {"name": name}, "spec": _LOST}
    return KubeObject("getambassador.io/v3alpha1", ObjectKey(kind, namespace, name), body, source)


def make_unreadable_file(path: str) -> KubeObject:
    """A file, or a directory, that may have any of them."""
    return KubeObject("", ObjectKey(UNREADABLE_FILE, "", path), {}, Source(path))
