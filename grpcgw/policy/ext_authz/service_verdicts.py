"""Verdicts of authorization services: they do not depend on the RPC, so they can be kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason
from grpcgw.policy.verdicts import Allow, Deny, Facts


def permit(
    replaced: Metadata = (),
    appended: Metadata = (),
    removed: Iterable[str] = (),
    facts: Facts = (),
    for_client: Metadata = (),
) -> Allow:
    """`replaced`: headers for the pod, instead of those that the client sent under these names. Raises ValueError for a
    header that cannot be sent."""
    without = tuple(dict.fromkeys((*removed, *[key for key, _ in replaced])))
    return Allow((*replaced, *appended), without, facts, for_client)


def refuse(
    who: str,
    code: int,
    message: str,
    metadata: Metadata = (),
    details: bytes = b"",
    retry_after_ms: int | None = None,
    facts: Facts = (),
) -> Deny:
    """The refusal of an RPC by a service; `who` names it where it gives no message."""
    reason = Reason.UNAUTHENTICATED if code == Code.UNAUTHENTICATED else Reason.FORBIDDEN
    return Deny(reason, message or f"{who} refuses the call", code, details, metadata, retry_after_ms, facts)
