#!/usr/bin/env python3
"""Writes the field tables of docs/ambassador.md from the typed resources; `--check` only tests them.

The prose of the page is written by hand; everything below the marker line is generated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from grpcgw.ambassador.compile.unenforced_guards import GUARDING_KINDS
from grpcgw.ambassador.spec.fields import FieldNote, Resource
from grpcgw.ambassador.spec.mapping_spec import MappingDefaults, MappingSettings, SharedSettings
from grpcgw.ambassador.spec.module_spec import ModuleConfig
from grpcgw.ambassador.spec.resources import MODELS, PLANNED_KINDS, ResolverSpec

PAGE = Path(__file__).parent.parent / "docs" / "ambassador.md"
MARKER = "<!-- generated from grpcgw/ambassador/spec/resources.py by scripts/ambassador_docs.py -->\n"


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
        if kind == "Mapping":
            yield from _table("Mapping: fields the Module's `defaults.httpmapping` may set", MappingSettings)
        if kind == "Module":
            yield from _table("Keys of a Module's `config`", ModuleConfig)
    title = "Kinds that decide on calls and are not supported yet"
    yield from ("", f"## {title}", "", "| kind | with `--serve-without-auth` |", "|---|---|")
    yield from (f"| `{kind}` | {meaning} |" for kind, meaning in sorted(GUARDING_KINDS.items()) if kind not in MODELS)
    yield from ("", "## Kinds without effect yet", "", "| kind | meaning |", "|---|---|")
    yield from (f"| `{kind}` | {meaning} |" for kind, meaning in sorted(PLANNED_KINDS.items()))


def _table(title: str, model: type[Resource]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield from ("| field | state | meaning |", "|---|---|---|")
    inherited = MappingDefaults.model_fields if model is MODELS["Mapping"] else {}
    for name in sorted(model.model_fields, key=inherited.__contains__):
        field = model.model_fields[name]
        if model is MODELS["Mapping"] and name in MappingSettings.model_fields:
            continue  # in a table of their own
        if model is ModuleConfig and name in SharedSettings.model_fields:
            which = "the Mappings with an endpoint resolver" if name == "load_balancer" else "all Mappings"
            yield f"| `{name}` | supported | default of {which} |"
            continue
        note = _note(field)
        assert note is not None, f"{title}.{name} has no note"
        yield f"| `{name}` | {note.state} | {note.meaning} |"


def _note(field: FieldInfo) -> FieldNote | None:
    return next((note for note in field.metadata if isinstance(note, FieldNote)), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
