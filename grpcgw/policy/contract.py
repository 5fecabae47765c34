"""The policy contract: what a policy is given (`PolicyRequest`) and what it decides (`Verdict`).

Pure. A policy is built once per snapshot from its settings (`policy.catalogue`) and checks each RPC of its route
(`policy.chain`). Threads: `check` may run for several RPCs at the same time, for one RPC never twice at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.model.objects import ObjectKey
from grpcgw.model.request_path import PATH_CHARACTER
from grpcgw.model.status import Status
from grpcgw.policy.request import Request
from grpcgw.policy.verdicts import Allow, Deny, check_metadata

_PATH = re.compile(f"/{PATH_CHARACTER}+/{PATH_CHARACTER}+")
_HIGHEST_CODE, _INFINITE = Code.UNAUTHENTICATED, math.inf


@lru_cache(maxsize=1024)
def _is_path(path: str) -> bool:
    """Remembered: policies call few methods, and for each RPC."""
    return _PATH.fullmatch(path) is not None


@dataclass(slots=True)
class PolicyRequest:
    """An RPC as a policy sees it: the client's request, and what the policies before it made of it."""

    request: Request
    """As the client sent it."""
    key: ObjectKey
    """The object that routes it: `Mapping greet.default`."""
    metadata: Metadata = field(repr=False)
    """The client's, with the edits of earlier policies."""
    facts: dict[str, str] = field(default_factory=dict)
    """Of earlier policies. A policy reads it, and adds to it by `Allow.facts` and `Deny.facts` alone."""
    claims: Mapping[str, object] | None = field(default=None, repr=False)
    """Of the token that an earlier policy verified (`Allow.claims`); None: there is none."""
    first_message: MessageStart | None = None
    """The request's first message, once a policy has waited for it (`FirstMessage`); None before."""
    now_s: float = 0.0
    """The engine's clock when the policies began or went on; it never goes back. `request.received_at_s` is the time
    of day."""

    def get(self, key: str) -> MetadataValue | None:
        """The first value of `key` (lower case); None where there is none."""
        for name, value in self.metadata:  # a generator would take twice as long
            if name == key:
                return value
        return None


@dataclass(frozen=True, slots=True)
class MessageStart:
    """What a policy gets of the first message of a request."""

    frame: bytes
    """The message as a gRPC frame: with its prefix of 5 bytes, compressed if the prefix says so. Empty: the client
    ended its request without a message."""
    complete: bool
    """False: the message is longer."""


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
    """A unary RPC of a policy's own, to an upstream of its settings (`PolicySettings.upstreams`).

    Raises ValueError for a path, message or metadata that cannot be sent.

    It goes over the same connections, health checks, ejections and breakers as any RPC to that cluster.
    """

    path: str
    message: bytes
    judge: Callable[[Answer], Allow | Deny]
    """Called with the answer. A status other than OK is a failure (`FailMode`), and never gets here."""
    metadata: Metadata = ()
    upstream: int = 0
    """Which of `PolicySettings.upstreams` it goes to."""
    repeatable: bool = False
    """It changes nothing at its pod, so it is sent once more, to another pod, also where the first may have begun with
    it: the connection was lost, or the pod reset or cancelled it, as pods do that stop."""

    def __post_init__(self) -> None:
        if not _is_path(self.path):
            raise ValueError(f"{self.path!r} is no path of a method: it should be /service/method")
        if not isinstance(self.message, bytes):
            raise ValueError(f"the message should be bytes, not {type(self.message).__name__}")
        if self.metadata != ():  # as of most
            check_metadata(self.metadata)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer of an HTTP service; its body may be cut."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A POST over HTTP/1.1 of a policy's own, to an upstream whose cluster is for HTTP.

    It goes to a pod that the balancer picks, within the breaker, and its outcome counts like an RPC's. It should change
    nothing at the pod: it is sent once more where a connection ends before its answer begins.
    """

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    judge: Callable[[HttpAnswer], Allow | Deny]
    """Called with an answer of any status."""
    upstream: int = 0
    """Which of `PolicySettings.upstreams` it goes to."""


@dataclass(frozen=True, slots=True)
class FirstMessage:
    """The client sends its first message, or `max_bytes` of it; it is in `PolicyRequest.first_message` then.

    `max_bytes` counts the prefix of the frame. What comes to `Wait.then` is `Allow`.
    """

    max_bytes: int


@dataclass(frozen=True, slots=True)
class CoroutineWork:
    """A coroutine, run on the event loop that each worker has beside its engine."""

    start: Callable[[], Coroutine[Any, Any, Allow | Deny | HttpAnswer]]
    """A policy's returns its verdict; that of an `HttpCall` the answer, for `HttpCall.judge`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The verdict comes later, from I/O that the session starts, bounds, and cancels with the RPC.

    Raises ValueError for a time-out that bounds nothing, and for a code that refuses nothing.
    """

    work: UnaryRpc | HttpCall | CoroutineWork | FirstMessage
    timeout_s: float
    fail_mode: FailMode
    closed_code: int = Code.UNAVAILABLE
    """Code of the status where it fails closed."""
    then: Callable[[Allow | Deny], Verdict] | None = None
    """Makes the policy's verdict of the one that was waited for, or of what the fail mode made; it may wait again.
    None: that verdict is the policy's."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < _INFINITE:
            raise ValueError(f"{self.timeout_s} is no time-out: it should be a number of seconds above 0")
        if not 0 < self.closed_code <= _HIGHEST_CODE:
            raise ValueError(f"{self.closed_code} is no code to refuse an RPC with")


OnEnd = Callable[[PolicyRequest, Status], None]


@dataclass(frozen=True, slots=True)
class PartialAllow:
    """Of a policy that is made of several (FilterPolicy): one of them allows the RPC, the others are still to decide.

    Metadata and facts of `allowed` are in the request that `then` gets.
    """

    allowed: Allow
    then: Callable[[PolicyRequest], Verdict]
    """Goes on with the other policies."""
    name: str = ""
    """That of the one which allowed."""
    on_end: OnEnd | None = None
    """Its `on_end` (`Policy`)."""


Verdict = Allow | Deny | Wait | PartialAllow


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

    def run(self, work: CoroutineWork, on_result: Callable[[object, float], None]) -> RunningWork:
        """Run a coroutine; `on_result` gets what it returned or the exception it raised, and the time, in the
        thread of the RPC, and never from inside this call."""
        ...
