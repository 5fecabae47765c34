"""HTTP/2 header fields of responses: what pods answer with, and the status that clients get. Pure.

Source of the rules: grpc `PROTOCOL-HTTP2`. Fields and metadata are in `headers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from grpcgw.engines.http2.headers import (
    MESSAGE_FIELDS,
    PRINTABLE,
    BadField,
    Field,
    Fields,
    decode_pods,
    encode_metadata,
    is_grpc,
    size_of,
)
from grpcgw.model.codes import Code, code_of_http
from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.model.status import Reason, Status

STATUS_200 = (b":status", b"200")

_OF_RESPONSE = MESSAGE_FIELDS | {b":status", b"content-length"}
"""A client would take an answer that ends before its `content-length` for malformed, and lose the gateway's status."""
_OF_STATUS = _OF_RESPONSE | {b"grpc-status", b"grpc-message"}


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The header block of a response."""

    metadata: Metadata
    message_fields: tuple[Field, ...]
    fault: Status | None
    """The status of a response that is not gRPC's; None: it is gRPC's."""
    size_bytes: int
    """As `size_of`, also below."""


@dataclass(frozen=True, slots=True)
class Trailers:
    """Trailers, or the header block of a trailers-only response. `status`: None where there is none."""

    status: Status | None
    size_bytes: int


_Block = TypeVar("_Block", ResponseHead, Trailers)

_RESPONSES: dict[Fields, ResponseHead] = {}
_TRAILERS: dict[Fields, Trailers] = {}
MOST_BLOCKS, LONGEST_BLOCK_BYTES = 1024, 512
"""Header blocks that pods repeat are parsed once: most trailers are `grpc-status: 0` alone."""


def parse_response(fields: Fields) -> ResponseHead:
    """Read the header block of a pod's response."""
    head = _RESPONSES.get(fields)
    if head is None:
        head = _parse_response(fields)
        _remember(_RESPONSES, fields, head)
    return head


def parse_trailers(fields: Fields) -> Trailers:
    """Read a pod's trailers. Raises BadField."""
    trailers = _TRAILERS.get(fields)
    if trailers is None:
        trailers = Trailers(_parse_status(fields), size_of(fields))
        _remember(_TRAILERS, fields, trailers)
    return trailers


def _remember(blocks: dict[Fields, _Block], fields: Fields, parsed: _Block) -> None:
    if parsed.size_bytes <= LONGEST_BLOCK_BYTES:
        if len(blocks) >= MOST_BLOCKS:
            blocks.clear()
        blocks[fields] = parsed


def _parse_response(fields: Fields) -> ResponseHead:
    metadata: list[tuple[str, MetadataValue]] = []
    kept = []
    for field in fields:
        if field[0] not in _OF_RESPONSE:
            metadata += decode_pods(field)
        elif field[0] in MESSAGE_FIELDS and PRINTABLE.fullmatch(field[1]):
            kept.append(field)
    return ResponseHead(tuple(metadata), tuple(kept), _judge_http(fields), size_of(fields))


def _parse_status(fields: Fields) -> Status | None:
    code: int | None = None
    details = b""
    metadata: list[tuple[str, MetadataValue]] = []
    for field in fields:
        name = field[0]
        if name not in _OF_STATUS:
            metadata += decode_pods(field)
        elif name == b"grpc-status":
            code = _parse_code(field[1])
        elif name == b"grpc-message":
            details = field[1]
    return None if code is None else Status(code, decode_message(details), tuple(metadata))


def _parse_code(value: bytes) -> int:
    if not value.isdigit() or len(value) > 9:
        raise BadField(f"grpc-status is no number: {value[:32]!a}")
    return int(value)


def decode_message(value: bytes) -> str:
    """`grpc-message` as text. Invalid escapes stay as they are, bytes that are no UTF-8 are replaced."""
    if b"%" in value:
        value = unquote_to_bytes(value)
    return value.decode("utf-8", "replace")


def encode_message(details: str) -> bytes:
    """Text as `grpc-message`: percent-encoded but for printable ASCII."""
    if details.isascii() and details.isprintable() and "%" not in details:
        return details.encode("ascii")
    return quote_from_bytes(details.encode("utf-8", "replace"), safe=_UNESCAPED).encode("ascii")


_UNESCAPED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def encode_status(status: Status) -> list[Field]:
    """The trailers of a status."""
    fields: list[Field] = [(b"grpc-status", b"%d" % status.code)]
    if status.details:
        fields.append((b"grpc-message", encode_message(status.details)))
    if status.trailers:
        fields += encode_metadata(status.trailers)
    return fields


def _judge_http(fields: Fields) -> Status | None:
    http_status, content_type = b"200", b""
    for name, value in fields:
        if name == b":status":
            http_status = value
        elif name == b"content-type":
            content_type = value
    if http_status != b"200":
        code = code_of_http(int(http_status))
        return Status(code, f"the pod answered with HTTP status {int(http_status)}", cause=None)
    if not is_grpc(content_type):
        shown = ascii(content_type[:64])[2:-1]
        return Status(Code.UNKNOWN, f"the pod answered with content-type {shown!r}", cause=Reason.NO_STATUS)
    return None
