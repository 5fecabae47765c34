"""Authorization: what each matcher means, how rules combine, what is denied where something is missing or wrong."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.authorization import (
    ANYTHING,
    Action,
    AllOf,
    AnyOf,
    AuthorizationSettings,
    CertificateField,
    HasCertificate,
    HasClaim,
    HasHeader,
    IsAuthority,
    IsFrom,
    IsMethod,
    Matcher,
    Not,
    Rbac,
    RbacPolicy,
    TextKind,
    TextMatch,
)
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.regex import InvalidRegex
from grpcgw.model.route import Destination
from grpcgw.model.status import REASON_KEY, Reason
from grpcgw.policy.catalogue import CATALOGUE
from grpcgw.policy.chain import LOGGED
from grpcgw.policy.client_certificates import ClientCertificate
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.rbac_policy import build
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Allow, Deny
from tests.policy import rbac_reference

KEY = ObjectKey("Mapping", "default", "greet")
SPIFFE = "spiffe://cluster.local/ns/shop/sa/web"
UNREADABLE = ClientCertificate(b"", b"", "", (), (), readable=False)
MINE = ClientCertificate(b"", b"", "CN=me,O=Shop", (SPIFFE, "urn:me"), ("Me.Example",))


def texts(*values: str, kind: TextKind = TextKind.EXACT, ignore_case: bool = False) -> tuple[TextMatch, ...]:
    return tuple(TextMatch(kind, value, ignore_case) for value in values)


def rpc(
    *metadata: tuple[str, str | bytes],
    path: str = "/greet.GrpcService/Greet",
    authority: str = "greet.example:443",
    address: str = "192.0.2.7",
    certificate: ClientCertificate | None = None,
    claims: Mapping[str, object] | None = None,
) -> PolicyRequest:
    request = Request(path, authority, metadata, None, Peer(address, 4711), certificate=certificate)
    return PolicyRequest(request, KEY, metadata, claims=claims)


def policy(rule: str, *principals: Matcher, condition: str = "", permissions: tuple[Matcher, ...] = ()) -> RbacPolicy:
    return RbacPolicy(f"a.default/{rule}", permissions or (ANYTHING,), principals or (ANYTHING,), condition)


def decide(request: PolicyRequest, *rules: Rbac, shadow: tuple[Rbac, ...] = ()) -> Allow | Deny:
    settings = AuthorizationSettings(name="AuthorizationPolicy a.default", rules=rules, shadow_rules=shadow)
    return build(KEY, settings, PolicyServices()).check(request)


def matches(matcher: Matcher, request: PolicyRequest) -> bool:
    allowed = isinstance(decide(request, Rbac(Action.ALLOW, (policy("r", matcher),))), Allow)
    denied = isinstance(decide(request, Rbac(Action.DENY, (policy("r", matcher),))), Deny)
    as_permission = policy("r", permissions=(matcher,))
    assert isinstance(decide(request, Rbac(Action.ALLOW, (as_permission,))), Allow) is allowed
    assert allowed is denied
    return allowed


# --- what each matcher means

PREFIX, SUFFIX, CONTAINS, REGEX, GLOB = (
    TextKind.PREFIX,
    TextKind.SUFFIX,
    TextKind.CONTAINS,
    TextKind.REGEX,
    TextKind.GLOB,
)
TENANT = ("x-tenant", "acme")


@pytest.mark.parametrize(
    ("matcher", "request_", "expected"),
    [
        (ANYTHING, rpc(), True),
        (AnyOf(()), rpc(), False),
        (Not(ANYTHING), rpc(), False),
        (IsMethod(texts("/greet.GrpcService/Greet")), rpc(), True),
        (IsMethod(texts("/greet.GrpcService/greet")), rpc(), False),
        (IsMethod(texts("/greet.GrpcService/greet", ignore_case=True)), rpc(), True),
        (IsMethod(texts("/greet.GrpcService/Gre")), rpc(), False),
        (IsMethod(texts("/a.B/C", "/greet.GrpcService/Greet")), rpc(), True),
        (IsMethod(texts("/greet.GrpcService/", kind=PREFIX)), rpc(), True),
        (IsMethod(texts("/Greet", kind=SUFFIX)), rpc(), True),
        (IsMethod(texts("/greet.*/G?eet", kind=GLOB)), rpc(), True),
        (IsMethod(texts("/greet.*/Get*", kind=GLOB)), rpc(), False),
        (IsAuthority(texts("greet.example")), rpc(), True),
        (IsAuthority(texts("greet.example:443")), rpc(), True),
        (IsAuthority(texts("example")), rpc(), False),
        (HasHeader("x-tenant"), rpc(), False),
        (HasHeader("x-tenant"), rpc(("x-tenant", "")), True),
        (HasHeader("x-tenant", texts("acme")), rpc(TENANT), True),
        (HasHeader("x-tenant", texts("")), rpc(), False),  # absent is not empty
        (HasHeader("x-tenant", texts("", kind=PREFIX)), rpc(), False),
        (Not(HasHeader("x-tenant", texts("acme"))), rpc(), True),
        (HasHeader("x-tenant", texts("acme,acme")), rpc(TENANT, TENANT), True),
        (HasHeader("x-tenant", texts("cm", kind=CONTAINS)), rpc(TENANT), True),
        (HasHeader("x-id-bin", texts("AQI")), rpc(("x-id-bin", b"\x01\x02")), True),
        (IsFrom(("192.0.2.0/24",)), rpc(), True),
        (IsFrom(("10.0.0.0/8", "192.0.2.7/32")), rpc(), True),
        (IsFrom(("198.51.100.0/24",)), rpc(), False),
        (IsFrom(("192.0.2.0/24",)), rpc(address="::ffff:192.0.2.7"), True),
        (IsFrom(("2001:db8::/32",)), rpc(address="2001:db8::1"), True),
        (IsFrom(("::ffff:192.0.2.0/120",)), rpc(), True),
        (IsFrom(("192.0.2.0/24",), of_peer=True), rpc(), True),
        (HasCertificate(CertificateField.ANY), rpc(), False),
        (HasCertificate(CertificateField.ANY), rpc(certificate=MINE), True),
        (HasCertificate(CertificateField.ANY), rpc(certificate=ClientCertificate(b"", b"", "", (), ())), True),
        (HasCertificate(CertificateField.URI, texts(SPIFFE)), rpc(certificate=MINE), True),
        (HasCertificate(CertificateField.URI, texts("urn:me")), rpc(certificate=MINE), True),
        (HasCertificate(CertificateField.URI, texts("spiffe://cluster", kind=SUFFIX)), rpc(certificate=MINE), False),
        (HasCertificate(CertificateField.URI, texts("me.example")), rpc(certificate=MINE), False),
        (HasCertificate(CertificateField.DNS, texts("me.example", ignore_case=True)), rpc(certificate=MINE), True),
        (HasCertificate(CertificateField.SUBJECT, texts("CN=me", kind=PREFIX)), rpc(certificate=MINE), True),
        (HasCertificate(CertificateField.URI), rpc(certificate=ClientCertificate(b"", b"", "CN=a", (), ())), False),
        (HasClaim("sub", texts("ann")), rpc(), False),
        (HasClaim("sub", texts("ann")), rpc(claims={"sub": "ann"}), True),
        (HasClaim("sub", texts("ann")), rpc(claims={"sub": "anna"}), False),
        (HasClaim("sub"), rpc(claims={"sub": None}), False),
        (HasClaim("realm.roles", texts("admin")), rpc(claims={"realm": {"roles": ["user", "admin"]}}), True),
        (HasClaim("realm.roles", texts("user,admin")), rpc(claims={"realm": {"roles": ["user", "admin"]}}), False),
        (HasClaim("https://a.b/roles", texts("admin")), rpc(claims={"https://a.b/roles": "admin"}), True),
        (HasClaim("level", texts("3")), rpc(claims={"level": 3}), True),
        (HasClaim("level", texts("true")), rpc(claims={"level": True}), True),
        (HasClaim("realm", texts("x", kind=CONTAINS)), rpc(claims={"realm": {"x": "x"}}), False),
        (HasClaim("realm"), rpc(claims={"realm": {"x": "x"}}), True),
        (HasClaim("sub"), rpc(claims={}), False),
    ],
)
def test_what_a_matcher_matches(matcher: Matcher, request_: PolicyRequest, expected: bool) -> None:
    assert matches(matcher, request_) is expected


# --- what has been wrong in other servers


@pytest.mark.parametrize(
    ("matcher", "request_"),
    [
        (HasHeader("x-tenant", texts("acme")), rpc(TENANT, ("x-tenant", "b"))),
        (HasHeader("x-tenant", texts("acme")), rpc(("x-tenant", ""), TENANT)),
        (HasHeader("x-id-bin", texts("AQI")), rpc(("x-id-bin", b"\x01\x02"), ("x-id-bin", b""))),
        (IsFrom(("192.0.2.0/24",)), rpc(address="")),
        (IsFrom(("192.0.2.0/24",), of_peer=True), rpc(address="")),
        (HasCertificate(CertificateField.URI, texts(SPIFFE)), rpc(certificate=UNREADABLE)),
        (HasCertificate(CertificateField.SUBJECT), rpc(certificate=UNREADABLE)),
    ],
)
def test_nobody_gets_round_a_rule_by_a_header_sent_twice_or_by_what_cannot_be_known(
    matcher: Matcher, request_: PolicyRequest
) -> None:
    for one in (matcher, AnyOf((matcher,)), Not(Not(matcher))):
        assert isinstance(decide(request_, Rbac(Action.DENY, (policy("r", one),))), Deny)
        assert isinstance(decide(request_, Rbac(Action.ALLOW, (policy("r", one),))), Deny)
    assert isinstance(decide(request_, Rbac(Action.ALLOW, (policy("r", Not(matcher)),))), Deny)
    assert isinstance(decide(request_, Rbac(Action.DENY, (policy("r", Not(matcher)),))), Deny)


def test_nested_rules_are_checked_at_every_depth() -> None:
    """grpc-go#9258: what stood inside and, or and not was not checked."""
    matcher: Matcher = HasHeader("x-tenant", texts("acme"))
    for _ in range(8):
        matcher = AllOf((ANYTHING, AnyOf((AnyOf(()), Not(Not(matcher))))))
    assert matches(matcher, rpc(TENANT))
    assert not matches(matcher, rpc(("x-tenant", "other")))
    assert not matches(AllOf((HasHeader("x-tenant"), AnyOf((HasHeader("x-none"),)))), rpc(TENANT))


