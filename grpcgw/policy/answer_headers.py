"""Headers in the answer of an authorization service: which of them gRPC can carry, as metadata. Pure."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from grpcgw.errors import GrpcgwError
from grpcgw.model.codes import Code
from grpcgw.model.header_values import is_reserved
from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.model.status import PUSHBACK_KEY, REASON_KEY
from grpcgw.policy.verdicts import DETAILS_KEY, check_metadata

MAX_TRAILER_BYTES = 4096
"""Of the headers of a denial, so many bytes get to the client: clients take 8 KiB of trailers in all."""
_OVERHEAD_BYTES = 32
MAX_CODE_DIGITS, MAX_PUSHBACK_DIGITS = 2, 9
MAX_DETAILS_BYTES = 2048
"""Longer details of a denial are left out: with them, its trailers would be more than clients take (8 KiB)."""


class BadHeader(GrpcgwError):
    """A header that cannot be sent, or that no service may set; the text says which."""


def is_dropped(name: str) -> bool:
    """Whether the header is of the service's own HTTP answer, or of one connection, so that it is not passed on."""
    return is_reserved(name.lower()) and name.lower() != "host"


def read_header(name: str, value: str) -> tuple[str, MetadataValue]:
    """Key and value as metadata. Raises BadHeader: what allows an RPC on a condition is not passed on by halves."""
    key = name.lower()
    if key.startswith(":") or key == "host":
        raise BadHeader(f"{key} would change where the call goes, which was decided before")
    try:
        item: tuple[str, MetadataValue] = (key, _decode(value) if key.endswith("-bin") else value.strip(" \t"))
        check_metadata((item,))
    except (ValueError, binascii.Error) as error:
        raise BadHeader(str(error)) from error
    return item


def keep_sendable(headers: Iterable[tuple[str, str]]) -> Metadata:
    """Those of a denial that a client can get, as trailers; the others are dropped, as the RPC is refused anyway."""
    kept: list[tuple[str, MetadataValue]] = []
    left_bytes = MAX_TRAILER_BYTES
    for name, value in headers:
        left_bytes -= len(name) + len(value) + _OVERHEAD_BYTES
        if is_dropped(name) or name.lower() == REASON_KEY or left_bytes < 0:
            continue
        try:
            kept.append(read_header(name, value))
        except BadHeader:
            continue
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class ExplicitStatus:
    """A status of gRPC among the headers of a denial."""

    code: int | None
    """None: there is none that refuses, and so no details."""
    message: str
    details: bytes = b""
    retry_after_ms: int | None = None


def explicit_status(headers: Iterable[tuple[str, str]]) -> ExplicitStatus:
    """`grpc-status`, `grpc-message` (percent-encoded, as gRPC has it), `grpc-status-details-bin` and
    `grpc-retry-pushback-ms`, as far as they can be used."""
    found = {name.lower(): value for name, value in headers}
    code = _read_number(found.get("grpc-status", ""), MAX_CODE_DIGITS)
    message = unquote(found.get("grpc-message", ""))
    if code is None or not 0 < code <= Code.UNAUTHENTICATED:
        return ExplicitStatus(None, message)
    details = _read_details(found.get(DETAILS_KEY, ""))
    return ExplicitStatus(code, message, details, _read_number(found.get(PUSHBACK_KEY, ""), MAX_PUSHBACK_DIGITS))


def _read_number(text: str, most_digits: int) -> int | None:
    return int(text) if len(text) <= most_digits and text.isascii() and text.isdecimal() else None


def _read_details(value: str) -> bytes:
    try:
        details = _decode(value)
    except (ValueError, binascii.Error):
        return b""
    return details if len(details) <= MAX_DETAILS_BYTES else b""


def _decode(value: str) -> bytes:
    return b64decode(value + "=" * (-len(value) % 4), validate=True)
