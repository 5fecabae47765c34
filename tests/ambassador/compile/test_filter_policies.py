"""FilterPolicies and Filters: which Mappings are filtered, in which order, and what happens where one is broken."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from dataplane.authorities import Authority

from grpcgw.ambassador.spec.secret_names import find_named_secrets
from grpcgw.model.api_keys import ApiKeySettings, digest_key
from grpcgw.model.ext_authz import AuthProtocol, ExtAuthzSettings, IncludedMessage
from grpcgw.model.filters import AppliedFilter, FilterPolicySettings, HeaderCondition
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.match import HeaderMatch
from grpcgw.model.objects import KubeObject, ObjectKey, Severity
from grpcgw.model.plugins import make_plugin
from grpcgw.model.route import PolicySettings, Unenforced
from grpcgw.model.route_source import Compiled, CompileOptions
from tests.compiling import compile_objects, destinations, mapping, obj, only, said
from tests.jwts import ISSUER, make_signer

WITHOUT = CompileOptions(serve_without_auth=True)


def policy(
    *rules: object, name: str = "policy", namespace: str = "shop", api: str = "getambassador.io/v2"
) -> KubeObject:
    return obj("FilterPolicy", name, {"rules": list(rules)}, namespace, api)


def api_key(**fields: object) -> KubeObject:
    return obj("Filter", "keys", {"APIKey": {"keys": [{"secretName": "keys"}], **fields}})


def secret(name: str = "keys", **keys: str) -> KubeObject:
    body = obj("Secret", name, api="v1")
    data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
    return replace(body, body={**body.body, "type": "Opaque", "data": data})


def settings_of(compiled: Compiled) -> FilterPolicySettings:
    (settings,) = only(compiled).policies
    assert isinstance(settings, FilterPolicySettings)
    return settings


def unenforced(compiled: Compiled) -> list[str]:
    """Objects that refuse calls: of the whole Mapping, or of a rule."""
    found = only(compiled).policies
    every: list[PolicySettings] = [*found]
    for one in found:
        every += one.filters if isinstance(one, FilterPolicySettings) else ()
    return [f"{one.name} {one.why}" for one in every if isinstance(one, Unenforced)]


ALL = {"host": "*", "path": "*"}
REFERENCE = {"filters": [{"name": "keys"}]}


# --- which Mappings

JWT = [{"name": "jwt"}]


@pytest.mark.parametrize(
    ("rules", "fields", "is_filtered"),
    [
        ([{"host": "*", "path": "*", "filters": JWT}], {}, True),
        ([{"filters": JWT}], {}, True),
        ([{"host": "*", "path": "/greet.GrpcService/*", "filters": JWT}], {}, True),
        ([{"host": "*", "path": "/greet.GrpcService/Greet", "filters": JWT}], {}, True),
        ([{"host": "*", "path": "greet.GrpcService/*", "filters": JWT}], {}, True),
        ([{"host": "*", "path": "/{greet,other}.GrpcService/*", "filters": JWT}], {}, True),
        ([{"host": "*", "path": "/GREET.*", "filters": JWT}], {"case_sensitive": False}, True),
        ([{"host": "*", "path": "/GREET.*", "filters": JWT}], {}, False),
        ([{"host": "*", "path": "/other.S/*", "filters": JWT}], {}, False),
        ([{"host": "*", "path": "/other.S/*", "filters": JWT}], {"prefix": "/.*", "prefix_regex": True}, True),
        ([{"host": "*", "path": "/", "filters": JWT}], {"prefix_exact": True}, False),
        ([{"host": "a.example.com", "path": "*", "filters": JWT}], {"hostname": "a.example.com"}, True),
        ([{"host": "A.example.com", "path": "*", "filters": JWT}], {"hostname": "a.example.com:8443"}, True),
        ([{"host": "*.example.com", "path": "*", "filters": JWT}], {"hostname": "a.example.com"}, True),
        ([{"host": "*.example.com", "path": "*", "filters": JWT}], {"hostname": "a.example.org"}, False),
        ([{"host": "a.example.com", "path": "*", "filters": JWT}], {"hostname": "*.example.com"}, True),
        ([{"host": "a.example.com", "path": "*", "filters": JWT}], {}, True),
        ([{"host": "*", "path": "*", "filters": None}, {"host": "*", "path": "*", "filters": JWT}], {}, False),
        ([{"path": "/greet.*", "filters": []}, {"host": "*", "path": "*", "filters": JWT}], {}, False),
        ([{"path": "/greet.GrpcService/Greet"}, {"host": "*", "path": "*", "filters": JWT}], {}, True),
        ([{"path": "/gr?et.*"}, {"host": "*", "path": "*", "filters": JWT}], {}, True),
        ([{"host": "a.example.com"}, {"path": "*", "filters": JWT}], {"hostname": "*"}, True),
        ([{"path": "*"}, {"path": "*", "precedence": 1, "filters": JWT}], {}, True),
        ([{"path": "*", "precedence": 1}, {"path": "*", "filters": JWT}], {}, False),
        ([{"host": 5, "path": "*", "filters": []}], {}, True),
        (["text"], {}, True),
        ([], {}, False),
        ([{"host": "a.example.com:8443", "path": "*", "filters": JWT}], {"hostname": "a.example.com"}, True),
        ([{"host": "b.example.com:8443", "path": "*", "filters": JWT}], {"hostname": "a.example.com:80"}, False),
        ([{"host": "*.com", "path": "/greet.*"}, {"filters": JWT}], {"hostname": "a.example.com:8443"}, False),
        ([{"path": "/greet.S/G*"}, {"filters": JWT}], {"prefix": "/greet.S/Go", "prefix_exact": True}, False),
        ([{"host": "["}, {"filters": JWT}], {"hostname": "a.example.com"}, True),
        ([{"host": "[", "filters": []}], {}, True),
        ([{"host": "a.example.com.", "path": "*", "filters": JWT}], {"hostname": "a.example.com"}, True),
        ([{"host": "a.example.com.:8443", "path": "*", "filters": JWT}], {"hostname": "a.example.com:8443"}, True),
        ([{"host": "a.example.com.", "path": 5, "filters": JWT}], {"hostname": "a.example.com"}, True),
    ],
)
def test_a_filter_policy_protects_what_its_rules_may_match(
    rules: list[object], fields: dict[str, object], is_filtered: bool
) -> None:
    compiled = compile_objects(policy(*rules), mapping(**fields))
    assert bool(only(compiled).policies) is is_filtered


def test_a_filter_policy_that_cannot_be_read_protects_everything() -> None:
    for spec in ({}, {"rules": {"host": "*"}}, "text"):
        compiled = compile_objects(obj("FilterPolicy", "p", spec), mapping())
        assert unenforced(compiled) == ["FilterPolicy p.shop cannot be read"]
        assert "the calls that it may be for are refused" in "".join(said(compiled, Severity.ERROR))


def test_one_that_cannot_be_read_protects_no_more_than_its_rules() -> None:
    broken, other = policy({"path": "/other.S/*", "filters": JWT, "wrong": 1}), mapping(prefix="/other.S/")
    assert unenforced(compile_objects(broken, mapping())) == []
    assert unenforced(compile_objects(broken, other)) == ["FilterPolicy policy.shop cannot be read"]
    assert unenforced(compile_objects(broken, other, options=WITHOUT)) == []


def test_a_filter_without_a_policy_protects_nothing() -> None:
    compiled = compile_objects(api_key(), secret(ann="a"), mapping())
    assert only(compiled).policies == ()
    assert said(compiled) == []


def test_objects_of_another_gateway_protect_nothing() -> None:
    other = obj("FilterPolicy", "p", {"ambassador_id": ["other"], "rules": [{**ALL, **REFERENCE}]})
    assert only(compile_objects(other, mapping())).policies == ()


# --- which rules


def test_a_mapping_gets_the_rules_that_may_match_it() -> None:
    rules = [
        {"host": "*", "path": "/other.S/*", **REFERENCE},
        {"host": "A.example.com", "path": "/greet.GrpcService/Greet"},
        {"host": "*.example.com", "path": "/greet.*", **REFERENCE},
        {"host": "*", "path": "*", **REFERENCE},
    ]
    objects = (policy(*rules), api_key(), secret(ann="a"))
    settings = settings_of(compile_objects(*objects, mapping(hostname="a.example.com")))
    assert [(rule.host, rule.path, len(rule.filters)) for rule in settings.rules] == [
        ("*", "/greet.GrpcService/Greet", 0),
        ("*", "/greet.*", 1),
    ]
    settings = settings_of(compile_objects(*objects, mapping()))
    assert [rule.host for rule in settings.rules] == ["a.example.com", "*.example.com", "*"]
    assert len(settings.filters) == 1, "one Filter, however many rules need it"


def test_rules_of_several_policies_are_ordered_by_precedence_namespace_name_and_place() -> None:
    def rules(*paths: str, precedence: int | None = None) -> list[object]:
        return [{"path": f"/greet.GrpcService/{one}", "precedence": precedence, **REFERENCE} for one in paths]

    compiled = compile_objects(
        policy(*rules("c", "b"), name="b"),
        policy(*rules("a", "d"), *rules("first", precedence=5), name="a"),
        policy(*rules("last", precedence=-1), *rules("x"), name="z", namespace="a"),
        policy(*rules("second", precedence=4), name="c"),
        mapping(),
    )
    paths = [rule.path.rpartition("/")[2] for rule in settings_of(compiled).rules]
    assert paths == ["first", "second", "x", "a", "d", "c", "b", "last"]
    assert settings_of(compiled).name == (
        "FilterPolicy a.shop, FilterPolicy c.shop, FilterPolicy z.a, FilterPolicy b.shop"
    )


def test_case_of_paths_is_ignored_by_rules_with_filters_where_the_mapping_ignores_it() -> None:
    rules = [{"path": "/greet.GrpcService/Greet"}, {"path": "/greet.*", **REFERENCE}]
    settings = settings_of(compile_objects(policy(*rules), mapping(case_sensitive=False)))
    assert [rule.ignore_case for rule in settings.rules] == [False, True]


def test_how_a_filter_is_applied() -> None:
    conditions: list[dict[str, object]] = [
        {"name": "X-A"},
        {"name": "x-a", "value": "v", "negate": True},
        {"name": "x-a", "valueRegex": "^v"},
        {"name": "x-a", "type": "RegularExpression", "value": "^w"},
        {"name": "x-a", "type": "Exact", "value": "^w"},
    ]
    filters: list[object] = [{"name": "keys", "ifRequestHeader": one} for one in conditions]
    filters += [{"name": "keys", "onAllow": "break", "onDeny": "continue"}, {"name": "keys"}]
    compiled = compile_objects(policy({**ALL, "filters": filters}), api_key(), secret(ann="a"), mapping())
    assert said(compiled) == []
    assert settings_of(compiled).rules[0].filters == (
        AppliedFilter(0, HeaderCondition(HeaderMatch("x-a"))),
        AppliedFilter(0, HeaderCondition(HeaderMatch("x-a", exact="v"), negate=True)),
        AppliedFilter(0, HeaderCondition(HeaderMatch("x-a", regex="^v"))),
        AppliedFilter(0, HeaderCondition(HeaderMatch("x-a", regex="^w"))),
        AppliedFilter(0, HeaderCondition(HeaderMatch("x-a", exact="^w"))),
        AppliedFilter(0, None, breaks_on_allow=True, breaks_on_deny=False),
        AppliedFilter(0),
    )


def test_a_rule_that_denies_no_call_is_noticed() -> None:
    rule = {**ALL, "filters": [{"name": "keys"}, {"name": "keys", "onDeny": "continue"}]}
    (notice,) = said(compile_objects(policy(rule), api_key(), secret(ann="a"), mapping()))
    assert "spec.rules.0.filters: a call that the last filter denies is served" in notice


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"host": "["}, "spec.rules.0.host: '[' is no glob that can be used"),
        ({"path": "/{a"}, "spec.rules.0.path: '/{a' is no glob that can be used"),
        ({"filters": JWT, "filterRefs": JWT}, "filters and filterRefs are two names of one field; leave one out"),
        ({"filters": [{"name": "a", "onDeny": "stop"}]}, "should be 'break' or 'continue', not 'stop'"),
        ({"filters": [{"name": "a", "ifRequestHeader": {"name": "x", "valueRegex": "("}}]}, "is no RE2 pattern"),
        ({"filters": [{"name": "a", "ifRequestHeader": {"name": ":path"}}]}, "is no metadata key"),
        ({"filters": [{"name": "a", "ifRequestHeader": {"name": "Host"}}]}, "host cannot be compared"),
        (
            {"filters": [{"name": "a", "ifRequestHeader": {"name": "x", "value": "a", "valueRegex": "b"}}]},
            "value and valueRegex exclude each other",
        ),
        ({"filter": JWT}, "is an unknown field"),
    ],
)
def test_what_is_wrong_in_a_rule_is_named(rule: dict[str, object], message: str) -> None:
    compiled = compile_objects(policy({**ALL, **REFERENCE}, {**ALL, **rule}), mapping())
    assert message.replace("rules.0", "rules.1") in "".join(said(compiled, Severity.ERROR))
    assert "FilterPolicy policy.shop cannot be read" in unenforced(compiled)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"path": "greet.GrpcService"}, "path"),
        ({"path": "/greet.GrpcService/"}, "path"),
        ({"path": "greet.GrpcService.Greet"}, "path"),
        ({"path": "/greet.GrpcService/.*"}, "path"),
        ({"path": "/greet.GrpcService/.+"}, "path"),
        ({"path": "^/greet.GrpcService/Greet$"}, "path"),
        ({"path": "/api/v1/*"}, "path"),
        ({"host": "https://greet.example.com"}, "host"),
        ({"host": "greet.example.com/greet"}, "host"),
    ],
)
def test_a_rule_that_no_call_matches_is_noticed(rule: dict[str, object], field: str) -> None:
    """Else a mistake in it would take its filters away without a word."""
    objects = (api_key(), secret(ann="a"), mapping())
    (notice,) = said(compile_objects(policy({**rule, **REFERENCE}), *objects))
    assert f"spec.rules.0.{field}: matches no" in notice
    assert said(compile_objects(policy(rule), *objects)) == [], "nothing is lost where it has no filters"


@pytest.mark.parametrize("path", ["*", "/*", "/greet.*", "greet.S/G?eet", "/{a,b}.S/*", "*/Greet", "/greet.S*", "/g*"])
def test_a_rule_that_calls_match_is_not_noticed(path: str) -> None:
    rule = {"host": "*.example.com", "path": path, **REFERENCE}
    assert said(compile_objects(policy(rule), api_key(), secret(ann="a"), mapping())) == []


def test_the_last_good_version_of_a_policy_serves_on() -> None:
    objects = (api_key(), secret(ann="a"), mapping())
    good = compile_objects(policy({**ALL, **REFERENCE}), *objects)
    broken = compile_objects(policy({**ALL, "wrong": 1}), *objects, last=good)
    assert broken.snapshot == good.snapshot
    assert "the last good version keeps serving" in "".join(said(broken))


def test_a_name_is_not_known_on_an_engine_that_hides_it() -> None:
    rules = policy({"host": "a.example.com", **REFERENCE}, {**ALL, **REFERENCE})
    options = CompileOptions(authority_hidden_by="generic-handler")
    (error,) = said(compile_objects(rules, api_key(), secret(ann="a"), mapping(), options=options), Severity.ERROR)
    assert "spec.rules.0.host" in error
    assert "the generic-handler engine does not know the :authority of calls" in error


# --- Filters


@pytest.mark.parametrize("keys", ["a-secret", ["a-secret"], [{"secretName": ["a-secret"]}]])
def test_a_key_that_is_written_into_a_filter_is_not_shown(keys: object) -> None:
    compiled = compile_objects(
        policy({**ALL, **REFERENCE}), obj("Filter", "keys", {"APIKey": {"keys": keys}}), mapping()
    )
    assert "a-secret" not in "".join(said(compiled))


def test_the_forms_of_all_versions_mean_the_same() -> None:
    keys = {"keys": [{"secretName": "keys"}], "httpHeader": "X-Key"}
    rest = (secret(ann="a"), mapping())
    new = "gateway.getambassador.io/v1alpha1"
    old = compile_objects(policy({**ALL, **REFERENCE}), api_key(httpHeader="X-Key"), *rest)
    compiled = compile_objects(
        policy({"filterRefs": [{"name": "keys"}]}, api=new),
        obj("Filter", "keys", {"type": "apikey", "apikey": keys}, api=new),
        *rest,
    )
    assert compiled.snapshot == old.snapshot
    assert said(compiled) == said(old) == []


def test_all_values_of_the_secrets_are_keys_named_as_they_are_there() -> None:
    keys = [{"secretName": "keys"}, {"secretName": "more", "secretNamespace": "vault"}]
    more = secret("more", ann="second")
    more = replace(more, key=more.key._replace(namespace="vault"))
    compiled = compile_objects(
        policy({**ALL, **REFERENCE}), api_key(keys=keys), secret(ann="first\n", bob="b"), more, mapping()
    )
    (settings,) = settings_of(compiled).filters
    assert isinstance(settings, ApiKeySettings)
    expected = {b"first": "ann", b"b": "bob", b"second": "ann"}
    assert dict(settings.identities) == {digest_key(key): name for key, name in expected.items()}
    assert (settings.header, settings.forward, said(compiled)) == ("x-api-key", False, [])


def bytes_of_keys(header: str, **keys: bytes) -> tuple[dict[bytes, str], list[str]]:
    """What a Filter takes of the keys, and what is said of them."""
    held = secret()
    held = replace(
        held, body={**held.body, "data": {name: base64.b64encode(key).decode() for name, key in keys.items()}}
    )
    compiled = compile_objects(policy({**ALL, **REFERENCE}), api_key(httpHeader=header), held, mapping())
    (settings,) = settings_of(compiled).filters
    assert isinstance(settings, ApiKeySettings)
    return dict(settings.identities), said(compiled)


def test_spaces_around_a_key_do_not_count_as_in_a_header() -> None:
    assert bytes_of_keys("x-api-key", ann=b" \tfirst key \r\n") == ({digest_key(b"first key"): "ann"}, [])


def test_bytes_of_a_binary_header_all_count() -> None:
    assert bytes_of_keys("x-key-bin", ann=b" \xff\n") == ({digest_key(b" \xff\n"): "ann"}, [])


@pytest.mark.parametrize(
    ("key", "why"), [(b" \n", "is empty"), (b"caf\xc3\xa9", "no header can have"), (b"a\nb", "no header can have")]
)
def test_what_no_header_can_have_is_no_key_and_the_others_are(key: bytes, why: str) -> None:
    keys, problems = bytes_of_keys("x-api-key", ann=key, bob=b"b")
    assert list(keys.values()) == ["bob"]
    (error,) = problems
    assert "spec.APIKey.keys.0: ann in Secret keys.shop" in error
    assert why in error


def test_a_secret_that_is_gone_takes_its_keys_with_it_and_the_others_stay() -> None:
    keys = [{"secretName": "keys"}, {"secretName": "more"}]
    objects = (policy({**ALL, **REFERENCE}), api_key(keys=keys), secret(ann="a"), mapping())
    before = compile_objects(*objects, secret("more", bob="b"))
    after = compile_objects(*objects, last=before)
    (settings,) = settings_of(after).filters
    assert isinstance(settings, ApiKeySettings)
    assert [name for _, name in settings.identities] == ["ann"]
    (error,) = said(after, Severity.ERROR)
    assert "spec.APIKey.keys.1: Secret more.shop does not exist, so none of its keys is valid" in error
    assert after.snapshot.version != before.snapshot.version


def test_a_secret_that_cannot_be_read_serves_in_its_last_good_version() -> None:
    objects = (policy({**ALL, **REFERENCE}), api_key(), mapping())
    before = compile_objects(*objects, secret(ann="a"))
    broken = secret()
    broken = replace(broken, body={**broken.body, "data": {"ann": "%%%"}})
    after = compile_objects(*objects, broken, last=before)
    assert after.snapshot == before.snapshot
    (error,) = said(after, Severity.ERROR)
    assert "data of ann is no base64" in error
    assert "%%%" not in error


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "exactly one of JWT, External, Plugin, APIKey, OAuth2, Internal is required"),
        ({"JWT": {"jwksURI": "https://a"}, "OAuth2": {}}, "exactly one of"),
        ({"type": "jwt", "apikey": {"keys": [{"secretName": "keys"}]}}, "put them into jwt"),
        ({"APIKey": {"keys": []}}, "should have at least 1 entry"),
        ({"APIKey": {"keys": [{"secretName": "keys"}], "httpHeader": "x key"}}, "is no metadata key"),
        ({"APIKey": {"keys": [{"secretName": "absent"}]}}, "none of its Secrets has a key"),
        ({"OAuth2": {"authorizationURL": "https://a"}}, "verify them by a Filter of type JWT"),
        (
            {"type": "oauth2", "oauth2": {"grantType": "ClientCredentials"}},
            "a Filter of type JWT with the issuer's jwksURI",
        ),
        ({"Internal": {}}, "Edge Stack's own"),
        ({"JWT": {}}, "one of jwksURI and jwksSecret is required"),
        ({"JWT": {"jwksURI": "https://a", "issuer": []}}, "JWT.issuer: should have at least 1 entry"),
        ({"JWT": {"jwksURI": "https://a", "audience": []}}, "JWT.audience: should have at least 1 entry"),
        ({"JWT": {"jwksURI": "https://a", "requiredClaims": [{"name": "a", "values": []}]}}, "at least 1 entry"),
        ({"JWT": {"jwksSecret": {"name": "absent"}}}, "Secret absent.shop does not exist"),
        ({"JWT": {"jwksURI": "https://a", "validAlgorithms": ["none"]}}, "spec.JWT.validAlgorithms"),
        ({"Plugin": {"name": ""}}, "Plugin.name"),
        ({"Plugin": {"name": "x", "timeout_ms": 0}}, "Plugin.timeout_ms"),
    ],
)
def test_a_filter_that_cannot_be_enforced_refuses_the_calls_that_need_it(spec: object, message: str) -> None:
    objects = (
        policy({"path": "/greet.GrpcService/Open"}, {**ALL, **REFERENCE}),
        obj("Filter", "keys", spec),
        secret(ann="a"),
        mapping(),
        mapping("other", prefix="/open.S/", service="other"),
    )
    compiled = compile_objects(*objects)
    errors = "".join(said(compiled, Severity.ERROR))
    assert message in errors
    assert "the calls that need it are refused" in errors
    assert "spec.rules.1.filters.0: Filter keys.shop has an error or does not exist" in errors
    for destination in destinations(compiled).values():
        (settings,) = destination.policies
        assert isinstance(settings, FilterPolicySettings)
        assert [type(one) for one in settings.filters] == [Unenforced]
    without = compile_objects(*objects, options=WITHOUT)
    assert [one.policies for one in destinations(without).values()] == [(), ()]
    assert "calls are not filtered by it" in "".join(said(without, Severity.NOTICE))


def test_a_filter_that_does_not_exist_refuses_the_calls_that_need_it() -> None:
    compiled = compile_objects(policy({**ALL, "filters": [{"name": "keys", "namespace": "far"}]}), mapping())
    assert unenforced(compiled) == ["Filter keys.far has an error or does not exist"]


SECOND = "gateway.getambassador.io/v1alpha1"


def in_second_group(one: KubeObject) -> KubeObject:
    """As it is read from a cluster."""
    return replace(one, api_version=SECOND, key=one.key._replace(name=f"{one.key.name} (gateway.getambassador.io)"))


@pytest.mark.parametrize("policy_is_second", [True, False])
@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ((True, True), None),
        ((True, None), False),
        ((None, True), True),
        ((False, True), None),
        ((True, False), None),
    ],
    ids=str,
)
def test_a_policy_means_the_filter_of_its_own_group(
    policy_is_second: bool, filters: tuple[bool | None, bool | None], chosen: bool | None
) -> None:
    """`filters`: of the first and the second group, good, broken or absent; `chosen`: None is the policy's own."""
    good, broken = api_key(), obj("Filter", "keys", {"OAuth2": {}})
    first, second = [None if one is None else good if one else broken for one in filters]
    rules = policy({**ALL, **REFERENCE})
    objects = [in_second_group(rules) if policy_is_second else rules, secret(ann="a"), mapping()]
    objects += [first] if first else []
    objects += [in_second_group(second)] if second else []
    compiled = compile_objects(*objects)
    is_second = policy_is_second if chosen is None else chosen
    (found,) = settings_of(compiled).filters
    name = "Filter keys (gateway.getambassador.io).shop" if is_second else "Filter keys.shop"
    assert (found.name, isinstance(found, ApiKeySettings)) == (name, filters[is_second])


