"""Filters of type JWT: their settings, where their keys come from, and what is an error."""

from __future__ import annotations

import pytest

from grpcgw.model.filters import FilterPolicySettings
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.jwt import ALGORITHMS, JwtSettings, RequiredClaim, TimeRule
from grpcgw.model.key_set_objects import FetchedKeySet, KeySetSource, make_key_set
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route import Unenforced
from grpcgw.model.route_source import Compiled
from tests.compiling import compile_objects, mapping, obj, only, said
from tests.jwts import keys_of, make_signer, write_jwks
from tests.parsing import KINDS

URL = "https://issuer.example/jwks"
KEYS, NEW = keys_of(make_signer()), keys_of(make_signer("other"))
POLICY = obj("FilterPolicy", "policy", {"rules": [{"filters": [{"name": "jwt"}]}]})
FETCHED = make_key_set(KeySetSource(URL).key, FetchedKeySet(KEYS))


def jwt_filter(**fields: object) -> KubeObject:
    spec = {"jwksURI": URL, **fields}
    return obj("Filter", "jwt", {"JWT": {name: value for name, value in spec.items() if value is not None}})


def secret(jwks: bytes, entry: str = "jwks", name: str = "keys") -> KubeObject:
    made = obj("Secret", name, api="v1")
    made.body["stringData"] = {entry: jwks.decode()}  # type: ignore[index]
    return made


def compiled_with(*objects: KubeObject, last: Compiled | None = None) -> Compiled:
    return compile_objects(mapping(), POLICY, *objects, last=last)


def settings_of(compiled: Compiled) -> JwtSettings:
    (policy,) = only(compiled).policies
    assert isinstance(policy, FilterPolicySettings)
    (settings,) = policy.filters
    assert isinstance(settings, JwtSettings), settings
    return settings


def is_refused(compiled: Compiled) -> bool:
    (policy,) = only(compiled).policies
    return isinstance(policy, FilterPolicySettings) and isinstance(policy.filters[0], Unenforced)


def errors(compiled: Compiled) -> str:
    return "\n".join(said(compiled, Severity.ERROR))


def test_the_defaults_are_edge_stacks() -> None:
    compiled = compiled_with(jwt_filter(), FETCHED)
    assert said(compiled) == []
    assert settings_of(compiled) == JwtSettings(
        name="Filter jwt.shop",
        keys=KEYS,
        key_set=KeySetSource(URL).id,
        algorithms=ALGORITHMS,
        realm="jwt.shop",
        header="authorization",
    )


def test_every_field() -> None:
    compiled = compiled_with(
        jwt_filter(
            validAlgorithms=["RS256", "ES256"], audience="greet", requireAudience=True, issuer=["a", "b"],
            requireIssuer=True, requireExpiresAt=True, leewayForExpiresAt="1m30s", requireNotBefore=True,
            leewayForNotBefore="500ms", requireIssuedAt=True, leewayForIssuedAt="2s",
            requiredClaims=[{"name": "tenant"}, {"name": "role", "values": ["a", "b"]}],
            tokenHeader="X-Token", tokenOptional=True,
            injectRequestHeaders=[{"name": "X-User", "value": "{{ .token.Claims.sub }}"}],
            errorResponse={
                "realm": "greet", "bodyTemplate": "{{ .message }}",
                "headers": [{"name": "Content-Type", "value": "x"}, {"name": "X-Why", "value": "{{ .message }}"}],
            },
        ),
        FETCHED,
    )  # fmt: skip
    assert errors(compiled) == ""
    assert settings_of(compiled) == JwtSettings(
        name="Filter jwt.shop", keys=KEYS, key_set=KeySetSource(URL).id,
        algorithms=("RS256", "ES256"), audiences=("greet",), audience_required=True,
        issuers=("a", "b"), issuer_required=True, expires=TimeRule(True, 90.0), not_before=TimeRule(True, 0.5),
        issued=TimeRule(True, 2.0), required_claims=(RequiredClaim("tenant"), RequiredClaim("role", ("a", "b"))),
        header="x-token", scheme="", token_optional=True,
        inject=(HeaderTemplate("x-user", "{{ .token.Claims.sub }}"),),
        realm="greet", error_headers=(HeaderTemplate("x-why", "{{ .message }}"),), error_body="{{ .message }}",
    )  # fmt: skip


def test_the_newer_form_means_the_same() -> None:
    newer = obj("Filter", "jwt", {"type": "jwt", "jwt": {"jwksURI": URL}}, api="gateway.getambassador.io/v1alpha1")
    assert settings_of(compiled_with(newer, FETCHED)) == settings_of(compiled_with(jwt_filter(), FETCHED))


