"""The policy contract: what a policy is given (`PolicyRequest`) and its verdicts (`Allow`, `Deny`, `Wait`). Pure.

A policy is built once per snapshot from its settings (`policy.catalogue`) and checks each RPC of its route
(`policy.chain`). Threads: `check` may run for several RPCs at the same time, for one RPC never twice at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from grpcgw.model.codes import Code
from grpcgw.model.header_values import is_reserved
from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.model.status import REASON_KEY, Status, make_status
from grpcgw.policy.request import Request

DETAILS_KEY = "grpc-status-details-bin"
_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_REASON = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)


def check_metadata(metadata: Metadata) -> None:
    """Raises ValueError for what gRPC cannot send, or a policy may not set."""
    for key, value in metadata:
        if not _KEY.fullmatch(key) or is_reserved(key) or key == REASON_KEY:
            raise ValueError(f"{key!r} is no metadata key that a policy may set")
        if key.endswith("-bin") is not isinstance(value, bytes):
            raise ValueError(f"{key}: the value should be bytes for a -bin key, and text for any other")
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise ValueError(f"{key}: the value should have only printable ASCII characters")


@dataclass(slots=True)
class PolicyRequest:
    """An RPC as a policy sees it: the client's request, and what the policies before it made of it."""

    request: Request
    """As the client sent it."""
    mapping: str
    """`name.namespace`."""
    metadata: Metadata
    """The client's, with the edits of earlier policies."""
    facts: dict[str, str] = field(default_factory=dict)
    """Of earlier policies. A policy reads it, and adds to it by `Allow.facts` alone."""

    def get(self, key: str) -> MetadataValue | None:
        """The first value of `key` (lower case); None where there is none."""
        return next((value for name, value in self.metadata if name == key), None)


Facts = tuple[tuple[str, str], ...]
"""Name and value of what a policy found out; a later value of a name replaces an earlier one."""


@dataclass(frozen=True, slots=True)
class Allow:
    """The RPC may go on. Raises ValueError for metadata that cannot be sent."""

    add: Metadata = ()
    """Appended to the metadata of the request, after `remove`."""
    remove: tuple[str, ...] = ()
    """Keys (lower case) taken from the metadata of the request."""
    facts: Facts = ()
    """For later policies and the access log."""

    def __post_init__(self) -> None:
        check_metadata(self.add)


ALLOW = Allow()


@dataclass(frozen=True, slots=True)
class Deny:
    """The whole status that refuses an RPC. Raises ValueError for what no status can have."""

    reason: str
    """`x-grpcgw-reason`, also a label in metrics: one of few words (`[a-z][a-z0-9-]*`), never a value of the RPC."""
    message: str
    """`grpc-message`; cut at MAX_MESSAGE_CHARACTERS."""
    code: int | None = None
    """gRPC code; None: that of the reason."""
    details: bytes = b""
    """`grpc-status-details-bin`: a serialized google.rpc.Status; empty: none."""
    metadata: Metadata = ()
    """More trailers."""

    def __post_init__(self) -> None:
        if self.code is not None and not 0 < self.code <= Code.UNAUTHENTICATED:
            raise ValueError(f"{self.code} is no code to refuse an RPC with")
        if not _REASON.fullmatch(self.reason):
            raise ValueError(f"{self.reason!r} is no reason: it should be a word such as rate-limit")
        check_metadata(self.metadata)

    def status(self) -> Status:
        """What the client gets, trailers-only."""
        made = make_status(self.reason, self.message)
        details: Metadata = ((DETAILS_KEY, self.details),) if self.details else ()
        code = made.code if self.code is None else self.code
        return Status(code, made.details, (*made.trailers, *self.metadata, *details))


class FailMode(StrEnum):
    """What a policy decides where its server is away, or gives no verdict in time."""

    OPEN = "open"
    """Allow; the fact `failed-open` names the policy."""
    CLOSED = "closed"
    """Deny with UNAVAILABLE, or with `Wait.closed_code`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a unary RPC that ended with OK."""

    message: bytes
    headers: Metadata
    trailers: Metadata


@dataclass(frozen=True, slots=True)
class UnaryRpc:
    """A unary RPC of a policy's own, to the upstream of its settings (`PolicySettings.upstream`).

    It goes over the same connections, health checks, ejections and breakers as any RPC to that cluster.
    """

    path: str
    message: bytes
    judge: Callable[[Answer], Allow | Deny]
    """Called with the answer. A status other than OK is a failure (`FailMode`), and never gets here."""
    metadata: Metadata = ()

    def __post_init__(self) -> None:
        check_metadata(self.metadata)


@dataclass(frozen=True, slots=True)
class CoroutineWork:
    """A coroutine, run on the event loop that each worker has beside its engine."""

    start: Callable[[], Coroutine[Any, Any, Allow | Deny]]


@dataclass(frozen=True, slots=True)
class Wait:
    """The verdict comes later, from I/O that the session starts, bounds, and cancels with the RPC."""

    work: UnaryRpc | CoroutineWork
    timeout_s: float
    fail_mode: FailMode
    closed_code: int = Code.UNAVAILABLE
    """Code of the status where it fails closed."""


Verdict = Allow | Deny | Wait


class Policy(Protocol):
    """One policy of a route.

    It may also have `on_end(self, request: PolicyRequest, status: Status) -> None`: called once for each RPC that it
    allowed, when the RPC is over. What it raises is logged and changes nothing.
    """

    def check(self, request: PolicyRequest) -> Verdict:
        """The verdict on one RPC. Does no I/O itself and never blocks. What it raises ends the RPC with INTERNAL."""
        ...


class RunningWork(Protocol):
    """A coroutine that an engine runs for a policy."""

    def cancel(self) -> None:
        """End it; no result is reported afterwards. Does nothing where it is over."""
        ...


class CoroutineRuntime(Protocol):
    """An engine's port for coroutines of policies."""

    def run(self, work: CoroutineWork, on_result: Callable[[object], None]) -> RunningWork:
        """Run a coroutine; `on_result` gets what it returned or the exception it raised, under the RPC's lock and
        never from inside this call."""
        ...
