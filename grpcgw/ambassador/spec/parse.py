"""Parses a raw object to its typed spec, and collects the problems of one object (`Findings`).

pydantic's errors are translated to problems here and nowhere else.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import TypeGuard, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from grpcgw.ambassador.spec.fields import FieldNote, State
from grpcgw.ambassador.spec.mismatch import describe_mismatch, show
from grpcgw.model.objects import FieldPath, KubeObject, Problem, Severity, make_problem

API_VERSIONS = ("v1", "v2", "v3alpha1")
_OF_FILTERS = ("v1beta1", "v1beta2", "v1alpha1")
"""Further versions of Filter and FilterPolicy; the last one is that of `gateway.getambassador.io`."""
OWN_GROUP = "grpcgw.io"
"""Of grpcgw's own kinds, which Ambassador does not have."""
OWN_KINDS = {"AuthorizationPolicy": "v1alpha1"}
"""With their version."""
STAND_IN_VERSION = "getambassador.io/unknown"
"""apiVersion of what stands for an object whose kind or apiVersion is misspelt (`compile.misspelt`)."""
_OLDEST = "ambassador/v0"
"""apiVersion of annotations of 2018. Its fields are in v1 too, except a Mapping's `rate_limits`."""
_STORED_AS_V2 = "--apiVersion-v3alpha1-only--"
"""Prefix that Emissary's conversion adds to each id of a v3alpha1 object stored, or requested, as v2."""

_METADATA = frozenset(
    {"apiVersion", "kind", "metadata", "status", "name", "namespace", "generation", "metadata_labels"}
)
"""Keys besides the fields in an object without `spec` (Ambassador's file form)."""

SpecT = TypeVar("SpecT", bound=BaseModel)

NO_DEFAULTS: Mapping[str, object] = {}


NO_NAMES: Mapping[str, str] = {}


class Findings:
    """The problems of one object, in the order they were found. Paths are relative to the spec."""

    def __init__(self, obj: KubeObject, renamed: Mapping[str, str] = NO_NAMES, part: FieldPath = ()) -> None:
        """`renamed`: fields that have other names in the object than in the paths that are reported. `part`: where in
        the spec those paths begin."""
        self._object, self._renamed, self._part = obj, renamed, part
        self._prefix: FieldPath = (*(("spec",) if "spec" in obj.body else ()), *part)
        self.problems: list[Problem] = []
        self.rejected = False
        """This version of the object cannot serve."""

    def copy(self) -> Findings:
        """Empty findings of the same object."""
        return Findings(self._object, part=self._part)

    def of_part(self, *path: str | int) -> Findings:
        """Empty findings of a part of the same object, with paths that begin there."""
        return Findings(self._object, part=(*self._part, *path))

    def renamed(self, fields: Mapping[str, str]) -> Findings:
        """Empty findings of the same object, reported at other fields: names in paths → names in the object."""
        return Findings(self._object, fields, self._part)

    def add(self, others: Findings) -> None:
        """Take over the problems of other findings of the same object."""
        self.problems += others.problems
        self.rejected = self.rejected or others.rejected

    def error(self, message: str, *path: str | int) -> None:
        """The object cannot serve as it is."""
        self.rejected = True
        self._add(Severity.ERROR, message, path)

    def fault(self, message: str, *path: str | int) -> None:
        """A dependency of the object is wrong; the object serves nevertheless, the message says how."""
        self._add(Severity.ERROR, message, path)

    def notice(self, message: str, *path: str | int) -> None:
        self._add(Severity.NOTICE, message, path)

    def _add(self, severity: Severity, message: str, path: FieldPath) -> None:
        if path and path[0] in self._renamed:
            path = (self._renamed[str(path[0])], *path[1:])
        self.problems.append(make_problem(self._object, severity, message, (*self._prefix, *path) if path else ()))

    def report_extension(self) -> None:
        """An annotation that should have extended the object, and cannot be read."""
        source = self._object.source
        if source.extension is not None and source.extension.fault:
            self.rejected = True
            path = source.extension.annotation
            where, shown = source.locate(path), ".".join(map(str, path))
            self.problems.append(Problem(Severity.ERROR, source.extension.fault, where, self._object.key, shown))


def raw_spec(obj: KubeObject) -> object:
    """The `spec` of the object; for one without, the fields beside `kind` (the form of Ambassador's own files)."""
    if "spec" in obj.body:
        return obj.body["spec"]
    return {name: value for name, value in obj.body.items() if name not in _METADATA}


def is_meant_for(obj: KubeObject, ambassador_id: str) -> bool:
    """Whether the object is for the gateway with this id.

    An id of the wrong type, or a spec in which none can be found, counts as this gateway's, so that it is reported.
    """
    spec = raw_spec(obj)
    if spec is not None and not isinstance(spec, Mapping):
        return True
    fields = spec or {}
    names = ("ambassador_id", "ambassadorId") if obj.key.kind == "Host" else ("ambassador_id",)
    selector = fields.get("ambassadorSelector")  # of the kinds in `gateway.getambassador.io`
    if isinstance(selector, Mapping):
        fields, names = selector, ("ambassadorIds",)
    elif selector is not None:
        return True
    given = [value for name in names if (value := fields.get(name)) is not None] or ["default"]
    return any(_names_gateway(value, ambassador_id) for value in given)


def _names_gateway(given: object, ambassador_id: str) -> bool:
    ids = [given] if isinstance(given, str) else given
    if not isinstance(ids, list):
        return True
    names = {one.removeprefix(_STORED_AS_V2) for one in ids if isinstance(one, str)}
    return not names.isdisjoint((ambassador_id, "_automatic_"))


