"""The access log: the record of a finished RPC (`RpcRecord`), and its line. Pure; `log_writer` writes the lines.

The session decides when an RPC begins whether to log it (`is_logged`). Other RPCs cost nothing more.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice

from grpcgw.model import operators
from grpcgw.model.codes import status_name
from grpcgw.model.log_format import LogFormat, LogType, parse_line
from grpcgw.model.metadata import Metadata
from grpcgw.model.operators import Line, Operator


class StatusFrom(StrEnum):
    """Who made the status of an RPC, and whether it was trailers-only."""

    TRAILERS = "trailers"
    """The pod, after headers or messages."""
    HEADERS = "headers"
    """The pod, trailers-only."""
    GATEWAY = "gateway"
    """The gateway; `reason` says why."""
    NOBODY = "nobody"
    """The client left first: no status was sent, the gateway chose the code."""


class CancelledBy(StrEnum):
    """Who ended an RPC before its pod did."""

    NOBODY = ""
    CLIENT = "client"
    DEADLINE = "deadline"
    """The client's, or the Mapping's timeout_ms: `reason` says which."""
    GATEWAY = "gateway"
    """Idle timeout, end of the drain time, too much held, a defect."""
    UNKNOWN = "unknown"
    """The client, or grpc core over what the client sent."""


@dataclass(slots=True)  # treat it as immutable: a frozen one takes ten times as long to make
class RpcRecord:
    """Everything known of an RPC at its end. Refers to metadata, never copies it."""

    path: str
    """As the client sent it."""
    code: int
    status_from: StatusFrom
    duration_s: float
    authority: str
    peer: str
    """The client's IP address; empty where the transport has none."""
    peer_port: int = 0
    metadata: Metadata = ()
    """The client's, with `user-agent`."""
    mapping: str = ""
    """`name.namespace`; empty: none matched."""
    cluster: str = ""
    pod: str = ""
    """Address of the pod of the last try; empty: there was no try."""
    message: str = ""
    """`grpc-message`."""
    reason: str = ""
    """`x-grpcgw-reason` of a status that the gateway made."""
    request_messages: int = 0
    request_bytes: int = 0
    response_messages: int = 0
    response_bytes: int = 0
    timeout_s: float | None = None
    """The client's `grpc-timeout` when the RPC began; None: it sent none."""
    deadline_left_s: float | None = None
    """Time left until the deadline (the Mapping's timeout included) when the RPC ended; None: no deadline."""
    cancelled_by: CancelledBy = CancelledBy.NOBODY
    retries: int = 0
    forwarded: Metadata = ()
    """Request metadata as the pod got it, with the `x-request-id` that the gateway made; empty: no pod got the RPC."""
    headers: Metadata = ()
    trailers: Metadata = ()
    """Both as the client got them."""
    facts: Mapping[str, str] | None = None
    """What policies found out of the RPC; None: its Mapping has no policies."""


def is_logged(share_percent: float, chance: Callable[[], float] = random.random) -> bool:
    """Whether an RPC is among the `share_percent` to be logged."""
    return share_percent >= 100 or (share_percent > 0 and chance() * 100 < share_percent)


# ---- lines

MAX_VALUE_CHARACTERS = 512
"""Longer values are cut: clients choose paths and metadata, and a line must not grow without bound."""
MAX_FACTS = 32
"""A line shows no more: facts may be claims of a client's token."""

DEFAULT_TEXT = parse_line(
    "[%START_TIME%] %REQ(:PATH)% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER% from=%STATUS_FROM% reason=%REASON% "
    "policy=%POLICY% identity=%IDENTITY% "
    "mapping=%MAPPING% pod=%UPSTREAM_HOST% messages=%REQUEST_MESSAGES%/%RESPONSE_MESSAGES% "
    "bytes=%BYTES_RECEIVED%/%BYTES_SENT% duration_ms=%DURATION% timeout_ms=%TIMEOUT% left_ms=%DEADLINE_LEFT% "
    "cancelled_by=%CANCELLED_BY% retries=%RETRIES% peer=%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% "
    'authority=%REQ(:AUTHORITY)% request_id=%REQ(X-REQUEST-ID)% user_agent="%REQ(USER-AGENT)%" message="%GRPC_MESSAGE%"'
)

# Envoy's flags for the gateway's reasons, where it has one.
_FLAGS = {
    "no-mapping": "NR",
    "no-endpoints": "UH",
    "connect-failed": "UF",
    "connection-lost": "UC",
    "stream-refused": "UR",
    "stream-reset": "UR",
    "bad-response": "UPE",
    "no-status": "UPE",
    "timeout": "UT",
    "client-deadline": "UT",
    "idle-timeout": "SI",
}