def test_a_regex_matches_whole_texts_only() -> None:
    """grpc-go#9148: a pattern that was found somewhere in the text was enough."""
    for value in ("acme2", "2acme", "acme\nb", "a"):
        assert not matches(HasHeader("x-tenant", texts("acme", kind=REGEX)), rpc(("x-tenant", value)))
    assert not matches(HasHeader("x-tenant", texts("acme|b", kind=REGEX)), rpc(("x-tenant", "acmeb")))
    assert not matches(HasHeader("x-tenant", texts("^acme", kind=REGEX)), rpc(("x-tenant", "acmeb")))
    assert matches(HasHeader("x-tenant", texts("ac.*|b", kind=REGEX)), rpc(TENANT))
    assert not matches(IsMethod(texts("/a.B/C", kind=REGEX)), rpc(path="/a.B/CD"))


def test_a_rule_that_cannot_be_compiled_refuses_all_rpcs() -> None:
    """grpc-go#9092, grpc-go#9111: errors of matchers were ignored, and the rule with them."""
    broken = (
        HasHeader("x-tenant", texts("(", kind=REGEX)),
        IsMethod(texts("[", kind=GLOB)),
        IsFrom(("10.0.0.0/99",)),
    )
    for matcher in broken:
        for nested in (matcher, Not(matcher), AllOf((ANYTHING, matcher)), AnyOf((ANYTHING, matcher))):
            settings = AuthorizationSettings(name="a", rules=(Rbac(Action.DENY, (policy("r", nested),)),))
            built = CATALOGUE.build(Destination(KEY, (), policies=(settings,)), PolicyServices())
            assert isinstance(built, Deny)
            assert built.reason == Reason.POLICY_NOT_BUILT
    with pytest.raises(InvalidRegex):
        decide(rpc(), Rbac(Action.ALLOW, (policy("r", broken[0]),)))


