"""Refuses all RPCs that an object decides on which no policy can enforce (AuthService, FilterPolicy, …)."""

from __future__ import annotations

from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import PolicySettings, Unenforced
from grpcgw.model.status import Reason
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Deny


def refuse(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Deny:
    """`key`: the Mapping whose RPCs are refused."""
    assert isinstance(settings, Unenforced)
    return Deny(Reason.NOT_ENFORCED, f"{key}: {settings.name} decides on its calls, and {settings.why}")