def test_policies_of_one_name_in_two_groups_both_decide() -> None:
    first = policy({"path": "/greet.GrpcService/Greet", **REFERENCE})
    second = in_second_group(policy({"path": "/greet.GrpcService/*", "filters": [{"name": "absent"}]}))
    settings = settings_of(compile_objects(first, second, api_key(), secret(ann="a"), mapping()))
    assert [rule.path for rule in settings.rules] == ["/greet.GrpcService/Greet", "/greet.GrpcService/*"]


def test_a_filter_of_another_namespace_is_hinted_at() -> None:
    elsewhere = replace(api_key(), key=api_key().key._replace(namespace="far"))
    compiled = compile_objects(policy({**ALL, **REFERENCE}), elsewhere, secret(ann="a"), mapping())
    assert unenforced(compiled) == ["Filter keys.shop has an error or does not exist"]
    keys = replace(secret(ann="a"), key=secret().key._replace(namespace="far"))
    errors = said(compile_objects(policy({**ALL, **REFERENCE}), elsewhere, keys, mapping()), Severity.ERROR)
    assert "there is one in namespace far, which `namespace` would name" in "".join(errors)


def test_the_last_good_version_of_a_filter_serves_on() -> None:
    objects = (policy({**ALL, **REFERENCE}), secret(ann="a"), mapping())
    good = compile_objects(api_key(), *objects)
    broken = compile_objects(obj("Filter", "keys", {"OAuth2": {}}), *objects, last=good)
    assert broken.snapshot == good.snapshot
    assert "the last good version keeps serving" in "".join(said(broken))


