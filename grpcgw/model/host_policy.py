"""Host policies: which calls to a name of the gateway are served, and by which Mappings."""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.model.match import HostMatch

Labels = tuple[tuple[str, str], ...]
"""Names and values, in order."""


Selectors = tuple[Labels, ...]


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """What a Host says of calls to its name, in evaluation order: the first whose `host` matches decides."""

    host: HostMatch | None
    """None: every name."""
    clear_text: bool = True
    """Whether calls that came in clear text are served (`requestPolicy.insecure.action`)."""
    left_out: str = ""
    """What is left out for its errors and would have said who may call: no call is served; empty: nothing is."""
    selectors: Selectors = ()
    """A Mapping serves calls only with all labels of one of these; none: any Mapping does."""
