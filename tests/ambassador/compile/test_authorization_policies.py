"""AuthorizationPolicies, compiled: which Mapping gets which rules, how several combine, and what is refused."""

from __future__ import annotations

import pytest

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
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import Compiled, CompileOptions
from tests.compiling import compile_objects, destinations, guard_of, mapping, obj, said

API = "grpcgw.io/v1alpha1"
ANYONE: list[object] = [{"permissions": [{"method": "*"}]}]


def policy(name: str = "greet", namespace: str = "shop", **fields: object) -> KubeObject:
    return obj("AuthorizationPolicy", name, {"rules": ANYONE, **fields}, namespace, API)


def settings(compiled: Compiled, label: str = "greet.shop") -> AuthorizationSettings:
    (found,) = destinations(compiled)[label].policies
    assert isinstance(found, AuthorizationSettings)
    return found


def refused(compiled: Compiled) -> set[str]:
    return {label for label, destination in destinations(compiled).items() if guard_of(destination)}


def only_rule(*rules: object) -> RbacPolicy:
    compiled = compile_objects(policy(rules=list(rules)), mapping())
    assert not said(compiled)
    ((rbac,), _) = settings(compiled).rules, None
    return rbac.policies[-1]


def texts(*values: str, kind: TextKind = TextKind.EXACT, ignore_case: bool = False) -> tuple[TextMatch, ...]:
    return tuple(TextMatch(kind, value, ignore_case) for value in values)


# --- what a rule says


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"method": "/a.B/C"}, IsMethod(texts("/a.B/C"))),
        ({"method": ["/a.B/C", "/a.B/D"]}, IsMethod(texts("/a.B/C", "/a.B/D"))),
        ({"method": "/a.B/*"}, IsMethod(texts("/a.B/", kind=TextKind.PREFIX))),
        ({"method": "*/C"}, IsMethod(texts("/C", kind=TextKind.SUFFIX))),
        ({"method": {"glob": "/a.*/Get*"}}, IsMethod(texts("/a.*/Get*", kind=TextKind.GLOB))),
        ({"host": "A.Example"}, IsAuthority(texts("a.example", ignore_case=True))),
        ({"host": "a.example."}, IsAuthority(texts("a.example", ignore_case=True))),
        ({"host": "*.example.:443"}, IsAuthority(texts(".example:443", kind=TextKind.SUFFIX, ignore_case=True))),
        ({"host": "api.*"}, IsAuthority(texts("api.", kind=TextKind.PREFIX, ignore_case=True))),
        ({"host": {"regex": r"\D+"}}, IsAuthority(texts(r"\D+", kind=TextKind.REGEX, ignore_case=True))),
        ({"header": {"name": "X-Tenant"}}, HasHeader("x-tenant")),
        ({"header": {"name": "x-tenant", "value": "*"}}, HasHeader("x-tenant", texts("", kind=TextKind.PREFIX))),
        (
            {"header": {"name": "x-t", "value": {"regex": "a|b", "ignoreCase": True}}},
            HasHeader("x-t", texts("a|b", kind=TextKind.REGEX, ignore_case=True)),
        ),
        ({"header": {"name": "x-t", "value": {"exact": "a*b"}}}, HasHeader("x-t", texts("a*b"))),
        ({"header": {"name": "x-t", "value": "*b*"}}, HasHeader("x-t", texts("b", kind=TextKind.CONTAINS))),
        ({"address": "10.0.0.5/8"}, IsFrom(("10.0.0.0/8",))),
        ({"peerAddress": ["10.0.0.5", "::1"]}, IsFrom(("10.0.0.5/32", "::1/128"), of_peer=True)),
        ({"certificate": True}, HasCertificate(CertificateField.ANY)),
        ({"uri": "spiffe://a/*"}, HasCertificate(CertificateField.URI, texts("spiffe://a/", kind=TextKind.PREFIX))),
        ({"dns": "Me.Example"}, HasCertificate(CertificateField.DNS, texts("Me.Example", ignore_case=True))),
        ({"subject": "CN=me"}, HasCertificate(CertificateField.SUBJECT, texts("CN=me"))),
        ({"claim": {"name": "realm.roles", "value": "admin"}}, HasClaim("realm.roles", texts("admin"))),
        ({"not": {"certificate": True}}, Not(HasCertificate(CertificateField.ANY))),
        ({"any": [{"claim": {"name": "sub"}}]}, AnyOf((HasClaim("sub"),))),
        ({"all": [{"claim": {"name": "sub"}}]}, AllOf((HasClaim("sub"),))),
        (
            {"claim": {"name": "sub"}, "address": "::1"},
            AllOf((IsFrom(("::1/128",)), HasClaim("sub"))),
        ),
    ],
)
def test_what_a_matcher_says(given: dict[str, object], expected: Matcher) -> None:
    assert only_rule({"permissions": [given]}).permissions == (expected,)
    assert only_rule({"principals": [given]}).principals == (expected,)


