#!/usr/bin/env python3
"""Writes the field tables of docs/ambassador.md from the typed resources; `--check` only says whether they are true.

The prose of the page is written by hand; everything below the marker line is generated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from grpcgw.config.resources import MODELS, PLANNED_KINDS, FieldNote, ModuleConfig, ResolverSpec

PAGE = Path(__file__).parent.parent / "docs" / "ambassador.md"
MARKER = "<!-- generated from grpcgw/config/resources.py by scripts/ambassador_docs.py -->\n"


def main(arguments: list[str]) -> int:
    written = PAGE.read_text(encoding="utf-8")
    prose, marker, _ = written.partition(MARKER)
    if not marker:
        sys.exit(f"{PAGE} has no line {MARKER.strip()!r}; put it where the tables begin")
    page = prose + marker + render_tables()
    if arguments == ["--check"]:
        if page != written:
            sys.exit(f"{PAGE} is not what the resources say; run scripts/ambassador_docs.py")
        return 0
    PAGE.write_text(page, encoding="utf-8")
    return 0


def render_tables() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    resolvers = [kind for kind, model in MODELS.items() if model is ResolverSpec]
    for kind, model in MODELS.items():
        if kind in resolvers[1:]:
            continue
        yield from _table(" and ".join(resolvers) if kind in resolvers else kind, model)
        if kind == "Module":
            yield from _table("Keys of a Module's `config`", ModuleConfig)
    yield from ("", "## Kinds without effect yet", "", "| kind | meaning |", "|---|---|")
    yield from (f"| `{kind}` | {meaning} |" for kind, meaning in sorted(PLANNED_KINDS.items()))


def _table(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield from ("", f"## {title}", "", "| field | state | meaning |", "|---|---|---|")
    for name, field in model.model_fields.items():
        note = _note(field)
        yield f"| `{name}` | {note.state} | {note.meaning} |"


def _note(field: FieldInfo) -> FieldNote:
    return next(note for note in field.metadata if isinstance(note, FieldNote))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
