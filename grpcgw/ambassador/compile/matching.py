"""Compiles the match of a Mapping: path, host and headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from grpcgw.ambassador.compile.metadata_edits import HIDDEN_KEYS, check_key
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.errors import GrpcgwError
from grpcgw.model.match import CONSTANT_HEADERS, HeaderMatch, HostKind, HostMatch, MatchKind, PathMatch
from grpcgw.model.regex import FullRegex, InvalidRegex, check_regex
from grpcgw.model.request_path import BEGIN_OF_METHOD_PATH, METHOD_PATH

_AUTHORITY = frozenset({":authority", "host"})
_SET_LATER = frozenset({"x-forwarded-for", "x-forwarded-proto", "x-request-id"})
"""Headers that the gateway sets for pods, as Envoy does before it matches."""
_BEGIN_OF_PATTERN = re.compile(r"\^?((?:[\w/-]|\\[.-])*)(?![*?{+])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST = re.compile(r"[a-z0-9_*.:\[\]-]+", re.ASCII)


class InvalidHost(GrpcgwError):
    """A text is neither a host name nor a glob of host names; the message says why."""


@dataclass(frozen=True, slots=True)
class Matching:
    path: PathMatch
    case_sensitive: bool
    host: HostMatch | None
    headers: tuple[HeaderMatch, ...]
    """In the order of their names."""


@dataclass(frozen=True, slots=True)
class _Host:
    """One of the fields in which a Mapping can name its host."""

    text: str
    match: HostMatch | None
    path: tuple[str, ...]


def compile_matching(spec: MappingSpec, host_is_glob: bool, regex_max_size: int, findings: Findings) -> Matching:
    """Errors are in `findings`; the result means something only without any.

    `host_is_glob`: `host` means what `hostname` does, as Emissary reads it in versions before v3alpha1.
    """
    patterns = _Patterns(regex_max_size, findings)
    return Matching(
        path=_compile_path(spec, patterns, findings),
        case_sensitive=spec.case_sensitive is not False,
        host=_choose_host(list(_find_hosts(spec, host_is_glob, patterns, findings)), findings),
        headers=_compile_headers(spec, patterns, findings),
    )


def asks_for_query(spec: MappingSpec) -> bool:
    """Whether the Mapping matches no call: a gRPC path has no query."""
    return bool(spec.query_parameters or spec.regex_query_parameters or spec.v2BoolQueryParameters)


class _Patterns:
    """Checks the patterns of one Mapping."""

    def __init__(self, max_size: int, findings: Findings) -> None:
        self._max_size, self._findings = max_size, findings

    def check(self, pattern: str, *path: str, secret: bool = False) -> bool:
        """`secret`: the pattern may be a credential of clients, so it is not shown."""
        try:
            check_regex(pattern, self._max_size)
        except InvalidRegex as error:
            what = "the value is no RE2 pattern that can be used"
            message = what if secret else f"{pattern!r} is no RE2 pattern that can be used: {error}"
            self._findings.error(message, *path)
            return False
        return True


def _compile_path(spec: MappingSpec, patterns: _Patterns, findings: Findings) -> PathMatch:
    if _CONTROL.search(spec.prefix):
        findings.error(f"{spec.prefix!r} matches no path: a path has no line breaks or control characters", "prefix")
    if spec.prefix_regex:
        if spec.prefix_exact:
            findings.notice("has no effect beside prefix_regex", "prefix_exact")
        patterns.check(spec.prefix, "prefix")
        match = PathMatch(MatchKind.REGEX, spec.prefix)
    else:
        match = PathMatch(MatchKind.EXACT if spec.prefix_exact else MatchKind.PREFIX, spec.prefix)
    if not findings.rejected and not _may_match_calls(match):
        findings.notice("matches no gRPC call, whose path is /service/method: the Mapping serves none", "prefix")
    return match


def _may_match_calls(match: PathMatch) -> bool:
    """Judged by the first literal characters of a pattern only."""
    match match.kind:
        case MatchKind.EXACT:
            return METHOD_PATH.fullmatch(match.value) is not None
        case MatchKind.PREFIX:
            return BEGIN_OF_METHOD_PATH.fullmatch(match.value) is not None
        case MatchKind.REGEX:
            found = None if "|" in match.value else _BEGIN_OF_PATTERN.match(match.value)
            literal = "" if found is None else found[1].replace("\\", "")
            return BEGIN_OF_METHOD_PATH.fullmatch(literal) is not None


def _find_hosts(spec: MappingSpec, host_is_glob: bool, patterns: _Patterns, findings: Findings) -> Iterator[_Host]:
    """Every host the Mapping names; the first one counts."""
    if spec.hostname:
        yield _Host(spec.hostname, parse_host_glob(spec.hostname, findings, "hostname"), ("hostname",))
    if spec.host and spec.host_regex:
        patterns.check(spec.host, "host")
        yield _Host(spec.host, HostMatch(HostKind.REGEX, spec.host), ("host",))
    elif spec.host and host_is_glob:
        yield _Host(spec.host, parse_host_glob(spec.host, findings, "host"), ("host",))
    elif spec.host:
        yield _Host(spec.host, _parse_exact(spec.host, findings, "host"), ("host",))
    for name, value in (spec.headers or {}).items():
        if name.lower() in _AUTHORITY and isinstance(value, str):
            yield _Host(value, _parse_exact(value, findings, "headers", name), ("headers", name))
    for name, pattern in (spec.regex_headers or {}).items():
        if name.lower() in _AUTHORITY:
            patterns.check(pattern, "regex_headers", name)
            yield _Host(pattern, HostMatch(HostKind.REGEX, pattern), ("regex_headers", name))


def _choose_host(named: list[_Host], findings: Findings) -> HostMatch | None:
    if not named:
        return None
    first, *others = named
    for other in others:
        if other.match == first.match:
            continue
        if other.path[0] == "regex_headers":
            findings.error(f"{first.path[-1]} names the host as well; keep one of them", *other.path)
        else:
            findings.notice(f"{other.text!r} has no effect beside {first.path[-1]} {first.text!r}", *other.path)
    return first.match


def parse_host_glob(text: str, findings: Findings, *path: str) -> HostMatch | None:
    """As `read_host_glob`; errors are in `findings`."""
    try:
        return read_host_glob(text)
    except InvalidHost as error:
        findings.error(str(error), *path)
        return HostMatch(HostKind.EXACT, text)


def read_host_glob(text: str) -> HostMatch | None:
    """`*`, `*.example.com`, `example.*` or a name, each with or without a port; None matches every host.

    Raises InvalidHost.
    """
    glob = _complete(text.lower().removesuffix(":*"))
    if glob == "*":
        return None
    if not _HOST.fullmatch(glob):
        raise InvalidHost(f"{text!r} is no host name")
    if glob.count("*") > 1 or "*" in glob[1:-1]:
        raise InvalidHost(f"{text!r} may have one '*', at its beginning or its end")
    if glob.startswith("*"):
        return HostMatch(HostKind.SUFFIX, glob[1:])
    if glob.endswith("*"):
        return HostMatch(HostKind.PREFIX, glob[:-1])
    return HostMatch(HostKind.EXACT, glob)


def _parse_exact(text: str, findings: Findings, *path: str) -> HostMatch:
    name = _complete(text.lower())
    if "*" in name:
        findings.error(f"{text!r} is compared exactly and cannot match anything; use hostname for a glob", *path)
    elif not _HOST.fullmatch(name):
        findings.error(f"{text!r} is no host name", *path)
    return HostMatch(HostKind.EXACT, name)


def _complete(host: str) -> str:
    """Without the trailing dot of a fully qualified name; `split_authority` does the same to names of calls."""
    name, colon, port = host.partition(":")
    return f"{name.removesuffix('.')}{colon}{port}"


def _compile_headers(spec: MappingSpec, patterns: _Patterns, findings: Findings) -> tuple[HeaderMatch, ...]:
    found = [*_exact_headers(spec, findings), *_regex_headers(spec, patterns, findings), *_method(spec, patterns)]
    for match, path in found:
        _note_constant(match, findings, *path)
    return tuple(sorted((match for match, _ in found), key=_header_order))


_Located = tuple[HeaderMatch, tuple[str, ...]]


def _exact_headers(spec: MappingSpec, findings: Findings) -> Iterator[_Located]:
    for name, value in (spec.headers or {}).items():
        lower = _check_key(name, findings, "headers", name)
        if lower not in _AUTHORITY:
            yield HeaderMatch(lower, exact=value if isinstance(value, str) else None), ("headers", name)
    for name in spec.v2BoolHeaders or ():
        lower = _check_key(name, findings, "v2BoolHeaders")
        if lower not in _AUTHORITY:
            yield HeaderMatch(lower), ("v2BoolHeaders",)


def _regex_headers(spec: MappingSpec, patterns: _Patterns, findings: Findings) -> Iterator[_Located]:
    for name, pattern in (spec.regex_headers or {}).items():
        lower = _check_key(name, findings, "regex_headers", name)
        if lower not in _AUTHORITY and patterns.check(pattern, "regex_headers", name, secret=True):
            yield HeaderMatch(lower, regex=pattern), ("regex_headers", name)


def _method(spec: MappingSpec, patterns: _Patterns) -> Iterator[_Located]:
    """A condition like others, as in Ambassador, where it counts in the group and the order too."""
    if spec.method and not spec.method_regex:
        yield HeaderMatch(":method", exact=spec.method), ("method",)
    elif spec.method and patterns.check(spec.method, "method"):
        yield HeaderMatch(":method", regex=spec.method), ("method",)


def _check_key(name: str, findings: Findings, *path: str) -> str:
    lower = name.lower()
    if lower in _AUTHORITY or lower in CONSTANT_HEADERS:
        return lower
    if lower in HIDDEN_KEYS:
        findings.error("cannot be matched: grpc does not show it", *path)
    elif lower.startswith(":"):
        findings.error("cannot be matched; of the pseudo-headers only :authority and :method can", *path)
    else:
        check_key(name, findings, *path)
        if lower in _SET_LATER:
            findings.notice(
                "is compared with what the client sent, which any client can write, not with what pods get", *path
            )
    return lower


def _note_constant(match: HeaderMatch, findings: Findings, *path: str) -> None:
    constant = CONSTANT_HEADERS.get(match.name)
    if constant is None:
        return
    held = match.exact in (None, constant) and (match.regex is None or FullRegex(match.regex).matches(constant))
    if not held:
        findings.notice(f"matches no gRPC call, where {match.name} is {constant}: the Mapping serves none", *path)


def _header_order(match: HeaderMatch) -> tuple[str, str, str]:
    return match.name, match.exact or "", match.regex or ""