def test_arguments_of_a_filter_that_takes_none_are_noticed() -> None:
    filters = [{"name": "keys", "arguments": {"scope": ["a"]}}]
    (notice,) = said(compile_objects(policy({**ALL, "filters": filters}), api_key(), secret(ann="a"), mapping()))
    assert "spec.rules.0.filters.0.arguments: has no effect" in notice


# --- JWT


def token_keys() -> KubeObject:
    signer = make_signer()
    return secret("jwks", jwks=json.dumps({"keys": [signer.public]}))


def jwt_settings(*rules: object, api: str = "getambassador.io/v2") -> list[JwtSettings]:
    """Of each Filter of the policy."""
    token = obj("Filter", "jwt", {"JWT": {"jwksSecret": {"name": "jwks"}, "issuer": ISSUER}})
    compiled = compile_objects(policy(*rules, api=api), token, token_keys(), mapping())
    assert said(compiled) == []
    found = [one for one in settings_of(compiled).filters if isinstance(one, JwtSettings)]
    assert len(found) == len(settings_of(compiled).filters)
    return found


def test_a_jwt_filter_has_the_keys_of_its_secret() -> None:
    (settings,) = jwt_settings({**ALL, "filters": JWT})
    assert (settings.name, settings.issuers, settings.scopes) == ("Filter jwt.shop", (ISSUER,), ())
    assert [key.kid for key in settings.keys] == ["first"]


