"""The request to a rate limit service (`RateLimitRequest`): the descriptors of an RPC, written as bytes. Pure.

What all RPCs of a Mapping have in common (the domain, labels with fixed values) is written once per snapshot.
A descriptor is left out where a header that is not optional is absent, as in Envoy.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.model.labels import FixedLabel, Label, LabelGroup
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.limits.rpc_labels import ReadLabel, compile_label, is_optional
from grpcgw.policy.protobuf_fields import bytes_field

_DOMAIN, _DESCRIPTORS = 1, 2
_ENTRIES = 1
_KEY, _VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class _Entry:
    """Of a label whose value each RPC has its own of."""

    key: bytes
    """Its field."""
    read: ReadLabel
    optional: bool


class RequestWriter:
    """Writes the requests for one Mapping."""

    def __init__(self, domain: str, groups: tuple[LabelGroup, ...]) -> None:
        self._domain = _text(_DOMAIN, domain)
        self._groups = tuple([_compile_group(group) for group in groups])
        fixed = all(isinstance(entry, bytes) for group in self._groups for entry in group)
        self.fixed = b"".join([_write(group, None) for group in self._groups]) if fixed else None
        """The descriptors of every RPC; None: they differ."""
        if self.fixed:
            self.fixed = self._domain + self.fixed

    def write(self, request: PolicyRequest) -> bytes:
        """The serialized RateLimitRequest; empty: the RPC has no descriptor."""
        if self.fixed is not None:
            return self.fixed
        descriptors = b"".join([_write(group, request) for group in self._groups])
        return self._domain + descriptors if descriptors else b""


_Group = tuple[bytes | _Entry, ...]


def _compile_group(group: LabelGroup) -> _Group:
    return tuple([_compile(label) for label in group])


def _compile(label: Label) -> bytes | _Entry:
    key = _text(_KEY, label.key)
    if isinstance(label, FixedLabel):
        return bytes_field(_ENTRIES, key + _text(_VALUE, label.value))
    return _Entry(key, compile_label(label), is_optional(label))


def _write(group: _Group, request: PolicyRequest | None) -> bytes:
    """The field `descriptors`; empty: there is none. `request` None: all entries are fixed."""
    entries = b""
    for entry in group:
        if isinstance(entry, bytes):
            entries += entry
            continue
        assert request is not None
        value = entry.read(request)
        if value is not None:
            entries += bytes_field(_ENTRIES, entry.key + _text(_VALUE, value))
        elif not entry.optional:
            return b""
    return bytes_field(_DESCRIPTORS, entries) if entries else b""


def _text(field: int, text: str) -> bytes:
    """UTF-8, as protobuf demands."""
    return bytes_field(field, text.encode(errors="backslashreplace"))
