"""Compiles the permissions and principals of AuthorizationPolicies to matchers (`model.authorization`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network

from grpcgw.ambassador.compile.metadata_edits import HIDDEN_KEYS, check_key
from grpcgw.ambassador.compile.rule_reach import complete_host
from grpcgw.ambassador.spec.authorization_spec import MatcherSpec, NamedTextsSpec, TextSpec
from grpcgw.ambassador.spec.parse import Findings, parse_value
from grpcgw.model.authorization import (
    AllOf,
    AnyOf,
    CertificateField,
    HasCertificate,
    HasClaim,
    HasHeader,
    IsAuthority,
    IsFrom,
    IsMethod,
    Matcher,
    Not,
    TextKind,
    TextMatch,
)
from grpcgw.model.glob import InvalidGlob, compile_glob
from grpcgw.model.regex import InvalidRegex, check_regex

MAX_DEPTH = 16
"""`all`, `any` and `not` inside each other."""
_FROM_CLIENTS = frozenset({"x-forwarded-for", "x-forwarded-proto", "x-forwarded-client-cert", "x-request-id"})
Path = tuple[str | int, ...]


def read_matchers(
    given: Sequence[Mapping[str, object]] | None, authority_hidden_by: str, findings: Findings, *at: str | int
) -> tuple[Matcher, ...]:
    """Errors are in `findings`; the result means something only without any."""
    reader = _Reader(authority_hidden_by, findings)
    found = []
    for index, raw in enumerate(given or ()):
        if _depth(raw) > MAX_DEPTH:
            findings.error(f"nests all, any and not more than {MAX_DEPTH} deep", *at, index)
            continue
        spec = parse_value(raw, MatcherSpec, findings, *at, index)
        found += [] if spec is None else [reader.read(spec, (*at, index))]
    return tuple(found)


def _complete_host(text: TextMatch) -> TextMatch:
    """As names of calls are made."""
    match text.kind:
        case TextKind.REGEX:  # whose letters may be classes of characters
            return replace(text, ignore_case=True)
        case TextKind.PREFIX | TextKind.CONTAINS:  # a dot may be inside the name
            return replace(text, value=text.value.lower(), ignore_case=True)
        case _:
            return replace(text, value=complete_host(text.value) if text.value else "", ignore_case=True)


def ignore_method_case(matcher: Matcher) -> Matcher:
    """For a Mapping that matches whatever the case is."""
    match matcher:
        case AllOf(parts):
            return AllOf(tuple(map(ignore_method_case, parts)))
        case AnyOf(parts):
            return AnyOf(tuple(map(ignore_method_case, parts)))
        case Not(part):
            return Not(ignore_method_case(part))
        case IsMethod(texts):
            return IsMethod(tuple(replace(text, ignore_case=True) for text in texts))
        case _:
            return matcher


def _depth(raw: object) -> int:
    """Levels of objects; counted without recursion, since the text may be anything."""
    depth, level = 0, [raw]
    while level and depth <= MAX_DEPTH:
        depth += 1
        inner = [part for one in level if isinstance(one, Mapping) for part in map(one.get, ("all", "any", "not"))]
        level = [one for part in inner for one in (part if isinstance(part, list) else [part]) if one is not None]
    return depth


class _Reader:
    def __init__(self, authority_hidden_by: str, findings: Findings) -> None:
        self._hidden_by, self._findings = authority_hidden_by, findings

    def read(self, spec: MatcherSpec, at: Path) -> Matcher:
        parts = tuple(self._parts(spec, at))
        return parts[0] if len(parts) == 1 else AllOf(parts)

    def _parts(self, spec: MatcherSpec, at: Path) -> Iterator[Matcher]:
        if spec.all is not None:
            yield AllOf(tuple([self.read(one, (*at, "all", index)) for index, one in enumerate(spec.all)]))
        if spec.any is not None:
            yield AnyOf(tuple([self.read(one, (*at, "any", index)) for index, one in enumerate(spec.any)]))
        if spec.not_ is not None:
            yield Not(self.read(spec.not_, (*at, "not")))
        yield from self._of_call(spec, at)
        yield from self._of_client(spec, at)

    def _of_call(self, spec: MatcherSpec, at: Path) -> Iterator[Matcher]:
        if spec.method is not None:
            texts = self._texts(spec.method, (*at, "method"))
            self._check_methods(texts, (*at, "method"))
            yield IsMethod(texts)
        if spec.host is not None:
            if self._hidden_by:
                self._findings.error(f"the {self._hidden_by} engine does not know the :authority of calls", *at, "host")
            texts = self._texts(spec.host, (*at, "host"))
            yield IsAuthority(tuple([_complete_host(one) for one in texts]))
        if spec.header is not None:
            yield self._header(spec.header, (*at, "header"))

    def _of_client(self, spec: MatcherSpec, at: Path) -> Iterator[Matcher]:
        for name, networks in (("address", spec.address), ("peerAddress", spec.peerAddress)):
            if networks is not None:
                yield IsFrom(self._networks(networks, (*at, name)), of_peer=name == "peerAddress")
        if spec.certificate:
            yield HasCertificate(CertificateField.ANY)
        for field, texts in (("uri", spec.uri), ("dns", spec.dns), ("subject", spec.subject)):
            if texts is not None:
                yield HasCertificate(CertificateField(field), self._texts(texts, (*at, field), field == "dns"))
        if spec.claim is not None:
            yield HasClaim(spec.claim.name, self._texts(spec.claim.value or (), (*at, "claim", "value")))

    def _header(self, spec: NamedTextsSpec, at: Path) -> Matcher:
        name = spec.name.lower()
        if name in HIDDEN_KEYS or name == "host":
            self._findings.error(f"{name} cannot be compared: grpc does not show it", *at, "name")
        else:
            check_key(name, self._findings, *map(str, at), "name")
        if name in _FROM_CLIENTS:
            self._findings.notice("is compared with what the client sent, which any client can write", *at, "name")
        return HasHeader(name, self._texts(spec.value or (), (*at, "value")))

    def _networks(self, given: Sequence[str], at: Path) -> tuple[str, ...]:
        found = []
        for index, text in enumerate(given):
            try:
                found.append(str(ip_network(text, strict=False)))
            except ValueError:
                self._findings.error(f"{text[:60]!r} is no network such as 10.0.0.0/8", *at, index)
        return tuple(found)

    def _texts(self, given: Sequence[TextSpec], at: Path, ignore_case: bool = False) -> tuple[TextMatch, ...]:
        checks: dict[TextKind, Callable[[str], object]] = {TextKind.REGEX: check_regex, TextKind.GLOB: compile_glob}
        for index, spec in enumerate(given):
            try:
                checks.get(spec.kind, str)(spec.value)
            except InvalidRegex as error:
                self._findings.error(f"is no RE2 pattern that can be used: {error}", *at, index)
            except InvalidGlob as error:
                self._findings.error(str(error), *at, index)
        return tuple([TextMatch(one.kind, one.value, bool(one.ignoreCase or ignore_case)) for one in given])

    def _check_methods(self, texts: Sequence[TextMatch], at: Path) -> None:
        """A method that no call has would be a rule without effect: worst where the rule denies."""
        for index, text in enumerate(texts):
            begins = text.kind in (TextKind.EXACT, TextKind.PREFIX) and text.value
            if begins and not text.value.startswith("/"):
                self._findings.error(f"{text.value[:60]!r} should begin with '/', as /service/method does", *at, index)
            elif text.kind is TextKind.EXACT and text.value.count("/") != 2:
                self._findings.error(f"{text.value[:60]!r} is no /service/method", *at, index)
