"""Compiles `labels` of Mappings and `default_labels` of the Module, in the forms of all versions of Ambassador.

| form | label |
|---|---|
| `generic_key: {value, key}` or `generic_key: text` or a text | key `generic_key`, or the given one |
| `request_headers: {key, header_name, omit_if_not_present}` or `NAME: {header, omit_if_not_present}` | the header |
| `remote_address: {key}` or `remote_address` | the client's address |
| `source_cluster: {key}` or `source_cluster` | empty, as in Ambassador, whose Envoy has no name of its own |
| `destination_cluster: {key}` or `destination_cluster` | the name of the Mapping's cluster |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from grpcgw.ambassador.spec.mismatch import show
from grpcgw.model.labels import AddressLabel, FixedLabel, HeaderLabel, Label, LabelGroup

LabelsByDomain = Mapping[str, tuple[LabelGroup, ...]]
DEFAULT_DOMAIN = "ambassador"
_CLUSTER = "destination_cluster"
_NAMES = ("source_cluster", _CLUSTER, "remote_address")
"""Labels that a text stands for; any other text is a `generic_key`."""
_LEFT_BEHIND = frozenset({"v2Explicit", "v2Shorthand"})
"""Names that conversions between Ambassador's versions add."""
_HEADER = re.compile(r":(authority|path|method)|[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)


class ReportLabel(Protocol):
    """Called with the fault of a label and where it is."""

    def __call__(self, message: str, *path: str | int) -> None: ...


def ignore(message: str, *path: str | int) -> None:
    """A ReportLabel where the faults have been reported before."""


def compile_labels(given: Mapping[str, object], report: ReportLabel) -> LabelsByDomain:
    """Of a Mapping. What cannot be compiled is reported and left out."""
    return {domain: _compile_groups(groups, report, domain) for domain, groups in given.items()}


def compile_default_labels(given: Mapping[str, object], report: ReportLabel) -> Mapping[str, LabelGroup]:
    """Of the Module: `{domain: {defaults: [label, …]}}`."""
    made = {}
    for domain, labels in given.items():
        if not isinstance(labels, Mapping) or labels.keys() != {"defaults"}:
            report("should be an object with the labels in `defaults`", domain)
        else:
            made[domain] = _compile_group(labels["defaults"], report, domain, "defaults")
    return made


def find_groups(
    labels: Mapping[str, object], defaults: Mapping[str, LabelGroup], domain: str, cluster: str
) -> tuple[LabelGroup, ...]:
    """The label groups of a Mapping with these `labels` and this cluster in a domain. The Module's labels begin each,
    or are the only one."""
    own = compile_labels(labels, ignore).get(domain, ())
    first = defaults.get(domain, ())
    groups = tuple((*first, *group) for group in own) or ((first,) if first else ())
    return tuple(tuple(_fill(label, cluster) for label in group) for group in groups)


def _fill(label: Label, cluster: str) -> Label:
    if isinstance(label, FixedLabel) and label.value == _OWN_CLUSTER:
        return FixedLabel(label.key, cluster)
    return label


_OWN_CLUSTER = "\0cluster"
"""Value of a label until the Mapping's cluster is known; no YAML text has it."""


def _compile_groups(given: object, report: ReportLabel, domain: str) -> tuple[LabelGroup, ...]:
    if not isinstance(given, list):
        report(f"should be a list of label groups, not {show(given)}", domain)
        return ()
    groups = []
    for index, group in enumerate(given):
        if not isinstance(group, Mapping) or len(group) != 1:
            report("should be one label group: its name and a list of labels", domain, index)
            continue
        ((name, labels),) = group.items()
        groups.append(_compile_group(labels, report, domain, index, str(name)))
    return tuple(group for group in groups if group)


def _compile_group(given: object, report: ReportLabel, *path: str | int) -> LabelGroup:
    if not isinstance(given, list):
        report(f"should be a list of labels, not {show(given)}", *path)
        return ()
    labels = []
    for index, one in enumerate(given):
        try:
            labels.append(_compile_label(one))
        except ValueError as error:
            report(str(error), *path, index)
    return tuple(labels)


def _compile_label(given: object) -> Label:
    """Raises ValueError."""
    if isinstance(given, str) and given:
        return _named(given, given) if given in _NAMES else FixedLabel("generic_key", given)
    if not isinstance(given, Mapping) or len(given) != 1:
        raise ValueError(f"should be one label, not {show(given)}")
    ((name, value),) = given.items()
    if name == "generic_key":
        return _compile_generic_key(value)
    fields = {} if value is None else value
    if not isinstance(fields, Mapping):
        raise ValueError(f"{name} should be an object, not {show(value)}")
    if name in _NAMES:
        _check_fields(fields, "key")
        return _named(str(name), _text(fields, "key", str(name)))
    if name == "request_headers":
        _check_fields(fields, "key", "header_name", "omit_if_not_present")
        return _header(_text(fields, "key"), _text(fields, "header_name"), fields)
    _check_fields(fields, "header", "omit_if_not_present")
    return _header(str(name), _text(fields, "header"), fields)


def _compile_generic_key(value: object) -> FixedLabel:
    if isinstance(value, str) and value:
        return FixedLabel("generic_key", value)
    if not isinstance(value, Mapping):
        raise ValueError(f"generic_key should be a text or an object with `value`, not {show(value)}")
    _check_fields(value, "key", "value")
    return FixedLabel(_text(value, "key", "generic_key"), _text(value, "value"))


def _named(name: str, key: str) -> Label:
    if name == "remote_address":
        return AddressLabel(key)
    return FixedLabel(key, _OWN_CLUSTER if name == _CLUSTER else "")


def _header(key: str, name: str, fields: Mapping[str, object]) -> HeaderLabel:
    header = name.lower()
    if not _HEADER.fullmatch(header):
        raise ValueError(f"{show(name)} is no name of a header")
    omit = fields.get("omit_if_not_present")
    if not isinstance(omit, bool | None):
        raise ValueError(f"omit_if_not_present should be true or false, not {show(omit)}")
    return HeaderLabel(key, header, bool(omit))


def _text(fields: Mapping[str, object], name: str, default: str = "") -> str:
    value = fields.get(name) or default
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} should be a text" + ("" if name in fields else ", and is missing"))
    return value


def _check_fields(fields: Mapping[str, object], *known: str) -> None:
    unknown = [str(name) for name in fields if name not in known and name not in _LEFT_BEHIND]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]}; a label of this kind has {', '.join(known)}")
