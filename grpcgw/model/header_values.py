"""Headers that a Mapping may add or remove: checks names and values, and parses operators in values. Pure.

The compiler checks with it; `policy.metadata_editor` applies the edits. Operators are Envoy's (custom request headers).
"""

from __future__ import annotations

import base64
import binascii
import re

from grpcgw.errors import GrpcgwError
from grpcgw.model.operators import Grammar, InvalidOperator, Line, Operator, parse_operators


class InvalidHeader(GrpcgwError):
    """A name or value that metadata cannot have, or that a Mapping may not set; the message says why."""


class ReservedHeader(InvalidHeader):
    """A name that gRPC sets itself: adding it has no effect, though Envoy would add it."""


HEADER_OPERATORS = Grammar(
    plain=frozenset(
        {
            "DOWNSTREAM_REMOTE_ADDRESS",
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
            "DOWNSTREAM_REMOTE_PORT",
            "PROTOCOL",
        }
    ),
    keyed=frozenset({"REQ"}),
    choosing={"START_TIME": ()},
)

CONNECTION_HEADERS = frozenset(
    {"connection", "http2-settings", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
"""Connection headers of HTTP/1.1: a strict peer closes an HTTP/2 connection that carries them, with the RPCs of other
clients on it (RFC 9113, 8.2.2)."""

_RESERVED = CONNECTION_HEADERS | {"accept-encoding", "content-length", "content-type", "host", "te", "user-agent"}
"""Headers of one hop; grpc core sets them."""

_NOT_RESERVED = frozenset({"grpc-trace-bin", "grpc-tags-bin"})
"""`grpc-` keys for tracing data of applications."""

_INSTEAD = {
    ":authority": "use host_rewrite",
    "host": "use host_rewrite",
    ":path": "use rewrite or regex_rewrite",
    "grpc-timeout": "use timeout_ms",
}

_NAME = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_TEXT = re.compile(r"[\x20-\x7e]*")


def check_header_name(name: str) -> str:
    """The name as metadata has it, in lower case. Raises InvalidHeader for what can be no key (grpc `PROTOCOL-HTTP2`).

    For names to remove; `parse_added_header` checks names to add.
    """
    lower = name.lower()
    if lower in _INSTEAD:
        kind = ReservedHeader if is_reserved(lower) and lower != "host" else InvalidHeader
        raise kind(f"{name} cannot be changed as a header: {_INSTEAD[lower]}")
    if lower.startswith(":"):
        raise InvalidHeader(f"{name} is a pseudo-header, which the connection needs as it is")
    if not _NAME.fullmatch(lower):
        raise InvalidHeader(f"{name!r} is no header name: it should have only letters, digits and _ . -")
    return lower


def is_reserved(key: str) -> bool:
    """Whether gRPC sets the key itself on each connection."""
    return key in _RESERVED or (key.startswith("grpc-") and key not in _NOT_RESERVED)


def parse_added_header(name: str, value: str) -> tuple[str, Line | bytes]:
    """Name and value to add: text with operators, or the bytes of a `-bin` key. Raises InvalidHeader, ReservedHeader.

    A `-bin` key takes base64, or the bytes of another such key of the request (`%REQ(x-bin)%` and nothing else).
    """
    key = check_header_name(name)
    if is_reserved(key):
        raise ReservedHeader(f"{name} is set by gRPC itself on each connection; choose another name")
    if not _TEXT.fullmatch(value):
        raise InvalidHeader(f"{name}: the value should have only printable ASCII characters; for others use a -bin key")
    return key, _parse_bytes(name, value) if key.endswith("-bin") else parse_header_value(value.strip(" "))


def parse_header_value(text: str) -> Line:
    """Raises InvalidHeader for an operator that is unknown or wrongly used."""
    try:
        return parse_operators(text, HEADER_OPERATORS)
    except InvalidOperator as error:
        raise InvalidHeader(str(error)) from error


def _parse_bytes(name: str, value: str) -> Line | bytes:
    if "%" in value:
        line = parse_header_value(value)
        only = line[0] if len(line) == 1 else None
        if isinstance(only, Operator) and only.argument.endswith("-bin") and only.max_length is None:
            return line
        raise InvalidHeader(f"{name}: the value should be base64, or one %REQ(KEY)% of another -bin key")
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise InvalidHeader(f"{name}: the value should be base64, as the key ends in -bin ({error})") from error
