"""Reach of a FilterPolicy's rule: which Mappings have RPCs that it may match, or matches all.

If it is unclear whether it may match, it may.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from grpcgw.ambassador.compile.matching import Matching
from grpcgw.model.authority import split_authority
from grpcgw.model.glob import ANYTHING, compile_glob
from grpcgw.model.match import HostKind, HostMatch, MatchKind
from grpcgw.model.request_path import BEGIN_OF_METHOD_PATH, METHOD_PATH

_LITERAL = re.compile(r"[^*?\[{\\]*")
_PATTERN = re.compile(r"/\.[*+]")
"""No method begins with a dot, and no service."""
_NO_HOST = re.compile(r"[/\s@]")
NO_AUTHORITY = "matches no call: it is no host name"
NO_CALL = "matches no gRPC call, whose path is /service/method; for all methods of a service write /service/*"
_compile = lru_cache(1024)(compile_glob)


@dataclass(frozen=True, slots=True)
class RuleReach:
    host: str
    """Valid glob in lower case, as are those in `model.filters`."""
    path: str
    """Valid glob, as `complete_path` makes it."""

    def may_match(self, matching: Matching) -> bool:
        return _may_be_host(self.host, matching.host) and _may_be_path(self.path, matching)

    def covers(self, matching: Matching) -> bool:
        """Whether every RPC of the Mapping certainly matches."""
        return self.covers_host(matching.host) and _covers_path(self.path, matching)

    def covers_host(self, host: HostMatch | None) -> bool:
        return self.host == ANYTHING or _matches_name(self.host, host)


def may_be_call(glob: str) -> bool:
    """Whether a gRPC path may match. Judged by the text before the first wildcard, and by what only a regular
    expression would mean."""
    found = _LITERAL.match(glob)
    literal = found[0] if found is not None else ""
    pattern = METHOD_PATH if literal == glob else BEGIN_OF_METHOD_PATH
    return pattern.fullmatch(literal) is not None and not _PATTERN.search(glob)


def may_be_authority(glob: str) -> bool:
    return _NO_HOST.search(glob) is None


def complete_host(glob: str) -> str:
    """The glob as `split_authority` makes names: in lower case, without the trailing dot of a fully qualified name, or
    a colon without a port."""
    name, colon, port = glob.lower().removesuffix(":").rpartition(":")
    return f"{name.removesuffix('.')}:{port}" if colon else port.removesuffix(".") or ANYTHING


def complete_path(glob: str) -> str:
    """The glob with the slash that paths of methods begin with, where it was left out."""
    if not glob:
        return ANYTHING
    if glob[0] in "/*":
        return glob
    return f"{{,/}}{glob}" if glob[0] in "?[{\\" else f"/{glob}"


def _matches_name(glob: str, host: HostMatch | None) -> bool:
    """Whether the glob matches the one name that the Mapping has, whatever the port."""
    if host is None or host.kind is not HostKind.EXACT:
        return False
    return any(map(_compile(glob), split_authority(host.value)))


def _may_be_host(glob: str, host: HostMatch | None) -> bool:
    if host is None or host.kind is not HostKind.EXACT or _matches_name(glob, host):
        return True
    tail = glob.rstrip("*")[-1:]  # what would have to match the port, which the Mapping's name has not
    return len(split_authority(host.value)) == 1 and bool(tail) and (tail.isdigit() or tail in ":?]}")


def _may_be_path(glob: str, matching: Matching) -> bool:
    """Compares the text before the first wildcard; anything may follow it."""
    if matching.path.kind is MatchKind.REGEX:
        return True
    found = _LITERAL.match(glob)
    literal, path = found[0] if found is not None else "", matching.path.value
    is_whole = literal == glob
    if not matching.case_sensitive:
        literal, path = literal.lower(), path.lower()
    if matching.path.kind is MatchKind.PREFIX and literal.startswith(path):
        return True
    return path == literal if is_whole else path.startswith(literal)


def _covers_path(glob: str, matching: Matching) -> bool:
    if glob == ANYTHING:
        return True
    if not matching.case_sensitive or matching.path.kind is MatchKind.REGEX:
        return False
    if matching.path.kind is MatchKind.EXACT:
        return _compile(glob)(matching.path.value)
    literal = glob.removesuffix("*")
    return literal != glob and _LITERAL.fullmatch(literal) is not None and matching.path.value.startswith(literal)