SCOPES = ["read", "write", "read"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"scope": SCOPES},
        {"scopes": SCOPES},
        {"type": "jwt", "jwt": {"scope": SCOPES}},
        {"type": "jwt", "scope": SCOPES},
        {"scope": "read write"},
    ],
)
def test_a_filter_policy_demands_scopes(arguments: object) -> None:
    rules = [{"filters": [{"name": "jwt", "arguments": arguments}]}]
    compiled = compile_objects(mapping(), obj("FilterPolicy", "policy", {"rules": rules}), jwt_filter(), FETCHED)
    assert said(compiled) == []
    assert settings_of(compiled).scopes == ("read", "write")


@pytest.mark.parametrize("arguments", [{"scope": 7}, {"scop": ["read"]}, {"scope": ["a"], "jwt": {"scope": ["b"]}}])
def test_arguments_that_cannot_be_read_refuse_the_calls(arguments: object) -> None:
    rules = [{"filters": [{"name": "jwt", "arguments": arguments}]}]
    compiled = compile_objects(mapping(), obj("FilterPolicy", "policy", {"rules": rules}), jwt_filter(), FETCHED)
    assert "rules.0.filters.0.arguments." in errors(compiled)
    assert [type(one) for one in only(compiled).policies] == [Unenforced]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"jwksURI": None}, "one of jwksURI and jwksSecret"),
        ({"jwksSecret": {"name": "keys"}}, "one of jwksURI and jwksSecret"),
        ({"jwksURI": "file:///etc/passwd"}, "https URL"),
        ({"jwksURI": "https://user:secret@issuer.example/"}, "no user name or password"),
        ({"validAlgorithms": ["none"]}, "tokens that anybody can make"),
        ({"validAlgorithms": ["RS256", "none"]}, "tokens that anybody can make"),
        ({"validAlgorithms": ["HS256"]}, "public keys only"),
        ({"validAlgorithms": ["RS257"]}, "RS257: unknown"),
        ({"validAlgorithms": []}, "no algorithm"),
        ({"tokenHeader": ":path"}, "cannot be changed as a header"),
        ({"tokenHeader": "token-bin"}, "cannot carry a token"),
        ({"tokenHeader": "te"}, "cannot carry a token"),
        ({"injectRequestHeaders": [{"name": "a b", "value": ""}]}, "no header name"),
        ({"injectRequestHeaders": [{"name": "te", "value": ""}]}, "set by gRPC itself"),
        ({"injectRequestHeaders": [{"name": "x", "value": "{{ range .token }}"}]}, "cannot be used"),
        ({"injectRequestHeaders": [{"name": "x", "value": "{{ .tokens }}"}]}, "asks for .tokens"),
        ({"errorResponse": {"bodyTemplate": "{{ .token.Raw }}"}}, "asks for .token"),
        ({"errorResponse": {"headers": [{"name": "x", "value": "{{"}]}}, "cannot be used"),
        ({"leewayForExpiresAt": "long"}, "no duration"),
        ({"audiences": ["x"]}, "audience"),
    ],
)
def test_a_filter_with_an_error_refuses_the_calls_that_need_it(fields: dict[str, object], message: str) -> None:
    compiled = compiled_with(jwt_filter(**fields), FETCHED)
    assert message in errors(compiled)
    assert "secret@" not in errors(compiled)
    assert is_refused(compiled)


def test_a_filter_with_an_error_serves_on_in_its_last_good_version() -> None:
    before = compiled_with(jwt_filter(), FETCHED)
    after = compiled_with(jwt_filter(validAlgorithms=["none"]), FETCHED, last=before)
    assert settings_of(after) == settings_of(before)
    assert "the last good version keeps serving" in errors(after)


# --- keys


def test_before_the_first_fetch_calls_are_refused_until_there_are_keys() -> None:
    compiled = compiled_with(jwt_filter())
    assert "have not been fetched yet; until they are" in errors(compiled)
    assert settings_of(compiled).no_keys == f"those at {URL} have not been fetched yet"


def test_a_fetch_that_fails_is_said_at_the_filter_and_the_rest_serves() -> None:
    failed = make_key_set(KeySetSource(URL).key, FetchedKeySet((), "its answer is 503"))
    compiled = compiled_with(jwt_filter(), failed)
    (problem,) = said(compiled, Severity.ERROR)
    assert "Filter jwt.shop spec.JWT.jwksURI: the keys at" in problem
    assert "(its answer is 503); until they are, the calls that need a token are refused" in problem
    assert settings_of(compiled).no_keys == f"those at {URL} cannot be fetched"