@pytest.mark.parametrize(
    "arguments",
    [{"scope": ["a", "b"]}, {"scopes": ["a", "b"]}, {"type": "jwt", "jwt": {"scope": ["a", "b"]}}],
)
def test_a_rule_may_ask_for_scopes(arguments: dict[str, object]) -> None:
    rules = [
        {"path": "/greet.GrpcService/Greet", "filters": [{"name": "jwt", "arguments": arguments}]},
        {**ALL, "filters": JWT},
    ]
    assert [one.scopes for one in jwt_settings(*rules)] == [("a", "b"), ()]


def test_arguments_that_a_jwt_filter_does_not_know_are_an_error() -> None:
    filters = [{"name": "jwt", "arguments": {"scpe": ["a"]}}]
    token = obj("Filter", "jwt", {"JWT": {"jwksSecret": {"name": "jwks"}}})
    compiled = compile_objects(policy({**ALL, "filters": filters}), token, token_keys(), mapping())
    (error,) = said(compiled, Severity.ERROR)
    assert "spec.rules.0.filters.0.arguments.scpe: is an unknown field; did you mean scope?" in error
    assert unenforced(compiled) == ["FilterPolicy policy.shop cannot be read"]


def test_keys_that_are_not_fetched_yet_refuse_the_calls_that_need_a_token() -> None:
    token = obj("Filter", "jwt", {"JWT": {"jwksURI": "https://issuer.example/keys"}})
    compiled = compile_objects(policy({**ALL, "filters": JWT}), token, mapping())
    (settings,) = settings_of(compiled).filters
    assert isinstance(settings, JwtSettings)
    assert "have not been fetched yet" in settings.no_keys
    assert "have not been fetched yet" in "".join(said(compiled, Severity.ERROR))