# --- how rules combine


def test_deny_comes_before_allow() -> None:
    deny = Rbac(Action.DENY, (policy("no-eve", HasClaim("sub", texts("eve"))),))
    allow = Rbac(Action.ALLOW, (policy("tenants", HasHeader("x-tenant")), policy("anyone", HasClaim("sub"))))
    assert decide(rpc(claims={"sub": "ann"}), deny, allow).facts == (("rule", "a.default/anyone"),)
    refused = decide(rpc(TENANT, claims={"sub": "eve"}), deny, allow)
    assert isinstance(refused, Deny)
    assert refused.facts == (("rule", "a.default/no-eve"),)
    unknown = decide(rpc(), deny, allow)
    assert isinstance(unknown, Deny)
    assert unknown.facts == (("rule", "none"),)


def test_without_a_rule_that_allows_what_is_not_denied_passes() -> None:
    assert isinstance(decide(rpc(), Rbac(Action.DENY, (policy("r", HasHeader("x-tenant")),))), Allow)
    assert isinstance(decide(rpc(), Rbac(Action.ALLOW, ())), Deny), "rules that allow nothing"


def test_a_refusal_names_the_mapping_and_nothing_of_the_rules() -> None:
    refused = decide(rpc(), Rbac(Action.DENY, (policy("secret-rule"),)))
    assert isinstance(refused, Deny)
    status = refused.status()
    assert (status.code, status.details) == (
        Code.PERMISSION_DENIED,
        "Mapping greet.default: this client may not make this call",
    )
    assert status.trailers == ((REASON_KEY, "forbidden"),)


