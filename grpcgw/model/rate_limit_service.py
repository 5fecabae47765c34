"""Settings of a RateLimitService: a service of Envoy's rate limit protocol counts RPCs, and says which are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from grpcgw.model.codes import Code
from grpcgw.model.labels import LabelGroup
from grpcgw.model.route import PolicySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitServiceSettings(PolicySettings):
    """`upstreams` has the service."""

    kind: ClassVar[str] = "rate-limit-service"
    domain: str
    groups: tuple[LabelGroup, ...] = ()
    """Templates of the descriptors; of an RPC that has none, the service is not called."""
    api_version: str = "v3"
    """`v3` or `v2`: of `envoy.service.ratelimit`."""
    timeout_ms: int = 20
    """For the answer, with connecting; Ambassador's default."""
    failure_mode_deny: bool = False
    """An RPC is refused where the service is away or gives no answer; Ambassador's default lets it pass."""
    code: Code = Code.RESOURCE_EXHAUSTED
    """Of an RPC above a limit."""