_to_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_INVISIBLE = (*range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
"""Characters besides ASCII's control characters that terminals obey (C1), or that change the direction of text."""
_JSON_CONTROL = {number: f"\\u{number:04x}" for number in _INVISIBLE}
_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), *_INVISIBLE)}
_CONTROL |= {ord('"'): '\\"', ord("\\"): "\\\\"}
_UNQUOTED = _CONTROL | {ord(" "): "\\x20"}


def render_line(record: RpcRecord, ended_at_s: float, log_format: LogFormat) -> str:
    """The line of an RPC that ended at `ended_at_s` (seconds since the epoch), without its newline.

    Whatever a client sends, a line stays one line, and a quoted value stays within its quotes.
    """
    started_at_s = ended_at_s - record.duration_s
    if log_format.type is LogType.TEXT:
        return "".join(_text_parts(record, started_at_s, log_format)).rstrip("\n").replace("\n", " ")
    return _to_json(_make_fields(record, started_at_s, log_format)).translate(_JSON_CONTROL)


def _text_parts(record: RpcRecord, started_at_s: float, log_format: LogFormat) -> Iterator[str]:
    """In grpcgw's own format an unquoted value has no spaces, so a client cannot fake a field."""
    quoted = bool(log_format.text)
    for part in log_format.text or DEFAULT_TEXT:
        if isinstance(part, str):
            quoted = bool(log_format.text) or part.endswith('"')
            yield part
        else:
            yield _render(part, record, started_at_s).translate(_CONTROL if quoted else _UNQUOTED)


def _make_fields(record: RpcRecord, started_at_s: float, log_format: LogFormat) -> dict[str, object]:
    if not log_format.fields:
        return _default_fields(record, started_at_s)
    show = _to_typed if log_format.type is LogType.TYPED_JSON else _join
    return {name: show(line, record, started_at_s) for name, line in log_format.fields}


def _default_fields(record: RpcRecord, started_at_s: float) -> dict[str, object]:
    """Numbers stay numbers; null stands for an unknown or missing value."""
    return {
        "start": _show_time(started_at_s),
        "method": _clip(record.path),
        "mapping": record.mapping or None,
        "pod": record.pod or None,
        "status": status_name(record.code),
        "status_number": record.code,
        "status_from": record.status_from.value,
        "reason": record.reason or None,
        "message": _clip(record.message) or None,
        "policy": _clip(_fact(record, "policy")) or None,
        "identity": _clip(_fact(record, "identity")) or None,
        "request_messages": record.request_messages,
        "response_messages": record.response_messages,
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
        "duration_ms": _to_ms(record.duration_s),
        "timeout_ms": _to_ms(record.timeout_s),
        "deadline_left_ms": _to_ms(record.deadline_left_s),
        "cancelled_by": record.cancelled_by.value or None,
        "retries": record.retries,
        "peer": record.peer or None,
        "authority": _clip(record.authority),
        "request_id": _clip(_request_header(record, "x-request-id")) or None,
        "user_agent": _clip(_request_header(record, "user-agent")) or None,
        "facts": {_clip(name): _clip(value) for name, value in islice(_other_facts(record), MAX_FACTS)} or None,
    }


def _other_facts(record: RpcRecord) -> Iterator[tuple[str, str]]:
    return (fact for fact in (record.facts or {}).items() if fact[0] not in ("identity", "policy"))


def _join(line: Line, record: RpcRecord, started_at_s: float) -> str:
    return "".join(part if isinstance(part, str) else _render(part, record, started_at_s) for part in line)


def _to_typed(line: Line, record: RpcRecord, started_at_s: float) -> str | int | None:
    """A single operator becomes a number if it has one, and None if it has no value; other lines become text."""
    only = line[0] if len(line) == 1 else None
    if not isinstance(only, Operator):
        return _join(line, record, started_at_s)
    value = _clip(_evaluate(only, record, started_at_s))[: only.max_length]
    is_number = only.max_length is None and (only.name in _NUMBERS or (only.name, only.argument) == _STATUS_NUMBER)
    return int(value) if value and is_number else value or None


def _render(operator: Operator, record: RpcRecord, started_at_s: float) -> str:
    """The operator's value; `-` where there is none, as in Envoy."""
    value = _clip(_evaluate(operator, record, started_at_s)) or "-"
    return value if operator.max_length is None else value[: operator.max_length]