def test_a_rule_has_a_name_or_its_number() -> None:
    compiled = compile_objects(policy(rules=[{"name": "all", "condition": "true"}, {"condition": "false"}]), mapping())
    assert settings(compiled).rules == (
        Rbac(
            Action.ALLOW,
            (
                RbacPolicy("greet.shop/all", condition="true"),
                RbacPolicy("greet.shop/1", condition="false"),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, "one of permissions, principals and condition is required"),
        ({"permissions": []}, "should have at least 1 entry"),
        ({"permissions": [{}]}, "says nothing of calls"),
        ({"permissions": [{"method": None}]}, "says nothing of calls"),
        ({"permissions": [{"methods": "/a.B/C"}]}, "methods: is an unknown field"),
        ({"permissions": [{"method": "a.B/C"}]}, "should begin with '/'"),
        ({"permissions": [{"method": "/a.B"}]}, "is no /service/method"),
        ({"permissions": [{"method": "/a.*/C"}]}, "has a '*' inside"),
        ({"permissions": [{"method": {"regex": "("}}]}, "is no RE2 pattern that can be used"),
        ({"permissions": [{"method": {"glob": "["}}]}, "is no glob that can be used"),
        ({"permissions": [{"method": {"exact": "/a.B/C", "prefix": "/"}}]}, "exactly one of exact, prefix"),
        ({"permissions": [{"all": []}]}, "should have at least 1 entry"),
        ({"permissions": [{"header": {"name": "host"}}]}, "host cannot be compared"),
        ({"permissions": [{"header": {"name": "a b"}}]}, "is no metadata key"),
        ({"principals": [{"address": "10.0.0.0/99"}]}, "is no network such as"),
        ({"principals": [{"certificate": False}]}, "certificate"),
        ({"condition": "1 +"}, "is no CEL expression that can be used"),
        ({"condition": "user == 'a'"}, "there is no variable user"),
        ({"condition": "request.path.startswith('a')"}, "there is no function startswith"),
        ({"condition": "[1].all(x, [1].all(y, true))"}, "more than one of the macros"),
        ({"condition": "[1].all(x, [1]. // .\n all // (\n (y, true))"}, "more than one of the macros"),
        ({"condition": f"{'!' * 3000}true"}, "more than 2048 characters"),
    ],
)
def test_a_wrong_rule_refuses_what_the_policy_selects(rule: dict[str, object], expected: str) -> None:
    compiled = compile_objects(policy(rules=[rule]), mapping(), mapping("other", "another", prefix="/other.S/"))
    (problem,) = said(compiled, Severity.ERROR)
    assert expected in problem
    assert "the calls of what it selects are refused" in problem
    assert refused(compiled) == {"greet.shop"}


def test_rules_are_bounded_in_depth() -> None:
    nested: dict[str, object] = {"method": "*"}
    for _ in range(15):
        nested = {"not": nested}
    assert not said(compile_objects(policy(rules=[{"permissions": [nested]}]), mapping()))
    for _ in range(5000):
        nested = {"not": nested}
    (problem,) = said(compile_objects(policy(rules=[{"permissions": [nested]}]), mapping()), Severity.ERROR)
    assert "nests all, any and not more than 16 deep" in problem


def test_two_rules_of_one_name_are_an_error() -> None:
    rules = [{"name": "a", "condition": "true"}, {"name": "a", "condition": "true"}]
    assert "another rule has the name a, too" in said(compile_objects(policy(rules=rules), mapping()))[0]


# --- what a policy selects


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, {"greet.shop", "plain.shop"}),
        ({}, {"greet.shop", "plain.shop"}),
        ({"allNamespaces": True}, {"greet.shop", "plain.shop", "other.another"}),
        ({"matchLabels": {"tier": "front"}}, {"greet.shop"}),
        ({"matchLabels": {"tier": "back"}}, set()),
        ({"matchLabels": {"tier": "front"}, "allNamespaces": True}, {"greet.shop", "other.another"}),
        ({"paths": ["/plain.*"]}, {"plain.shop"}),
        ({"paths": ["greet.GrpcService/Greet"]}, {"greet.shop"}),
        ({"hosts": ["plain.example"]}, {"greet.shop", "plain.shop"}),
        ({"hosts": ["x.example"]}, {"greet.shop"}),
        ({"hosts": ["PLAIN.example."]}, {"greet.shop", "plain.shop"}),
    ],
)
def test_what_is_selected(selector: dict[str, object] | None, expected: set[str]) -> None:
    mappings = (
        mapping(metadata={"labels": {"tier": "front"}}),
        mapping("plain", prefix="/plain.S/", hostname="plain.example"),
        mapping("other", "another", prefix="/other.S/", metadata={"labels": {"tier": "front"}}),
    )
    compiled = compile_objects(policy(selector=selector), *mappings)
    assert not said(compiled)
    assert {label for label, one in destinations(compiled).items() if one.policies} == expected
    broken = compile_objects(policy(selector=selector, rules=[{"condition": "("}]), *mappings)
    assert refused(broken) == expected, "also where the policy has an error"


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"paths": ["/greet.GrpcService/"]}, "selector.paths.0: matches no gRPC call"),
        ({"hosts": ["https://a.example"]}, "selector.hosts.0: matches no call"),
    ],
)
def test_what_no_call_can_match_is_an_error(selector: dict[str, object], expected: str) -> None:
    """A policy would decide on nothing, and nobody would see it."""
    compiled = compile_objects(policy(selector=selector), mapping())
    (problem,) = said(compiled, Severity.ERROR)
    assert expected in problem
    assert refused(compiled) == {"greet.shop"}


