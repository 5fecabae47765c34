"""Compiles the metadata that a Mapping adds and removes; checks metadata keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from grpcgw.ambassador.spec.mapping_parts import AddedHeader
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.edits import HeaderAdd
from grpcgw.model.header_values import InvalidHeader, ReservedHeader, check_header_name, is_reserved, parse_added_header
from grpcgw.model.match import CONSTANT_HEADERS
from grpcgw.model.operators import Line, absent_operators

HIDDEN_KEYS = frozenset(
    {
        "connection",
        "content-length",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-timeout",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
    }
)
"""Keys of one hop, which grpc core consumes and does not pass on."""
_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)


def check_key(name: str, findings: Findings, *path: str | int) -> str:
    """The key as metadata has it; an error if it is not a valid key."""
    lower = name.lower()
    if not _KEY.fullmatch(lower):
        findings.error(f"{name!r} is no metadata key: use letters, digits and _ . - only", *path)
    return lower


def note_hidden_key(name: str, findings: Findings, *path: str | int) -> None:
    """For keys by whose value calls are distinguished."""
    lower = name.lower()
    if lower in HIDDEN_KEYS or lower in CONSTANT_HEADERS or lower == "host":
        findings.notice(f"{name} has no effect: grpc does not show this key", *path)


def compile_added(headers: Mapping[str, AddedHeader], findings: Findings, *path: str) -> tuple[HeaderAdd, ...]:
    """In the order of their names, so that equal Mappings are equal."""
    added = []
    for name, header in sorted(headers.items(), key=lambda item: item[0].lower()):
        try:
            _note_absent(parse_added_header(name, header.value)[1], findings, *path, name)
        except ReservedHeader as error:
            findings.notice(f"has no effect: {error}", *path, name)
            continue
        except InvalidHeader as error:
            findings.error(str(error), *path, name)
        added.append(HeaderAdd(name.lower(), header.value, header.append is not False))
    return tuple(added)


def _note_absent(value: Line | bytes, findings: Findings, *path: str) -> None:
    absent = [] if isinstance(value, bytes) else absent_operators(value)
    if absent:
        findings.notice(f"{', '.join(absent)} is empty: grpcgw does not know its value", *path)


def compile_removed(names: Iterable[str], findings: Findings, *path: str) -> tuple[str, ...]:
    removed = set()
    for index, name in enumerate(names):
        try:
            key = check_header_name(name)
        except InvalidHeader as error:
            findings.error(str(error), *path, index)
            continue
        removed.add(key)
        if is_reserved(key):
            findings.notice(f"{name} has no effect: gRPC sets it itself on each connection", *path, index)
    return tuple(sorted(removed))


def merge_added(members: Iterable[tuple[HeaderAdd, ...]]) -> tuple[HeaderAdd, ...]:
    """Additions of all Mappings of a group: the last one of a name counts (Ambassador's rule)."""
    by_name = {header.name: header for headers in members for header in headers}
    return tuple(by_name[name] for name in sorted(by_name))
