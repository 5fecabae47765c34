"""HTTP/2 header fields of requests and of metadata, and what the session knows of them; `responses` has the rest. Pure.

Source of the rules: grpc `PROTOCOL-HTTP2`. Order and duplicates are kept. What describes messages (`content-type` with
its codec, `grpc-encoding`, `grpc-accept-encoding`) and `user-agent` cross the gateway as they are, beside the metadata.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain

from grpcgw.engines.http2.h2 import FIELD_OVERHEAD_BYTES, NeverIndexed
from grpcgw.engines.http2.known_fields import KnownFields
from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.model.status import Reason
from grpcgw.policy.request import REQUEST_ID
from grpcgw.policy.verdicts import Deny
from grpcgw.session.forwarding import OWN_PREFIXES

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]

GRPC = b"application/grpc"
CONTENT_TYPE = (b"content-type", GRPC)
_SEVERAL = b","
"""Stands for several content types. There is one (RFC 9110, 8.3): which of them a pod would read is unknown."""
TE = (b"te", b"trailers")

MESSAGE_FIELDS = frozenset({b"content-type", b"grpc-encoding", b"grpc-accept-encoding"})
"""Describe the messages, which cross unparsed: so do these."""
_OF_REQUEST = MESSAGE_FIELDS | {
    b":method",
    b":path",
    b":scheme",
    b":authority",
    b"te",
    b"host",
    b"grpc-timeout",
}
_UNUSED = frozenset({b":method", b":path", b":scheme", b":authority", b"te"})

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MOST_DIGITS = 100_000_000
_NAME = re.compile(rb"[0-9a-z_.-]+")
PRINTABLE = re.compile(rb"[\x20-\x7e]*")
_OWN_PREFIXES = tuple([prefix.encode() for prefix in OWN_PREFIXES])
_GRPCS_PREFIX = "grpc-"
"""Of keys that libraries of gRPC read themselves."""
_KNOWN: KnownFields[Field, tuple[str, MetadataValue]] = KnownFields()
"""Without the gateway's own keys: that a request has them is found out when they are decoded."""
_ENCODED: KnownFields[tuple[str, MetadataValue], Field] = KnownFields()
_KNOWN_SENSITIVE: KnownFields[Field, tuple[str, MetadataValue]] = KnownFields()
_ENCODED_SENSITIVE: KnownFields[tuple[str, MetadataValue], Field] = KnownFields()
"""For `Sensitive` values: an equal one may come in the open."""
MOST_JOINED = 100
"""Limit of the binary values that commas join in one field: a byte more of the client is an item more here."""


class Sensitive(str):
    """A value that its sender keeps out of header tables (HPACK), so that nobody finds it out by the size of headers.
    No further hop may put it into one either (RFC 7541, 6.2.3), unless others send the same in the open."""

    __slots__ = ()


class BadField(Exception):
    """A header field that gRPC does not allow. The text names it."""


@dataclass(slots=True)
class RequestHead:
    """The header block of a request."""

    method: bytes = b""
    path: str = ""
    authority: str = ""
    host: str = ""
    metadata: Metadata = ()
    timeout_s: float | None = None
    message_fields: tuple[Field, ...] = ()
    """`content-type`, encodings and `user-agent`, for the pod."""
    content_type: bytes = b""
    encoding: str = "identity"
    """`grpc-encoding`, for those who read messages."""
    has_own_keys: bool = False
    """As `Request.has_own_keys`."""
    size_bytes: int = 0
    """As `size_of`."""
    refusal: Deny | None = None
    """Why the request reaches no pod; None: it is admitted so far."""


def parse_request(fields: Fields) -> RequestHead:
    """Read a request's header block. A field that gRPC does not allow is a `refusal`; nothing is raised."""
    special = dict(fields[:4])  # pseudo-headers come first, each once (RFC 9113, 8.3)
    head = RequestHead(
        special.get(b":method", b""),
        special.get(b":path", b"").decode("latin-1"),
        special.get(b":authority", b"").decode("latin-1"),
    )
    metadata: list[tuple[str, MetadataValue]] = []
    kept: list[Field] = []
    known = _KNOWN
    try:
        for field in fields[3:]:
            name = field[0]
            if name not in _OF_REQUEST:
                item = known.get(field)
                if item is None:
                    metadata += _decode(field)
                    head.has_own_keys |= name.startswith(_OWN_PREFIXES)
                else:
                    metadata.append(item)
                if name == b"user-agent":
                    kept.append(field)
            elif name == b"content-type":
                head.content_type = _SEVERAL if head.content_type else field[1]
                kept.append(field)
            elif name not in _UNUSED:
                kept += _take_special(head, field)
        if head.host:
            _check_host(head)
    except BadField as bad:
        head.refusal = Deny(Reason.BAD_METADATA, str(bad))
    head.metadata, head.message_fields, head.size_bytes = tuple(metadata), tuple(kept), size_of(fields)
    return head


def _take_special(head: RequestHead, field: Field) -> tuple[Field, ...]:
    """What of it is for the pod. Encodings are never indexed, for the reason of `encode_metadata`."""
    name, value = field
    if name == b"grpc-timeout":
        head.timeout_s = parse_timeout(value)
        return ()
    if name == b"host":
        head.host = value.decode("latin-1")
        return ()
    if not PRINTABLE.fullmatch(value):  # some pods end the connection over it, which other clients share
        raise BadField(f"header {name.decode()} has characters that are not printable ASCII")
    if name == b"grpc-encoding":
        head.encoding = value.decode("latin-1")
    return (NeverIndexed(name, value),)


