"""Labels of RPCs, by which they are counted: templates of a Mapping, and the descriptors that an RPC makes of them.

Ambassador's label group is Envoy's descriptor, its label a descriptor entry, its label specifier a rate limit action.
"""

from __future__ import annotations

from dataclasses import dataclass

Descriptor = tuple[tuple[str, str], ...]
"""Labels of one RPC from one group: (key, value) in the order of the group. A key may occur more than once."""


@dataclass(frozen=True, slots=True)
class FixedLabel:
    """The same for all RPCs of the Mapping: `generic_key`, `source_cluster`, `destination_cluster`."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class HeaderLabel:
    """The value of a metadata key (`request_headers`)."""

    key: str
    header: str
    """Lower case; may be `:authority`, `:path` or `:method`."""
    optional: bool = False
    """`omit_if_not_present`: without the header the label is left out; else the RPC has no descriptor of the group."""
    missing: str | None = None
    """Value without the header; None: as `optional` says."""


@dataclass(frozen=True, slots=True)
class AddressLabel:
    """The client's IP address (`remote_address`). A client on a Unix socket has none, and its RPCs no descriptor."""

    key: str
    missing: str | None = None
    """Value without an address; None: there is no descriptor."""


Label = FixedLabel | HeaderLabel | AddressLabel
LabelGroup = tuple[Label, ...]
"""Templates of one descriptor."""