def _evaluate(operator: Operator, record: RpcRecord, started_at_s: float) -> str:
    match operator.name:
        case "REQ":
            return _either(lambda key: _request_header(record, key), operator)
        case "RESP":
            return _either(lambda key: _find(record.headers, key), operator)
        case "TRAILER":
            return _either(lambda key: _find(record.trailers, key), operator)
        case "FACT":
            return _either(lambda name: _fact(record, name), operator)
        case "GRPC_STATUS":
            return _show_status(record.code, operator.argument)
        case "START_TIME":
            return _show_time(started_at_s)
        case operators.ABSENT:
            return ""
        case name:
            return PLAIN_VALUES[name](record)


_NUMBERS = frozenset(
    {
        "BYTES_RECEIVED",
        "BYTES_SENT",
        "DEADLINE_LEFT",
        "DOWNSTREAM_REMOTE_PORT",
        "DURATION",
        "GRPC_STATUS_NUMBER",
        "REQUEST_MESSAGES",
        "RESPONSE_CODE",
        "RESPONSE_MESSAGES",
        "RETRIES",
        "TIMEOUT",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    }
)
_STATUS_NUMBER = ("GRPC_STATUS", "NUMBER")

PLAIN_VALUES: Mapping[str, Callable[[RpcRecord], str]] = {
    "BYTES_RECEIVED": lambda record: str(record.request_bytes),
    "BYTES_SENT": lambda record: str(record.response_bytes),
    "CANCELLED_BY": lambda record: record.cancelled_by.value,
    "DEADLINE_LEFT": lambda record: _show_ms(record.deadline_left_s),
    "DOWNSTREAM_REMOTE_ADDRESS": lambda record: _show_address(record.peer, record.peer_port),
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda record: record.peer,
    "DOWNSTREAM_REMOTE_PORT": lambda record: str(record.peer_port) if record.peer else "",
    "DURATION": lambda record: str(round(1000 * record.duration_s)),
    "GRPC_MESSAGE": lambda record: record.message,
    "GRPC_STATUS_NUMBER": lambda record: str(record.code),
    "IDENTITY": lambda record: _fact(record, "identity"),
    "MAPPING": lambda record: record.mapping,
    "POLICY": lambda record: _fact(record, "policy"),
    "PROTOCOL": lambda _: "HTTP/2",
    "REASON": lambda record: record.reason,
    "REQUEST_MESSAGES": lambda record: str(record.request_messages),
    "RESPONSE_CODE": lambda record: "0" if record.status_from is StatusFrom.NOBODY else "200",
    "RESPONSE_CODE_DETAILS": lambda record: record.reason or "via_upstream",
    "RESPONSE_FLAGS": lambda record: (
        "DC" if record.cancelled_by is CancelledBy.CLIENT else _FLAGS.get(record.reason, "")
    ),
    "RESPONSE_MESSAGES": lambda record: str(record.response_messages),
    "RETRIES": lambda record: str(record.retries),
    "ROUTE_NAME": lambda record: record.mapping,
    "STATUS_FROM": lambda record: record.status_from.value,
    "TIMEOUT": lambda record: _show_ms(record.timeout_s),
    "UPSTREAM_CLUSTER": lambda record: record.cluster,
    "UPSTREAM_HOST": lambda record: record.pod,
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda record: str(record.retries + 1 if record.pod else 0),
}
"""Operators without an argument. (START_TIME needs more than the record, see `_evaluate`.)"""


def _fact(record: RpcRecord, name: str) -> str:
    return (record.facts or {}).get(name, "")


def _either(look_up: Callable[[str], str], operator: Operator) -> str:
    return look_up(operator.argument) or (look_up(operator.alternative) if operator.alternative else "")


def _request_header(record: RpcRecord, key: str) -> str:
    match key:
        case ":path":
            return record.path
        case ":authority" | "host":
            return record.authority
        case ":method":
            return "POST"
        case _:
            return _find(record.forwarded, key) or _find(record.metadata, key)


def _find(metadata: Metadata, key: str) -> str:
    """All values of `key`, joined as HTTP joins them; binary ones in base64."""
    values = (value for name, value in metadata if name == key)
    return ",".join(base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in values)


def _show_address(host: str, port: int) -> str:
    if not host:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _show_status(code: int, style: str) -> str:
    name = status_name(code)
    match style:
        case "NUMBER":
            return str(code)
        case "SNAKE_STRING":
            return name
        case _:
            return "OK" if code == 0 else name.title().replace("_", "")


def _show_time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def _show_ms(seconds: float | None) -> str:
    return "" if seconds is None else str(round(1000 * seconds))


def _clip(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "…"