def test_of_a_mapping_with_more_calls_only_those_are_meant() -> None:
    compiled = compile_objects(
        policy(action="DENY", selector={"paths": ["/greet.GrpcService/Greet"]}),
        policy("allow", selector={"paths": ["/greet.GrpcService/Get*"], "hosts": ["A.example", "b.example"]}),
        mapping(),
    )
    deny, allow = settings(compiled).rules
    greet = IsMethod(texts("/greet.GrpcService/Greet", kind=TextKind.GLOB))
    get = IsMethod(texts("/greet.GrpcService/Get*", kind=TextKind.GLOB))
    anything = AnyOf((IsMethod(texts("", kind=TextKind.PREFIX)),))
    hosts = [IsAuthority(texts(name, kind=TextKind.GLOB)) for name in ("a.example", "b.example")]
    target = AnyOf(tuple(AllOf((get, host)) for host in hosts))
    assert deny.policies[0].permissions == (AllOf((AnyOf((greet,)), anything)),)
    assert [one.permissions for one in allow.policies] == [(AllOf((target, anything)),), (Not(AnyOf((target,))),)]
    assert [one.name for one in allow.policies] == ["allow.shop/0", "outside"]


def test_one_policy_that_allows_for_all_calls_leaves_none_outside() -> None:
    compiled = compile_objects(policy(selector={"paths": ["/greet.GrpcService/Greet"]}), policy("all"), mapping())
    ((allow,), _) = settings(compiled).rules, None
    assert [one.name for one in allow.policies] == ["all.shop/0", "greet.shop/0"]


# --- several policies


def test_what_denies_comes_first_and_a_dry_run_is_added_to_what_is_enforced() -> None:
    compiled = compile_objects(
        policy("allow"), policy("deny", action="DENY"), policy("later", action="DENY", dryRun=True), mapping()
    )
    found = settings(compiled)
    assert [(one.action, [rule.name for rule in one.policies]) for one in found.rules] == [
        (Action.DENY, ["deny.shop/0"]),
        (Action.ALLOW, ["allow.shop/0"]),
    ]
    assert [(one.action, [rule.name for rule in one.policies]) for one in found.shadow_rules] == [
        (Action.DENY, ["deny.shop/0", "later.shop/0"]),
        (Action.ALLOW, ["allow.shop/0"]),
    ]
    only_dry = settings(compile_objects(policy(dryRun=True), mapping()))
    assert (only_dry.rules, len(only_dry.shadow_rules)) == ((), 1)


def test_what_logs_comes_first_allows_nobody_and_is_in_no_dry_run() -> None:
    log = policy("log", action="LOG", selector={"paths": ["/greet.GrpcService/Get*"]})
    (only,) = settings(compile_objects(log, mapping())).rules
    assert (only.action, [one.name for one in only.policies]) == (Action.LOG, ["log.shop/0"])
    found = settings(compile_objects(log, policy("allow"), policy("later", action="DENY", dryRun=True), mapping()))
    assert [one.action for one in found.rules] == [Action.LOG, Action.ALLOW]
    assert [one.action for one in found.shadow_rules] == [Action.DENY, Action.ALLOW]


def test_a_dry_run_of_what_only_logs_is_no_dry_run() -> None:
    compiled = compile_objects(policy(action="LOG", dryRun=True), mapping())
    assert "has no effect on a policy that only logs" in said(compiled, Severity.NOTICE)[0]
    assert (len(settings(compiled).rules), settings(compiled).shadow_rules) == (1, ())


@pytest.mark.parametrize("broken", [{"rules": 5}, {"rules": [{"condition": "("}]}, {"selector": 5}])
def test_what_only_logs_refuses_nothing_when_it_is_broken(broken: dict[str, object]) -> None:
    compiled = compile_objects(policy(action="LOG", **broken), mapping())
    assert "no call is logged by it" in said(compiled, Severity.ERROR)[0]
    assert not refused(compiled)