# --- External


def external(given: dict[str, object], api: str = "getambassador.io/v2") -> KubeObject:
    field = {"External": given} if api == "getambassador.io/v2" else {"type": "external", "external": given}
    return obj("Filter", "ext", field, api=api)


EXTERNAL = {**ALL, "filters": [{"name": "ext"}]}
OLD: dict[str, object] = {
    "auth_service": "http://auth.far:3000",
    "proto": "http",
    "path_prefix": "/check",
    "timeout_ms": 1500,
    "allowed_request_headers": ["x-a"],
    "allowed_authorization_headers": ["x-b"],
    "include_body": {"max_bytes": 10, "allow_partial": False},
    "status_on_error": {"code": 503},
    "failure_mode_allow": True,
}
NEW: dict[str, object] = {
    "authServiceURL": "http://auth.far:3000",
    "protocol": "http",
    "timeout": "1500ms",
    "httpSettings": {
        "pathPrefix": "/check",
        "allowedRequestHeaders": ["X-A"],
        "allowedAuthorizationHeaders": ["X-B"],
    },
    "include_body": {"maxBytes": 10, "allowPartial": False},
    "statusOnError": 503,
    "failureModeAllow": True,
}


def test_an_external_filter_is_an_auth_service_for_the_calls_of_its_rules() -> None:
    compiled = compile_objects(policy(EXTERNAL), external(OLD), mapping())
    assert said(compiled, Severity.ERROR) == []
    settings = settings_of(compiled)
    (given,) = settings.filters
    assert isinstance(given, ExtAuthzSettings)
    assert (given.name, given.protocol, given.timeout_ms) == ("Filter ext.shop", AuthProtocol.HTTP, 1500)
    assert (given.path_prefix, given.allowed_request_headers) == ("/check", ("x-a",))
    assert (given.message, given.failure_mode_allow) == (IncludedMessage(10), True)
    assert settings.upstreams == given.upstreams
    (upstream,) = given.upstreams
    cluster = compiled.snapshot.clusters[upstream.clusters[0].cluster]
    assert (cluster.service.name, cluster.service.namespace, cluster.service.port) == ("auth", "far", 3000)
    newer = external(NEW, "gateway.getambassador.io/v1alpha1")
    assert compile_objects(policy(EXTERNAL), newer, mapping()).snapshot == compiled.snapshot


