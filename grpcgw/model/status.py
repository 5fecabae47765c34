"""Statuses that the gateway makes itself, and which codes and causes allow a retry or count against a pod.

The one place that turns causes into gRPC codes. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from grpcgw.model.codes import POD_FAILURES, Code
from grpcgw.model.metadata import Metadata


class Reason(StrEnum):
    """Value of the `x-grpcgw-reason` trailer of every status the gateway makes. The last one appears only in log and
    metrics: no status can be sent any more.
    """

    NO_MAPPING = "no-mapping"
    NO_HOST = "no-host"
    REDIRECT = "redirect"
    BAD_PATH = "bad-path"
    BAD_AUTHORITY = "bad-authority"
    CLEAR_TEXT = "clear-text"
    LEFT_OUT = "host-left-out"
    ROUTE_LEFT_OUT = "route-left-out"
    NOT_ENFORCED = "not-enforced"
    NO_ENDPOINTS = "no-endpoints"
    UNROUTED_SHARE = "unrouted-share"
    METADATA_TOO_LARGE = "metadata-too-large"
    MESSAGE_TOO_LARGE = "message-too-large"
    MESSAGE_CUT_OFF = "message-cut-off"
    TOO_MUCH_HELD = "too-much-held"
    BAD_METADATA = "bad-metadata"
    CONNECT_FAILED = "connect-failed"
    STREAM_REFUSED = "stream-refused"
    CONNECTION_LOST = "connection-lost"
    STREAM_RESET = "stream-reset"
    BAD_RESPONSE = "bad-response"
    NO_STATUS = "no-status"
    TIMEOUT = "timeout"
    IDLE_TIMEOUT = "idle-timeout"
    CLIENT_DEADLINE = "client-deadline"
    CIRCUIT_BREAKER = "circuit-breaker"
    RATE_LIMITED = "rate-limit"
    TOO_MANY_AT_ONCE = "concurrency-limit"
    CLIENT_ADDRESS = "client-address"
    UNDERSCORE = "underscore"
    CLIENT_CERTIFICATE = "client-certificate"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NO_TOKEN_KEYS = "no-token-keys"
    POLICY_UNAVAILABLE = "policy-unavailable"
    POLICY_DEFECT = "policy-defect"
    POLICY_NOT_BUILT = "policy-not-built"
    OWN_POLICY = "own-policy"
    DRAINING = "draining"
    DEFECT = "defect"
    CUT_AT_ONCE = "cut-at-once"


REASON_KEY = "x-grpcgw-reason"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailer: how long a client should wait before it retries (gRFC A6)."""
MAX_MESSAGE_CHARACTERS = 512
"""Limit for the message of a status that the gateway makes."""

POD_LEFT = "Socket closed: the pod left, its drain time is over"
"""Details of RPCs on a connection that an engine closes itself."""

_CODES: Mapping[str, Code] = {
    Reason.NO_MAPPING: Code.UNIMPLEMENTED,
    Reason.NO_HOST: Code.UNIMPLEMENTED,
    Reason.REDIRECT: Code.UNIMPLEMENTED,
    Reason.BAD_PATH: Code.UNIMPLEMENTED,
    Reason.BAD_AUTHORITY: Code.INVALID_ARGUMENT,
    Reason.CLEAR_TEXT: Code.PERMISSION_DENIED,
    Reason.METADATA_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    Reason.MESSAGE_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
    Reason.MESSAGE_CUT_OFF: Code.INTERNAL,
    Reason.TOO_MUCH_HELD: Code.RESOURCE_EXHAUSTED,
    Reason.BAD_METADATA: Code.INVALID_ARGUMENT,
    Reason.TIMEOUT: Code.DEADLINE_EXCEEDED,
    Reason.IDLE_TIMEOUT: Code.DEADLINE_EXCEEDED,
    Reason.CLIENT_DEADLINE: Code.DEADLINE_EXCEEDED,
    Reason.STREAM_RESET: Code.INTERNAL,
    Reason.BAD_RESPONSE: Code.INTERNAL,
    Reason.NO_STATUS: Code.UNKNOWN,
    Reason.CIRCUIT_BREAKER: Code.RESOURCE_EXHAUSTED,
    Reason.RATE_LIMITED: Code.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_AT_ONCE: Code.RESOURCE_EXHAUSTED,
    Reason.CLIENT_ADDRESS: Code.PERMISSION_DENIED,
    Reason.UNDERSCORE: Code.INVALID_ARGUMENT,
    Reason.CLIENT_CERTIFICATE: Code.UNAUTHENTICATED,
    Reason.UNAUTHENTICATED: Code.UNAUTHENTICATED,
    Reason.FORBIDDEN: Code.PERMISSION_DENIED,
    Reason.OWN_POLICY: Code.PERMISSION_DENIED,
    Reason.POLICY_DEFECT: Code.INTERNAL,
    Reason.DEFECT: Code.INTERNAL,
    Reason.CUT_AT_ONCE: Code.CANCELLED,
}
_SAFE_TO_RETRY = frozenset({Reason.CONNECT_FAILED, Reason.STREAM_REFUSED})


@dataclass(frozen=True, slots=True)
class Status:
    """How an RPC ended, as the client sees it."""

    code: int
    details: str
    trailers: Metadata = ()
    cause: Reason | None = None
    """Why the attempt failed, if the engine has proof; None: the pod may have sent this status."""


def make_status(reason: str, message: str) -> Status:
    """The gateway's own status for `reason`; `message` names the Mapping and the cause.

    A long message is cut: it may quote a path or a host of any length, and clients take 8 KiB of trailers. What UTF-8
    cannot encode (surrogates) is escaped: grpc would fail to send it.
    """
    message = message.encode(errors="backslashreplace").decode()
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    return Status(_CODES.get(reason, Code.UNAVAILABLE), message, ((REASON_KEY, str(reason)),))


def reason_of(status: Status) -> str:
    """Reason in a status that the gateway made; empty if it has none."""
    return str(dict(status.trailers).get(REASON_KEY, ""))


def safe_to_retry(reason: Reason) -> bool:
    """The pod provably did not process the RPC: no connection, or the stream was refused (RFC 9113, 8.7)."""
    return reason in _SAFE_TO_RETRY


def counts_against_pod(status: Status) -> bool:
    """Whether the status is a sign of the pod's health rather than of the request."""
    if status.cause is Reason.STREAM_RESET:  # with whatever error
        return True
    return status.code in POD_FAILURES and status.cause is not Reason.BAD_METADATA
