"""Compiles the matchers of authorization (`model.authorization`) to predicates of an RPC, once per snapshot. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable

from grpcgw.model.authority import split_authority
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
from grpcgw.model.glob import compile_glob
from grpcgw.model.metadata import MetadataValue
from grpcgw.model.regex import FullRegex, remember
from grpcgw.policy.addresses import match_networks
from grpcgw.policy.client_certificates import ClientCertificate
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.tokens.token_claims import find_claim, write_claim

Test = Callable[[PolicyRequest], bool]
TextTest = Callable[[str], bool]


def compile_matcher(matcher: Matcher, if_unsure: bool) -> Test:
    """`if_unsure`: the answer that refuses the RPC, for what no client should get round a rule with: a header that is
    sent several times, a client whose address is not known, a certificate that cannot be read.

    Raises InvalidRegex, InvalidGlob, and ValueError for a network that is none.
    """
    match matcher:
        case AllOf(parts):
            return all_of([compile_matcher(part, if_unsure) for part in parts])
        case AnyOf(parts):
            return any_of([compile_matcher(part, if_unsure) for part in parts])
        case Not(part):
            test = compile_matcher(part, not if_unsure)
            return lambda request: not test(request)
        case IsMethod(texts):
            is_method = compile_texts(texts)
            return lambda request: is_method(request.request.path)
        case IsAuthority(texts):
            is_host = remember(_compile_host(texts))
            return lambda request: is_host(request.request.authority)
        case HasHeader(name, texts):
            return _compile_header(name, texts, if_unsure)
        case IsFrom(networks, of_peer):
            return _compile_networks(networks, of_peer, if_unsure)
        case HasCertificate():
            return _compile_certificate(matcher, if_unsure)
        case HasClaim(name, texts):
            return _compile_claim(name, texts)


def all_of(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:  # as most
        first, second = tests
        return lambda request: first(request) and second(request)
    several = tuple(tests)

    def test(request: PolicyRequest) -> bool:
        for one in several:  # noqa: SIM110 (a loop takes half the time of all() with a generator)
            if not one(request):
                return False
        return True

    return test


def any_of(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    several = tuple(tests)

    def test(request: PolicyRequest) -> bool:
        for one in several:  # noqa: SIM110 (as above)
            if one(request):
                return True
        return False

    return test


# --- texts


def compile_texts(texts: Iterable[TextMatch]) -> TextTest:
    """Whether one of them matches. Raises InvalidRegex and InvalidGlob."""
    texts = tuple(texts)
    exact = frozenset(one.value for one in texts if one.kind is TextKind.EXACT and not one.ignore_case)
    tests = [_compile_text(one) for one in texts if one.kind is not TextKind.EXACT or one.ignore_case]
    if exact:
        tests.insert(0, exact.__contains__)
    if len(tests) == 1:
        return tests[0]
    return lambda text: any(test(text) for test in tests)


def _compile_text(text: TextMatch) -> TextTest:
    value, ignore_case = text.value, text.ignore_case
    match text.kind:
        case TextKind.REGEX:
            return remember(FullRegex(value, case_sensitive=not ignore_case).matches)
        case TextKind.GLOB:
            return compile_glob(value, ignore_case)
        case _:
            return (
                _compile_plain(text.kind, value.lower(), lower=True)
                if ignore_case
                else _compile_plain(text.kind, value)
            )


def _compile_plain(kind: TextKind, value: str, lower: bool = False) -> TextTest:
    if lower:
        test = _compile_plain(kind, value)
        return lambda text: test(text.lower())
    match kind:
        case TextKind.PREFIX:
            return lambda text: text.startswith(value)
        case TextKind.SUFFIX:
            return lambda text: text.endswith(value)
        case TextKind.CONTAINS:
            return lambda text: value in text
        case _:
            return value.__eq__


# --- facts of an RPC


def _compile_host(texts: tuple[TextMatch, ...]) -> TextTest:
    is_host = compile_texts(texts)
    return lambda authority: any(map(is_host, split_authority(authority)))


def _compile_header(name: str, texts: tuple[TextMatch, ...], any_value: bool) -> Test:
    """`any_value`: of a header that is sent several times, one value is enough; else the joined values must match."""
    matches = compile_texts(texts) if texts else None

    def test(request: PolicyRequest) -> bool:
        values = [as_text(value) for key, value in request.metadata if key == name]
        if not values or matches is None:
            return bool(values)
        if len(values) == 1:
            return matches(values[0])
        return matches(",".join(values)) or (any_value and any(map(matches, values)))

    return test


def as_text(value: MetadataValue) -> str:
    """Bytes as they are on the wire: base64 without padding."""
    return value if isinstance(value, str) else b64encode(value).decode().rstrip("=")


def _compile_networks(networks: tuple[str, ...], of_peer: bool, if_unknown: bool) -> Test:
    is_in = match_networks(networks)
    matches = remember(lambda address: is_in(address) if address else if_unknown)
    if of_peer:
        return lambda request: matches(request.request.peer.connected)
    return lambda request: matches(request.request.peer.address)


def _compile_certificate(matcher: HasCertificate, if_unreadable: bool) -> Test:
    read = _FIELDS[matcher.field]
    matches = compile_texts(matcher.texts) if matcher.texts else None

    def test(request: PolicyRequest) -> bool:
        certificate = request.request.certificate
        if certificate is None:
            return False
        if not certificate.readable and matcher.field is not CertificateField.ANY:
            return if_unreadable
        values = read(certificate)
        return any(map(matches, values)) if matches is not None else bool(values)

    return test


_FIELDS: dict[CertificateField, Callable[[ClientCertificate], tuple[str, ...]]] = {
    CertificateField.ANY: lambda certificate: (certificate.subject or "any",),
    CertificateField.URI: lambda certificate: certificate.uris,
    CertificateField.DNS: lambda certificate: certificate.names,
    CertificateField.SUBJECT: lambda certificate: (certificate.subject,) if certificate.subject else (),
}


def _compile_claim(name: str, texts: tuple[TextMatch, ...]) -> Test:
    matches = compile_texts(texts) if texts else None

    def test(request: PolicyRequest) -> bool:
        claim = None if request.claims is None else find_claim(request.claims, name)
        if claim is None or matches is None:
            return claim is not None
        for one in claim if isinstance(claim, list) else (claim,):
            text = write_claim(one)
            if text is not None and matches(text):
                return True
        return False

    return test