def parse_spec(
    obj: KubeObject, model: type[SpecT], findings: Findings, defaults: Mapping[str, object] = NO_DEFAULTS
) -> SpecT | None:
    """The typed spec, or None with an error for each fault. Fields without effect become notices.

    `defaults`: valid values of fields that the object does not set.
    """
    if not _check_version(obj, findings):
        return None
    findings.report_extension()
    raw = raw_spec(obj)
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        findings.error(f"spec should be a mapping of fields, not {show(raw)}")
        return None
    _note_fields(raw, model, findings)
    _note_missing(obj, findings)
    try:
        fields = _without_metadata(raw, model, findings)
        return model.model_validate({**fields, **defaults} if defaults else fields)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            findings.error(_describe(detail, model), *detail["loc"])
        return None


def _check_version(obj: KubeObject, findings: Findings) -> bool:
    if obj.api_version == STAND_IN_VERSION:
        findings.error("its kind or apiVersion is misspelt, so it cannot be read")
        return False
    group, _, version = obj.api_version.rpartition("/")
    own = OWN_KINDS.get(obj.key.kind)
    if own is not None:
        if (group, version) != (OWN_GROUP, own):
            findings.error(f"apiVersion {obj.api_version} is not read; use {OWN_GROUP}/{own}")
        return not findings.rejected
    versions = (*API_VERSIONS, *_OF_FILTERS) if obj.key.kind in ("Filter", "FilterPolicy") else API_VERSIONS
    if obj.api_version != _OLDEST and (version not in versions or group == OWN_GROUP):
        findings.error(f"apiVersion {obj.api_version} is not read; use one of {', '.join(versions)}")
    return not findings.rejected


def _note_missing(obj: KubeObject, findings: Findings) -> None:
    """Variables of a file that are not set. Ambassador leaves them unchanged too, without a notice."""
    for path, filled in obj.source.filled:
        if filled.missing and path[:1] == ("spec",):
            names = ", ".join(filled.missing)
            findings.notice(
                f"names {names}, which the gateway's environment does not have: the text stays unchanged", *path[1:]
            )


def _without_metadata(raw: Mapping[object, object], model: type[BaseModel], findings: Findings) -> dict[object, object]:
    """Without keys of Ambassador's older form that its CRDs accept in `spec` and ignore."""
    out_of_place = [name for name in raw if name in _METADATA and name not in model.model_fields]
    for name in out_of_place:
        findings.notice("has no effect here: it belongs to the object's metadata", str(name))
    return {name: value for name, value in raw.items() if name not in out_of_place}


def find_strangers(raw: Mapping[object, object], model: type[BaseModel]) -> list[str]:
    """The fields that the model does not know; each may be meant for one that it knows."""
    return [str(name) for name in raw if name not in model.model_fields and name not in _METADATA]


def parse_part(raw: object, model: type[SpecT], findings: Findings, *path: str | int) -> SpecT | None:
    """One entry of a list: an error leaves out this entry only, the others serve."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            findings.fault(f"{_describe(detail, model)}; this entry is left out", *path, *detail["loc"])
        return None


def parse_value(raw: object, model: type[SpecT], findings: Findings, *path: str | int) -> SpecT | None:
    """A part of an object whose type depends on another object; None: errors are in `findings`."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            findings.error(_describe(detail, model), *path, *detail["loc"])
        return None


@cache
def _fields_of(model: type[BaseModel]) -> dict[str, tuple[FieldNote | None, type[BaseModel] | None]]:
    """The FieldNote of each field, and the model of its value if that is an object."""
    fields: dict[str, tuple[FieldNote | None, type[BaseModel] | None]] = {}
    for name, field in model.model_fields.items():
        note = next((one for one in field.metadata if isinstance(one, FieldNote)), None)
        parts = [get_args(part)[0] if hasattr(part, "__metadata__") else part for part in get_args(field.annotation)]
        fields[name] = (note, next((part for part in parts if _is_model(part)), None))
    return fields


def _note_fields(raw: Mapping[object, object], model: type[BaseModel], findings: Findings, *path: str) -> None:
    """Report the fields that are set but not served as their author may expect, as their `FieldNote` says."""
    fields = _fields_of(model)
    for name, value in raw.items():
        found = fields.get(name) if isinstance(name, str) else None
        if found is None or value is None:
            continue
        note, nested = found
        if nested is not None and isinstance(value, Mapping):
            _note_fields(value, nested, findings, *path, str(name))
        if note is not None and note.state is not State.SUPPORTED and not note.is_neutral(value):
            report_note(note, findings, *path, str(name))


def _is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def report_note(note: FieldNote, findings: Findings, *path: str) -> None:
    match note.state:
        case State.SUPPORTED:
            pass
        case State.PLANNED:
            findings.notice(f"has no effect yet: {note.meaning}", *path)
        case State.HTTP_ONLY:
            findings.notice(f"has no effect on gRPC: {note.meaning}", *path)
        case State.NO_MEANING:
            findings.notice(f"has no effect: {note.meaning}", *path)


def _describe(detail: ErrorDetails, model: type[BaseModel]) -> str:
    suggestion = _suggest(detail["loc"], model) if detail["type"] == "extra_forbidden" else ""
    return describe_mismatch(detail) + suggestion


def _suggest(loc: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """What the unknown field at `loc` may have been meant to be, among those of the object it stands in."""
    for step in loc[:-1]:
        if isinstance(step, str) and step in model.model_fields:
            nested = _fields_of(model)[step][1]
            if nested is None:
                return ""
            model = nested
    near = difflib.get_close_matches(str(loc[-1]), model.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else ""
