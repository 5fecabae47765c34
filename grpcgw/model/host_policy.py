"""Host policies: which calls to a name of the gateway are served, and by which Mappings."""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.model.match import HostMatch

Labels = tuple[tuple[str, str], ...]
"""Sorted names and values."""
Selectors = tuple[Labels, ...]


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """How a Host restricts calls to its name. The first policy in order whose `host` matches decides."""

    host: HostMatch | None
    """None: every name."""
    clear_text: bool = True
    """Whether calls in clear text are served (`requestPolicy.insecure.action`)."""
    tls_alone: bool = False
    """Only calls over TLS are served, whatever trusted proxies say: its clients must show certificates."""
    left_out: str = ""
    """An object with errors that restricts who may call: every call is refused. Empty: there is none."""
    selectors: Selectors = ()
    """Only a Mapping with all labels of one of these serves calls; empty: any Mapping."""