def _check_host(head: RequestHead) -> None:
    """RFC 9113, 8.3.1: `host` stands in for an absent `:authority`, and must not contradict one."""
    if not head.authority:
        head.authority = head.host
    elif head.host.lower() != head.authority.lower():
        raise BadField(f"host and :authority differ: {head.host[:64]!a}")


def parse_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout`. Raises BadField."""
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise BadField(f"grpc-timeout is no number of at most 8 digits with a unit: {value[:32]!a}")
    return int(found[1]) * _UNIT_S[found[2]]


def format_timeout(left_s: float) -> bytes:
    """The `grpc-timeout` for what is left, rounded down so that a deadline never grows. `left_s` is positive."""
    micros = int(left_s * 1e6)
    if micros < _MOST_DIGITS:
        return b"%du" % micros
    if micros // 1000 < _MOST_DIGITS:
        return b"%dm" % (micros // 1000)
    return b"%dS" % min(int(left_s), _MOST_DIGITS - 1)


# --- metadata


def _decode(field: Field) -> tuple[tuple[str, MetadataValue], ...]:
    """One item of metadata, or several where binary values are joined by commas. Raises BadField."""
    name, value = field
    if (is_sensitive := isinstance(field, NeverIndexed)) and field in _KNOWN_SENSITIVE:
        return (_KNOWN_SENSITIVE[field],)
    if not _NAME.fullmatch(name):
        raise BadField(f"a header has a name that gRPC does not allow: {name[:64]!a}")
    text = name.decode("ascii")
    if text.endswith("-bin"):
        return tuple((text, part) for part in _decode_bytes(text, value))
    try:
        item = text, value.decode("ascii")
    except UnicodeDecodeError:
        raise BadField(f"header {text} has characters that are not ASCII") from None
    if b"\t" in value:
        raise BadField(f"header {text} has a tab in its value")
    if is_sensitive:
        item = text, Sensitive(item[1])
        _KNOWN_SENSITIVE.keep(field, item, len(value))
    elif text != REQUEST_ID and not name.startswith(_OWN_PREFIXES):
        _KNOWN.keep(field, item, len(value))
    return (item,)


def decode_pods(field: Field) -> tuple[tuple[str, MetadataValue], ...]:
    """An item of a pod's metadata; nothing where gRPC does not allow it, since no client could read it."""
    item = _KNOWN.get(field)
    try:
        return _decode(field) if item is None else (item,)
    except BadField:
        return ()


def _decode_bytes(name: str, value: bytes) -> list[bytes]:
    parts = value.split(b",")  # RFC 9110, 5.3: proxies join by a comma, and a space if they like
    if len(parts) > MOST_JOINED:
        raise BadField(f"header {name} joins more than {MOST_JOINED} values")
    try:
        return [_decode_base64(part.strip(b" ")) for part in parts]
    except binascii.Error:
        raise BadField(f"header {name} is not base64") from None


def _decode_base64(value: bytes) -> bytes:
    """With padding or without it. Raises binascii.Error."""
    return binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)


def encode_metadata(metadata: Metadata) -> list[Field]:
    """Header fields of metadata. Binary values and gRPC's own keys are never indexed: a pod on grpc core keeps one that
    it cannot read in its table, as an error for every later RPC that names the entry, be it for its key alone. Nor are
    request ids, none of which comes twice."""
    known = _ENCODED
    return [known.get(item) or _encode(item) for item in metadata]


def _encode(item: tuple[str, MetadataValue]) -> Field:
    name, value = item
    if isinstance(value, bytes):
        return NeverIndexed(name.encode("ascii"), binascii.b2a_base64(value, newline=False).rstrip(b"="))
    if isinstance(value, Sensitive):
        known = _ENCODED_SENSITIVE.get(item)
        return known or _ENCODED_SENSITIVE.keep(item, NeverIndexed(name.encode(), value.encode()), len(value))
    if name == REQUEST_ID or name.startswith(_GRPCS_PREFIX):
        return NeverIndexed(name.encode("ascii"), value.encode("ascii"))
    return _ENCODED.keep(item, (name.encode("ascii"), value.encode("ascii")), len(value))


NOT_SHOWN = Deny(
    Reason.CLIENT_CERTIFICATE,
    "the Host of :authority demands another client certificate than the server name of the TLS handshake: connect with "
    "that Host as server name",
)


def is_grpc(content_type: bytes) -> bool:
    """`application/grpc`, with a codec (`+proto`) or parameters (`;…`), in printable ASCII."""
    if content_type == GRPC:
        return True
    begins = content_type.startswith((b"application/grpc+", b"application/grpc;"))
    return begins and PRINTABLE.fullmatch(content_type) is not None


def size_of(fields: Collection[Field]) -> int:
    """Bytes of a header list, counted as RFC 9113, 6.5.2 has it."""
    # To join and measure takes a quarter less than a sum of lengths.
    return len(b"".join(chain.from_iterable(fields))) + FIELD_OVERHEAD_BYTES * len(fields)