def test_the_last_good_keys_stay_in_use() -> None:
    stale = make_key_set(KeySetSource(URL).key, FetchedKeySet(KEYS, "its answer is 503"))
    compiled = compiled_with(jwt_filter(), stale)
    assert "(its answer is 503); those of the last fetch are used" in errors(compiled)
    assert (settings_of(compiled).keys, settings_of(compiled).no_keys) == (KEYS, "")
    assert compiled.snapshot.version == compiled_with(jwt_filter(), FETCHED).snapshot.version


def test_a_query_of_the_url_is_not_shown() -> None:
    url = f"{URL}?key=confidential"
    failed = make_key_set(KeySetSource(url).key, FetchedKeySet((), "its answer is 503"))
    assert "confidential" not in errors(compiled_with(jwt_filter(jwksURI=url), failed))


def test_a_command_that_does_not_fetch_says_so_and_finds_no_error() -> None:
    skipped = make_key_set(KeySetSource(URL).key, FetchedKeySet(not_fetched=True))
    compiled = compiled_with(jwt_filter(), skipped)
    assert errors(compiled) == ""
    assert "fetched by a running gateway only" in "".join(said(compiled, Severity.NOTICE))


def test_new_keys_are_a_new_configuration() -> None:
    before = compiled_with(jwt_filter(), FETCHED)
    after = compiled_with(jwt_filter(), make_key_set(KeySetSource(URL).key, FetchedKeySet(NEW)), last=before)
    assert settings_of(after).keys == NEW
    assert after.snapshot.version != before.snapshot.version


def test_insecure_tls_is_another_set_and_a_notice() -> None:
    given = jwt_filter(insecureTLS=True, maxStale="90s")
    assert KINDS.find_key_sets(given) == {KeySetSource(URL, True, 90.0)}
    compiled = compiled_with(given, make_key_set(KeySetSource(URL, True).key, FetchedKeySet(KEYS)))
    assert settings_of(compiled).keys == KEYS
    assert "the server's certificate is not checked" in "".join(said(compiled, Severity.NOTICE))


def test_keys_may_be_in_a_secret() -> None:
    given = jwt_filter(jwksURI=None, jwksSecret={"name": "keys"})
    assert KINDS.find_secrets(given) == {secret(b"").key}
    assert KINDS.find_key_sets(given) == frozenset()
    compiled = compiled_with(given, secret(write_jwks(make_signer())))
    assert (errors(compiled), settings_of(compiled).keys, settings_of(compiled).key_set) == ("", KEYS, "")
    other = jwt_filter(jwksURI=None, jwksSecret={"name": "k", "namespace": "shop", "key": "public.json"})
    assert settings_of(compiled_with(other, secret(write_jwks(make_signer()), "public.json", "k"))).keys == KEYS


@pytest.mark.parametrize("spec", [{"Jwt": {}}, {"OAuth2": {}}, {}, "JWT"])
def test_a_filter_that_breaks_has_its_keys_fetched_as_its_last_good_version_serves(spec: object) -> None:
    broken = obj("Filter", "jwt", spec)
    assert KINDS.find_key_sets(broken) is None
    good = compiled_with(jwt_filter(), FETCHED)
    assert settings_of(compiled_with(broken, FETCHED, last=good)).keys == KEYS


def test_a_filter_of_another_type_has_no_keys_fetched() -> None:
    assert KINDS.find_key_sets(obj("Filter", "jwt", {"APIKey": {}})) == frozenset()


def test_a_secret_that_is_deleted_takes_its_keys_back() -> None:
    given = jwt_filter(jwksURI=None, jwksSecret={"name": "keys"})
    good = compiled_with(given, secret(write_jwks(make_signer())))
    gone = compiled_with(given, last=good)
    assert is_refused(gone)
    assert "Secret keys.shop does not exist, so none of its keys verifies tokens; the calls that need it" in errors(
        gone
    )


def test_a_secret_that_breaks_leaves_its_last_good_keys_and_one_that_never_was_good_refuses() -> None:
    given = jwt_filter(jwksURI=None, jwksSecret={"name": "keys"})
    good = compiled_with(given, secret(write_jwks(make_signer())))
    broken = compiled_with(given, secret(b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'), last=good)
    assert "no public key" in errors(broken)
    assert "c2VjcmV0" not in errors(broken)
    assert settings_of(broken).keys == KEYS
    for objects in ((), (secret(b"{}"),)):
        assert is_refused(compiled_with(given, *objects))
