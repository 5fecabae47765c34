"""Refuses all RPCs that an object decides on which no policy enforces yet (AuthService, FilterPolicy, …)."""

from __future__ import annotations

from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason
from grpcgw.policy.verdicts import Deny


def refuse(mapping: str, settings: PolicySettings) -> Deny:
    """`mapping`: label of the Mapping whose RPCs are refused."""
    return Deny(
        Reason.NOT_ENFORCED, f"Mapping {mapping}: {settings.name} decides on its calls, and is not supported yet"
    )
