"""Makes the descriptors of an RPC from the label groups of its Mapping. Pure.

Source of the rules: Envoy's rate limit actions (`config.route.v3.RateLimit.Action`), Ambassador's `labels`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256

from grpcgw.model.labels import AddressLabel, Descriptor, FixedLabel, HeaderLabel, Label, LabelGroup
from grpcgw.policy.contract import PolicyRequest

Describe = Callable[[PolicyRequest], Descriptor | None]
"""The descriptor of an RPC from one group; None: a header that is not optional, or the address, is missing."""
ReadLabel = Callable[[PolicyRequest], str | None]
MAX_VALUE_CHARACTERS = 1024
"""Limiters keep descriptors as keys of counters, so this bounds the memory for what clients send."""
_KEPT_CHARACTERS = 64


def compile_group(group: LabelGroup) -> Describe:
    """Of the gateway's own limits, compiled once per snapshot. A group of fixed labels costs an RPC nothing."""
    fixed = tuple((label.key, label.value) for label in group if isinstance(label, FixedLabel))
    if len(fixed) == len(group):
        return lambda request: fixed
    readers = tuple((label.key, compile_label(label), is_optional(label)) for label in group)

    def describe(request: PolicyRequest) -> Descriptor | None:
        entries = []
        for key, read, optional in readers:
            value = read(request)
            if value is not None:
                entries.append((key, value if len(value) <= MAX_VALUE_CHARACTERS else shorten(value)))
            elif not optional:
                return None
        return tuple(entries)

    return describe


def describe_all(describe: Sequence[Describe], request: PolicyRequest) -> list[Descriptor]:
    """The descriptors of an RPC from all groups that give one with at least one label."""
    return [made for one in describe if (made := one(request))]


def shorten(value: str) -> str:
    """A text that is different for different values; the same where `value` is within MAX_VALUE_CHARACTERS."""
    if len(value) <= MAX_VALUE_CHARACTERS:
        return value
    return f"{value[:_KEPT_CHARACTERS]}… {sha256(value.encode(errors='surrogatepass')).hexdigest()}"


def is_optional(label: Label) -> bool:
    return isinstance(label, HeaderLabel) and label.optional


def compile_label(label: Label) -> ReadLabel:
    match label:
        case FixedLabel(_, value):
            return lambda request: value
        case AddressLabel(_, missing):
            return lambda request: request.request.peer.address or missing
        case HeaderLabel(_, ":authority"):
            return lambda request: request.request.authority or None
        case HeaderLabel(_, ":path"):
            return lambda request: request.request.path
        case HeaderLabel(_, ":method"):
            return lambda request: "POST"
        case HeaderLabel(_, header, _, missing):
            return lambda request: _read_header(request, header, missing)


def _read_header(request: PolicyRequest, header: str, missing: str | None) -> str | None:
    """All values joined, as Envoy does; binary ones as gRPC sends them."""
    values = [value for key, value in request.metadata if key == header]
    if not values:
        return missing
    return ",".join([value if isinstance(value, str) else b64encode(value).decode().rstrip("=") for value in values])
