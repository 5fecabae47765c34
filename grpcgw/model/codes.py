"""gRPC status codes (grpc/grpc doc/statuscodes.md), so that the core needs no grpc import, and their names."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


POD_FAILURES = frozenset({Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS})
"""Codes that indicate a problem of the pod or its connection, not of the request."""

_OF_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}

_OF_RESET = {
    7: Code.UNAVAILABLE,  # REFUSED_STREAM
    8: Code.CANCELLED,  # CANCEL
    11: Code.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    12: Code.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}

_NAMES = tuple(code.name for code in Code)

OTHER_CODE = -1
"""In counters, the code of every number that gRPC does not define: a pod may send any of 2^32."""


def countable(code: int) -> int:
    """The code itself if gRPC defines it, else OTHER_CODE."""
    return code if 0 <= code < len(_NAMES) else OTHER_CODE


def status_name(code: int) -> str:
    """`OK` for 0, …; `OTHER` for OTHER_CODE; the number itself for any other that gRPC does not define."""
    if code == OTHER_CODE:
        return "OTHER"
    return _NAMES[code] if 0 <= code < len(_NAMES) else str(code)


def code_of_http(status: int) -> Code:
    """The gRPC code of an HTTP status (grpc/grpc doc/http-grpc-status-mapping.md)."""
    return _OF_HTTP.get(status, Code.UNKNOWN)


def code_of_reset(error: int) -> Code:
    """The gRPC code of an HTTP/2 error with which a pod resets a stream (grpc `PROTOCOL-HTTP2`, Errors)."""
    return _OF_RESET.get(error, Code.INTERNAL)
