"""What is read, checked and compiled, but not carried out by the data plane yet: one line each.

Where a field is wired, its line is deleted; the note in the model then holds, in notices and in the documentation.
"""

from __future__ import annotations

from grpcgw.config.fields import FieldNote, Resource

NOT_WIRED: dict[str, FieldNote] = {}
"""By `<Kind>.<field>`, or by the kind alone; the Module's keys and defaults go with the Mapping's fields."""


def find_pending(name: str) -> FieldNote | None:
    """What is said of a field, value or kind that is not wired; None: it is."""
    return NOT_WIRED.get(name)


def note_of(model: type[Resource], name: str, note: FieldNote | None) -> FieldNote | None:
    """The note of a field today; `note` is what the model says."""
    kind = model.kind
    return (find_pending(f"{kind}.{name}") if kind else None) or note