def test_the_cluster_of_a_filter_that_no_rule_has_is_not_connected_to() -> None:
    compiled = compile_objects(external(OLD), policy({**ALL, **REFERENCE}), api_key(), secret(ann="a"), mapping())
    assert len(compiled.snapshot.clusters) == 1


@pytest.mark.parametrize("form", ["getambassador.io/v2", "gateway.getambassador.io/v1alpha1"])
def test_certificates_of_a_service_come_from_secrets(form: str) -> None:
    authority = Authority("auth")
    own = authority.sign("gateway")
    body = obj("Secret", "cert", api="v1")
    data = {"tls.crt": base64.b64encode(own.certificate).decode(), "tls.key": base64.b64encode(own.key).decode()}
    certificate = replace(body, body={**body.body, "data": data})
    authorities = replace(secret("ca"), body={"stringData": {"tls.crt": authority.pem.decode()}})
    tls = {"certificate": {"fromSecret": {"name": "cert"}}, "caCertificate": {"fromSecret": {"name": "ca"}}}
    given = external({**(OLD if form == "getambassador.io/v2" else NEW), "tlsConfig": tls}, form)
    assert find_named_secrets(given) == {certificate.key, authorities.key}
    compiled = compile_objects(policy(EXTERNAL), given, certificate, authorities, mapping())
    assert said(compiled, Severity.ERROR) == []
    (upstream,) = settings_of(compiled).upstreams
    used = compiled.snapshot.clusters[upstream.clusters[0].cluster].connection.tls
    assert used is not None
    assert (used.certificate_chain, used.ca.strip()) == (own.certificate, authority.pem.strip())
    assert (used.private_key, used.server_name) == (own.key, "auth.far")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "spec.External.auth_service: is required"),
        ({"auth_service": "auth", "resolver": "none"}, "spec.External.resolver: resolver none is unknown"),
        ({"auth_service": "auth", "tlsConfig": {"certificate": {"fromSecret": {"name": "x"}}}}, "Secret x.shop does"),
        ({"auth_service": "auth", "tls_config": {}}, "did you mean tlsConfig?"),
    ],
)
def test_what_is_wrong_with_an_external_filter_is_named(given: dict[str, object], message: str) -> None:
    compiled = compile_objects(policy(EXTERNAL), external(given), mapping())
    assert message in "".join(said(compiled, Severity.ERROR))
    assert unenforced(compiled) == ["Filter ext.shop has an error or does not exist"]


@pytest.mark.parametrize("field", ["Plugin", "plugin"])
def test_a_plugin_is_an_own_policy_with_its_configuration(field: str) -> None:
    spec = {field: {"name": "own.tenants:Tenants", "config": {"most": 3, "by": ["a"]}, "timeout_ms": 200}}
    found = settings_of(compile_objects(policy({**ALL, **REFERENCE}), obj("Filter", "keys", spec), mapping())).filters
    assert found == (
        make_plugin(
            "Filter keys.shop",
            "own.tenants:Tenants",
            {"by": ["a"], "most": 3},
            200,
            ObjectKey("Filter", "shop", "keys"),
        ),
    )
