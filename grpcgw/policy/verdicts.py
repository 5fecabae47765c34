"""Verdicts on an RPC: `Allow`, and `Deny` with the whole status that refuses it. Pure.

A verdict that comes later, `Wait`, is in `policy.contract`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from grpcgw.model.codes import Code
from grpcgw.model.header_values import is_reserved
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import PUSHBACK_KEY, REASON_KEY, Status, make_status

DETAILS_KEY = "grpc-status-details-bin"
_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_REASON = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)


MAX_BYTES = 65536
"""Of what a verdict adds to metadata, or of the status of a Deny. More of it could make a peer close the connection,
with the RPCs of others on it."""


def check_metadata(metadata: Metadata) -> None:
    """Raises ValueError for what gRPC cannot send, or a policy may not set."""
    if not isinstance(metadata, tuple):
        raise ValueError("metadata should be a tuple of pairs")
    size = 0
    for key, value in metadata:
        if not _is_settable(key):
            raise ValueError(f"{key!r} is no metadata key that a policy may set")
        if key.endswith("-bin") is not isinstance(value, bytes):
            raise ValueError(f"{key}: the value should be bytes for a -bin key, and text for any other")
        if not isinstance(value, bytes) and not _is_text(value):
            raise ValueError(f"{key}: the value should be printable ASCII characters, without spaces around them")
        size += len(value)
    if size > MAX_BYTES:
        raise ValueError(f"metadata of {size} bytes are too long: a policy may set {MAX_BYTES}")


@lru_cache(maxsize=1024)
def _is_key(key: str) -> bool:
    """Remembered: policies change few keys, and in each RPC."""
    return _KEY.fullmatch(key) is not None


@lru_cache(maxsize=1024)
def _is_settable(key: str) -> bool:
    return _is_key(key) and not is_reserved(key) and key != REASON_KEY


def _is_text(value: object) -> bool:
    """RFC 9113, 8.2.1 forbids spaces around a value: a strict peer ends the connection over one."""
    return isinstance(value, str) and value.isascii() and value.isprintable() and value.strip() == value


Facts = tuple[tuple[str, str], ...]
"""Name and value of what a policy found out; a later value of a name replaces an earlier one."""


@dataclass(frozen=True, slots=True)
class Allow:
    """The RPC may go on. Raises ValueError for metadata that cannot be sent, and for facts that are not text."""

    add: Metadata = field(default=(), repr=False)
    """Appended to the metadata of the request, after `remove`."""
    remove: tuple[str, ...] = ()
    """Keys (lower case) taken from the metadata of the request."""
    facts: Facts = ()
    """For later policies and the access log."""
    add_response: Metadata = ()
    """Appended to the metadata that the client gets first: the pod's headers, or the trailers of a trailers-only
    answer."""
    claims: Mapping[str, object] | None = field(default=None, repr=False)
    """Of a verified token, for later policies; None: those that an earlier one found stay."""
    withhold: tuple[str, ...] = ()
    """Keys (lower case) that pods do not get, though later policies still see them; what those add, pods get."""

    def __post_init__(self) -> None:
        check_metadata(self.add)
        check_metadata(self.add_response)
        for key in (*self.remove, *self.withhold):
            if not _is_key(key):
                raise ValueError(f"{key!r} is no metadata key in lower case")
        for name, value in self.facts:
            if not (isinstance(name, str) and isinstance(value, str)):
                raise ValueError(f"the fact {name!r} should have text for its name and value")


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
    retry_after_ms: int | None = None
    """`grpc-retry-pushback-ms` (gRFC A6): a client that retries should wait so long; None: it is not sent."""
    facts: Facts = ()
    """For the access log alone: the client gets none of them."""

    def __post_init__(self) -> None:
        if self.code is not None and not (isinstance(self.code, int) and 0 < self.code <= Code.UNAUTHENTICATED):
            raise ValueError(f"{self.code} is no code to refuse an RPC with")
        if not isinstance(self.message, str):
            raise ValueError(f"the message should be text, not {type(self.message).__name__}")
        if not isinstance(self.details, bytes) or len(self.details) > MAX_BYTES:
            raise ValueError(f"the details should be a serialized google.rpc.Status, of {MAX_BYTES} bytes at most")
        if not _REASON.fullmatch(self.reason):
            raise ValueError(f"{self.reason!r} is no reason: it should be a word such as rate-limit")
        check_metadata(self.metadata)
        wait_ms = self.retry_after_ms
        if wait_ms is not None and not (isinstance(wait_ms, int) and 0 <= wait_ms < 2**31):
            raise ValueError(f"{wait_ms} ms is no time to wait: it should be a whole number of 31 bits")

    def status(self) -> Status:
        """What the client gets, trailers-only."""
        made = make_status(self.reason, self.message)
        details: Metadata = ((DETAILS_KEY, self.details),) if self.details else ()
        code = made.code if self.code is None else self.code
        pushback: Metadata = () if self.retry_after_ms is None else ((PUSHBACK_KEY, str(self.retry_after_ms)),)
        return Status(code, made.details, (*made.trailers, *self.metadata, *pushback, *details))
