"""Metadata edits of a Mapping (`add_request_headers` and the like), compiled once to a callable. Pure.

The session calls it with the metadata as it would go on: requests after `forward_request`, answers with the pod's
initial metadata. Operators see the request as the client sent it, so a header may be renamed: removed, and added from
`%REQ(…)%`. A Mapping without edits has none, and edits without operators are worked out beforehand.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from grpcgw.model import operators
from grpcgw.model.edits import HeaderAdd, HeaderEdits
from grpcgw.model.header_values import check_header_name, parse_added_header
from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.model.operators import Line, Operator


class ClientAddress(Protocol):
    address: str
    """IP address of the client, without brackets; empty where the transport has none."""
    port: int


class RequestFacts(Protocol):
    """The request as operators see it."""

    metadata: Metadata
    """As the client sent it."""
    path: str
    authority: str
    received_at_s: float
    """Seconds since the epoch."""

    @property
    def peer(self) -> ClientAddress: ...


EditMetadata = Callable[[Metadata, RequestFacts], Metadata]
"""What becomes of metadata: an `Edit`, as the session sees it."""


def compile_edits(edits: HeaderEdits) -> Edit | None:
    """An editor for `edits`; None if there are none. Raises InvalidHeader for edits that the compiler refuses."""
    removed = frozenset(check_header_name(name) for name in edits.remove)
    additions = tuple(_compile_addition(add) for add in edits.add)
    return Edit(removed, additions) if removed or additions else None


class Edit:
    """Removals come first, then additions in order. An empty value is not added and replaces nothing, as in Envoy."""

    __slots__ = ("_constant", "_removed", "_steps")

    def __init__(self, removed: frozenset[str], additions: tuple[_Addition, ...]) -> None:
        self._removed = removed | {addition.name for addition in additions if addition.replaces and addition.value}
        self._steps = tuple((one.name, one.value, one.evaluate, one.replaces) for one in additions)
        constant = all(addition.evaluate is None for addition in additions)
        self._constant: Metadata | None = self._add([], None) if constant else None

    def __call__(self, metadata: Metadata, facts: RequestFacts) -> Metadata:
        constant, removed = self._constant, self._removed
        if constant is not None and not metadata:  # as most pods send none of their own
            return constant
        kept = [item for item in metadata if item[0] not in removed]
        return self._add(kept, facts) if constant is None else (*kept, *constant)

    def _add(self, kept: list[tuple[str, MetadataValue]], facts: RequestFacts | None) -> Metadata:
        """`kept`, which what is removed is out of, with the additions. `facts`: None where nothing is evaluated."""
        added: list[tuple[str, MetadataValue]] = []
        for name, constant, evaluate, replaces in self._steps:
            if evaluate is None:
                value = constant
            else:
                assert facts is not None
                value = _sendable(evaluate(facts))
                if value and replaces:
                    kept = _without(name, kept)
            if value:
                if replaces and added:
                    added = _without(name, added)
                added.append((name, value))
        return (*kept, *added)


def _sendable(value: MetadataValue) -> MetadataValue:
    """Nothing for a client's text that metadata cannot have: grpc core refuses a whole answer over it."""
    if isinstance(value, bytes):
        return value
    return value.strip(" ") if value.isascii() and value.isprintable() else ""


def _without(name: str, metadata: list[tuple[str, MetadataValue]]) -> list[tuple[str, MetadataValue]]:
    return [item for item in metadata if item[0] != name]


Evaluate = Callable[[RequestFacts], MetadataValue]


@dataclass(frozen=True, slots=True)
class _Addition:
    name: str
    replaces: bool
    value: MetadataValue
    """Edits without operators."""
    evaluate: Evaluate | None


def _compile_addition(add: HeaderAdd) -> _Addition:
    name, parsed = parse_added_header(add.name, add.value)
    replaces = not add.append
    if isinstance(parsed, bytes):
        return _Addition(name, replaces, parsed, None)
    if not any(isinstance(part, Operator) for part in parsed):
        return _Addition(name, replaces, "".join(str(part) for part in parsed), None)
    only = parsed[0]
    if name.endswith("-bin") and isinstance(only, Operator):
        return _Addition(name, replaces, b"", _look_up(only))
    return _Addition(name, replaces, "", _compile_line(parsed))


def _compile_line(line: Line) -> Evaluate:
    pieces = tuple(part if isinstance(part, str) else _compile_operator(part) for part in line)
    if len(pieces) == 1 and not isinstance(pieces[0], str):
        return pieces[0]
    return lambda facts: "".join(piece if isinstance(piece, str) else piece(facts) for piece in pieces)


# --- operators


def _compile_operator(operator: Operator) -> Callable[[RequestFacts], str]:
    evaluate = _choose(operator)
    length = operator.max_length
    return evaluate if length is None else lambda facts: evaluate(facts)[:length]


def _choose(operator: Operator) -> Callable[[RequestFacts], str]:
    match operator.name:
        case "REQ":
            look_up = _look_up(operator)
            return lambda facts: _to_text(look_up(facts))
        case "START_TIME":
            return _compile_time(operator.argument or "%Y-%m-%dT%H:%M:%S.%3fZ")
        case "DOWNSTREAM_REMOTE_ADDRESS":
            return _remote_address
        case "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":
            return lambda facts: facts.peer.address
        case "DOWNSTREAM_REMOTE_PORT":
            return lambda facts: str(facts.peer.port) if facts.peer.address else ""
        case "PROTOCOL":
            return lambda facts: "HTTP/2"
        case operators.ABSENT:
            return lambda facts: ""
        case _:
            raise AssertionError(f"the compiler let {operator.name} pass")


def _look_up(operator: Operator) -> Evaluate:
    """The first value of the key, else of the alternative, else nothing."""
    key, alternative = operator.argument, operator.alternative
    if not alternative:
        return lambda facts: _find(facts, key)
    return lambda facts: _find(facts, key) or _find(facts, alternative)


def _find(facts: RequestFacts, key: str) -> MetadataValue:
    match key:
        case ":path":
            return facts.path
        case ":authority":
            return facts.authority
        case ":method":
            return "POST"
        case _:
            return next((value for name, value in facts.metadata if name == key), "")


def _to_text(value: MetadataValue) -> str:
    """Bytes as they are on the wire: base64."""
    return value if isinstance(value, str) else base64.b64encode(value).decode()


def _remote_address(facts: RequestFacts) -> str:
    address = facts.peer.address
    if not address:
        return ""
    return f"[{address}]:{facts.peer.port}" if ":" in address else f"{address}:{facts.peer.port}"


_FRACTION = re.compile(r"%([1-9]?)f|%(s)")


def _compile_time(form: str) -> Callable[[RequestFacts], str]:
    """By `form`, which is strftime's with Envoy's `%s` (seconds since the epoch) and `%3f` (digits of the fraction)."""

    def show(facts: RequestFacts) -> str:
        seconds, nanoseconds = divmod(round(facts.received_at_s * 1_000_000_000), 1_000_000_000)

        def fill(token: re.Match[str]) -> str:
            return str(seconds) if token[2] else f"{nanoseconds:09d}"[: int(token[1] or 9)]

        return datetime.fromtimestamp(seconds, UTC).strftime(_FRACTION.sub(fill, form))

    return show
