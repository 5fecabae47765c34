"""gRPC's status codes by name (grpc/grpc doc/statuscodes.md), for people."""

from __future__ import annotations

# In the order of their numbers.
_STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


OTHER_CODE = -1
"""Stands for every number that gRPC does not define, where codes are counted: a pod may send any of 2^32."""


def countable(code: int) -> int:
    return code if 0 <= code < len(_STATUS_NAMES) else OTHER_CODE


def status_name(code: int) -> str:
    """`OK` for 0, …; a number gRPC does not define is shown as it is (a pod may send any), OTHER_CODE as `OTHER`."""
    if code == OTHER_CODE:
        return "OTHER"
    return _STATUS_NAMES[code] if 0 <= code < len(_STATUS_NAMES) else str(code)