def test_no_rule_allows_nothing() -> None:
    assert settings(compile_objects(policy(rules=[]), mapping())).rules == (Rbac(Action.ALLOW, ()),)


def test_methods_of_a_mapping_whatever_the_case_are_compared_so() -> None:
    rules = [{"permissions": [{"not": {"all": [{"method": "/greet.GrpcService/Greet"}]}}]}]
    found = settings(compile_objects(policy(rules=rules), mapping(case_sensitive=False)))
    (rule,) = found.rules[0].policies
    assert rule.permissions == (Not(AllOf((IsMethod(texts("/greet.GrpcService/Greet", ignore_case=True)),))),)
    assert rule.principals == (ANYTHING,)


# --- what keeps people out fails closed


def test_the_last_good_version_serves_on() -> None:
    good = compile_objects(policy(rules=[{"name": "good", "condition": "true"}]), mapping())
    after = compile_objects(policy(rules=[{"condition": "("}]), mapping(), last=good)
    assert "the last good version keeps serving" in said(after, Severity.ERROR)[0]
    assert settings(after).rules[0].policies[0].name == "greet.shop/good"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("(it cannot be read)", {"greet.shop", "other.another"}),
        ({}, {"greet.shop", "other.another"}),
        ({"rule": []}, {"greet.shop", "other.another"}),
        ({"rules": [], "selector": {"allNamespace": True}}, {"greet.shop", "other.another"}),
        ({"rules": [], "selector": {"hosts": 5}}, {"greet.shop"}),
        ({"rules": [], "selector": {"matchLabels": {"tier": 5}}}, {"greet.shop"}),
        ({"rules": 5, "selector": {"matchLabels": {"tier": "front"}}}, set()),
        ({"rules": 5}, {"greet.shop"}),
    ],
)
def test_what_cannot_be_read_refuses_all_that_it_may_select(spec: object, expected: set[str]) -> None:
    compiled = compile_objects(
        obj("AuthorizationPolicy", "greet", spec, api=API), mapping(), mapping("other", "another", prefix="/other.S/")
    )
    assert said(compiled, Severity.ERROR)
    assert refused(compiled) == expected


@pytest.mark.parametrize(
    ("kind", "api", "expected"),
    [
        ("AuthorizationPolicy", "grpcgw.io/v1", "use grpcgw.io/v1alpha1"),
        ("AuthorizationPolicy", "getambassador.io/v3alpha1", "use grpcgw.io/v1alpha1"),
        ("AuthorisationPolicy", API, "did you mean AuthorizationPolicy"),
        ("AuthorizationPolicy", "grpcgv.io/v1alpha1", "did you mean grpcgw.io/v1alpha1"),
    ],
)
def test_a_misspelt_kind_or_version_refuses_what_was_meant(kind: str, api: str, expected: str) -> None:
    compiled = compile_objects(obj(kind, "greet", {"rules": ANYONE}, api=api), mapping())
    assert expected in said(compiled, Severity.ERROR)[0]
    assert refused(compiled) == {"greet.shop"}


def test_policies_of_other_projects_are_none_of_ours() -> None:
    compiled = compile_objects(
        obj("AuthorizationPolicy", "greet", {"rules": [{}]}, api="security.istio.io/v1"), mapping()
    )
    assert not said(compiled)
    assert not refused(compiled)


def test_ambassadors_kinds_are_not_read_under_our_name() -> None:
    compiled = compile_objects(obj("Mapping", "greet", {"prefix": "/a/", "service": "a"}, api=API))
    assert "apiVersion grpcgw.io/v1alpha1 is not read" in said(compiled)[0]


def test_calls_are_served_without_what_cannot_be_enforced_where_that_is_asked_for() -> None:
    options = CompileOptions(serve_without_auth=True)
    compiled = compile_objects(policy(rules=[{"condition": "("}]), mapping(), options=options)
    assert "calls are not authorized by it" in said(compiled)[0]
    assert not refused(compiled)


def test_hosts_on_an_engine_that_does_not_know_them() -> None:
    options = CompileOptions(authority_hidden_by="generic-handler")
    selecting = policy(selector={"hosts": ["a.example"]})
    own = mapping(hostname="a.example")
    compiled = compile_objects(selecting, mapping(), options=options)
    assert refused(compiled) == {"greet.shop"}
    assert not refused(compile_objects(selecting, own, options=options)), "the Mapping's own host covers it"
    logging = policy(action="LOG", selector={"hosts": ["a.example"]})
    logged = compile_objects(logging, mapping(), options=options)
    assert (refused(logged), "are not logged" in said(logged)[0]) == (set(), True)
    in_rule = policy(rules=[{"permissions": [{"host": "a.example"}]}])
    assert refused(compile_objects(in_rule, mapping(), options=options)) == {"greet.shop"}