def test_rules_that_only_record_change_nothing() -> None:
    allow, deny = Rbac(Action.ALLOW, (policy("all"),)), Rbac(Action.DENY, (policy("no"),))
    passed = decide(rpc(), allow, shadow=(deny, allow))
    assert isinstance(passed, Allow)
    assert dict(passed.facts) == {"rule": "a.default/all", "dry-run": "deny a.default/no"}
    refused = decide(rpc(), deny, shadow=(allow,))
    assert isinstance(refused, Deny)
    assert dict(refused.facts)["dry-run"] == "allow a.default/all"
    assert dict(decide(rpc(), shadow=(Rbac(Action.DENY, ()),)).facts) == {"dry-run": "allow"}


def test_what_is_only_recorded_is_counted_apart() -> None:
    services = PolicyServices()
    shadow = (Rbac(Action.DENY, (policy("tenants", HasHeader("x-tenant")),)),)
    settings = AuthorizationSettings(name="AuthorizationPolicy a.default", rules=(), shadow_rules=shadow)
    built = build(KEY, settings, services)
    for request in (rpc(TENANT), rpc(TENANT), rpc()):
        assert isinstance(built.check(request), Allow)
    (report,) = services.counters.policy_reports()
    assert (report.mapping, report.policy) == ("greet.default", "AuthorizationPolicy a.default (dry run)")
    assert (report.allowed, report.denied) == (1, 2)


def test_rules_that_log_refuse_nothing_and_mark_what_they_match() -> None:
    log = Rbac(Action.LOG, (policy("tenants", HasHeader("x-tenant")), policy("writes", HasHeader("x-write"))))
    allow, deny = Rbac(Action.ALLOW, (policy("all"),)), Rbac(Action.DENY, (policy("no"),))
    assert decide(rpc(), log) == Allow()
    assert decide(rpc(TENANT, ("x-write", "1")), log) == Allow(facts=((LOGGED, "a.default/tenants"),))
    assert dict(decide(rpc(("x-write", "1")), log, allow).facts) == {
        "rule": "a.default/all",
        LOGGED: "a.default/writes",
    }
    refused = decide(rpc(TENANT), log, deny, shadow=(allow,))
    assert isinstance(refused, Deny)
    assert dict(refused.facts) == {
        "rule": "a.default/no", LOGGED: "a.default/tenants", "dry-run": "allow a.default/all"
    }  # fmt: skip


def test_calls_that_are_marked_are_counted_apart() -> None:
    services = PolicyServices()
    rules = (Rbac(Action.LOG, (policy("tenants", HasHeader("x-tenant")),)), Rbac(Action.DENY, (policy("no"),)))
    settings = AuthorizationSettings(name="AuthorizationPolicy a.default", rules=rules)
    built = build(KEY, settings, services)
    for request in (rpc(TENANT), rpc(TENANT), rpc()):
        assert isinstance(built.check(request), Deny)
    (report,) = services.counters.policy_reports()
    assert (report.policy, report.allowed, report.denied) == ("AuthorizationPolicy a.default (log)", 2, 0)


# --- conditions


@pytest.mark.parametrize(
    ("condition", "request_", "expected"),
    [
        ("request.path.startsWith('/greet.')", rpc(), True),
        ("request.headers['x-tenant'] == claims.tenant", rpc(TENANT, claims={"tenant": "acme"}), True),
        ("request.headers['x-tenant'] == claims.tenant", rpc(TENANT, claims={"tenant": "b"}), False),
        ("claims.roles.exists(role, role.endsWith('min'))", rpc(claims={"roles": ["user", "admin"]}), True),
        ("has(claims.level) && claims.level > 3", rpc(), False),
        ("connection.mtls && connection.uri_san_peer_certificate.contains('/ns/shop/')", rpc(certificate=MINE), True),
        ("connection.mtls", rpc(), False),
        ("request.host == 'greet.example:443' && request.url_path.matches('^/greet[.]')", rpc(), True),
    ],
)
def test_what_a_condition_says(condition: str, request_: PolicyRequest, expected: bool) -> None:
    allowed = decide(request_, Rbac(Action.ALLOW, (policy("r", condition=condition),)))
    denied = decide(request_, Rbac(Action.DENY, (policy("r", condition=condition),)))
    assert isinstance(allowed, Allow) is isinstance(denied, Deny) is expected


@pytest.mark.parametrize(
    "condition",
    [
        "claims.none == 1",
        "request.headers['x-none'] == ''",
        "1 / 0 == 1",
        "request.path",
        "connection.uri_san_peer_certificate == ''",
        "claims.sub > 3",
        "request.headers['x-odd'].size() == 1",
    ],
)
def test_a_condition_that_cannot_be_evaluated_denies(condition: str) -> None:
    odd = rpc(("x-odd", "\ud800"), claims={"sub": "ann"})
    for action in (Action.ALLOW, Action.DENY):
        assert isinstance(decide(odd, Rbac(action, (policy("r", condition=condition),))), Deny)
    assert decide(odd, Rbac(Action.LOG, (policy("r", condition=condition),))).facts == ((LOGGED, "a.default/r"),)


# --- against the reference

VALUES = st.sampled_from(["", "a", "ab", "b", "A", "a,b"])
TEXTS = st.builds(TextMatch, st.sampled_from([EXACT for EXACT in TextKind if EXACT is not GLOB]), VALUES, st.booleans())
SOME_TEXTS = st.lists(TEXTS, max_size=2).map(tuple)
LEAVES: st.SearchStrategy[Matcher] = st.one_of(
    st.builds(IsMethod, st.lists(TEXTS, min_size=1, max_size=2).map(tuple)),
    st.builds(HasHeader, st.sampled_from(["x", "y"]), SOME_TEXTS),
    st.builds(HasClaim, st.sampled_from(["x", "y"]), SOME_TEXTS),
    st.builds(HasCertificate, st.sampled_from(CertificateField), SOME_TEXTS).filter(
        lambda one: one.field is not CertificateField.ANY or not one.texts
    ),
    st.builds(IsFrom, st.sampled_from([("10.0.0.0/8",), ("::/0",), ("10.1.0.0/16", "192.0.2.0/24")]), st.booleans()),
)
MATCHERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)
SEVERAL = st.lists(MATCHERS, min_size=1, max_size=2).map(tuple)
RBACS = st.builds(
    Rbac,
    st.sampled_from(Action),
    st.lists(st.builds(RbacPolicy, st.just("r"), SEVERAL, SEVERAL), max_size=2).map(tuple),
)
ITEMS: st.SearchStrategy[Metadata] = st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), VALUES), max_size=3).map(
    tuple
)
CLAIMS = st.none() | st.dictionaries(st.sampled_from(["x", "y"]), VALUES | st.lists(VALUES, max_size=2))
CERTIFICATES = st.none() | st.builds(
    ClientCertificate,
    st.just(b""),
    st.just(b""),
    VALUES.filter(bool),
    st.lists(VALUES, max_size=2).map(tuple),
    st.lists(VALUES, max_size=2).map(tuple),
)


@given(
    st.lists(RBACS, max_size=3).map(tuple),
    ITEMS,
    CLAIMS,
    CERTIFICATES,
    VALUES,
    st.sampled_from(["10.1.2.3", "192.0.2.1", "::1", ""]),
)
def test_it_decides_as_the_reference_does(
    rules: tuple[Rbac, ...],
    metadata: Metadata,
    claims: Mapping[str, object] | None,
    certificate: ClientCertificate | None,
    path: str,
    address: str,
) -> None:
    request = rpc(*metadata, path=path, address=address, claims=claims, certificate=certificate)
    verdict = decide(request, *rules)
    assert isinstance(verdict, Allow) is rbac_reference.allows(rules, request)
