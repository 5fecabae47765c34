"""The policy `jwt`: whom it lets in, what it refuses and how, what it remembers, and what goes into metadata."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.codes import Code
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.jwt import JwtSettings, PublicKey, RequiredClaim, TimeRule
from grpcgw.model.objects import ObjectKey
from grpcgw.model.status import Reason
from grpcgw.policy.contract import Policy, PolicyRequest
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.tokens.jws import MAX_TOKEN_CHARACTERS
from grpcgw.policy.tokens.jwt_policy import build_jwt
from grpcgw.policy.tokens.token_cache import LONGEST_RECENT, MAX_BYTES, MOST_RECENT, Accepted, TokenCache
from grpcgw.policy.verdicts import Allow, Deny
from tests import jwts
from tests.jwts import ISSUER, NOW_S, Signer, claims, keys_of, make_signer

KEY = ObjectKey("Mapping", "default", "greet")
RSA = make_signer()
OTHER = make_signer("other")
EC = make_signer("ec", "ES256")
SETTINGS = JwtSettings(name="Filter jwt.default", keys=keys_of(RSA), realm="jwt.default")
TOKEN = RSA.sign(claims())


def build(settings: JwtSettings = SETTINGS, services: PolicyServices | None = None) -> Policy:
    built = build_jwt(KEY, settings, services or PolicyServices())
    assert not isinstance(built, Deny)
    return built


def request_of(*metadata: tuple[str, str | bytes], at_s: float = NOW_S) -> PolicyRequest:
    request = Request("/greet.GrpcService/Greet", "gateway.example", metadata, None, Peer("192.0.2.7"), at_s)
    return PolicyRequest(request, KEY, metadata)


def bearer(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


def ask(policy: Policy, *metadata: tuple[str, str | bytes], at_s: float = NOW_S) -> Allow | Deny:
    verdict = policy.check(request_of(*metadata, at_s=at_s))
    assert isinstance(verdict, Allow | Deny)
    return verdict


def check(token: str, settings: JwtSettings = SETTINGS, at_s: float = NOW_S) -> Allow | Deny:
    return ask(build(settings), bearer(token), at_s=at_s)


def assert_allowed(verdict: Allow | Deny) -> Allow:
    assert isinstance(verdict, Allow), verdict
    return verdict


def assert_refused(verdict: Allow | Deny, word: str, code: int = Code.UNAUTHENTICATED) -> Deny:
    assert isinstance(verdict, Deny), verdict
    assert verdict.status().code == code
    assert word in verdict.message
    return verdict


def encode(part: object) -> str:
    return jwts.encode(part if isinstance(part, bytes) else json.dumps(part).encode())


def challenge(denied: Deny) -> str:
    return str(dict(denied.metadata)["www-authenticate"])


# --- who is let in

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_with_a_right_signature_passes_with_its_identity(algorithm: str) -> None:
    private = RSA.private if algorithm[:2] in ("RS", "PS") else make_signer("k", algorithm).private
    signer = Signer("k", algorithm, private)
    allowed = assert_allowed(check(signer.sign(claims()), replace(SETTINGS, keys=keys_of(signer))))
    assert allowed.facts == (("identity", "ann"), ("token-issuer", ISSUER))
    assert allowed.claims is not None
    assert allowed.claims["aud"] == "greet"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    assert_allowed(ask(build(), ("authorization", f"{scheme}{TOKEN}")))


def test_the_token_may_be_in_another_header_without_a_scheme() -> None:
    policy = build(replace(SETTINGS, header="x-token", scheme=""))
    assert_allowed(ask(policy, ("x-token", TOKEN), ("authorization", "Basic eA==")))
    assert_refused(ask(policy, bearer(TOKEN)), "no token in x-token")


@pytest.mark.parametrize("kid", ["first", None])
def test_the_key_is_found_by_its_kid_or_by_its_algorithm(kid: str | None) -> None:
    assert_allowed(check(RSA.sign(claims(), kid=kid), replace(SETTINGS, keys=keys_of(EC, OTHER, RSA))))


def test_a_key_without_a_kid_verifies_a_token_with_any() -> None:
    nameless = Signer("", "RS256", RSA.private)
    assert_allowed(check(RSA.sign(claims()), replace(SETTINGS, keys=keys_of(nameless, OTHER))))


def test_private_parameters_of_the_header_are_ignored() -> None:
    assert_allowed(check(RSA.sign(claims(), nonce="x", x5t="y", typ="at+jwt")))


def test_without_a_token_an_rpc_passes_where_it_is_optional_but_not_with_a_bad_one() -> None:
    settings = replace(SETTINGS, token_optional=True, inject=(HeaderTemplate("x-user", "{{ .token.Claims.sub }}"),))
    assert ask(build(settings)) == Allow(remove=("x-user",))
    assert_refused(check(OTHER.sign(claims()), settings), "kid")


# --- attacks


def forge(header: object, payload: object = None, signature: bytes = b"x" * 256) -> str:
    return f"{encode(header)}.{encode(claims() if payload is None else payload)}.{encode(signature)}"


def sign_by_hmac(secret: bytes) -> str:
    signed = f"{encode({'alg': 'HS256', 'kid': 'first'})}.{encode(claims())}"
    return f"{signed}.{encode(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


HEAD, PAYLOAD, SIGNATURE = TOKEN.split(".")
TWICE = b'{"alg":"RS256","alg":"none"}'
UMLAUT = "\N{LATIN SMALL LETTER U WITH DIAERESIS}"
ATTACKS = {
    "none": (f"{encode({'alg': 'none'})}.{PAYLOAD}.", "no JWT"),
    "none with a signature": (f"{encode({'alg': 'none'})}.{PAYLOAD}.{SIGNATURE}", "algorithm"),
    "None": (forge({"alg": "None"}), "algorithm"),
    "an HMAC of the PEM": (sign_by_hmac(RSA.private.as_pem(private=False)), "algorithm"),
    "an HMAC of the JWK": (sign_by_hmac(json.dumps(RSA.public).encode()), "algorithm"),
    "an HMAC of the modulus": (sign_by_hmac(str(RSA.public["n"]).encode()), "algorithm"),
    "no algorithm": (forge({"typ": "JWT"}), "algorithm"),
    "an algorithm that is no text": (forge({"alg": ["RS256"]}), "algorithm"),
    "crit": (RSA.sign(claims(), crit=["exp"], exp=1), "crit"),
    "an empty crit": (forge({"alg": "RS256", "crit": []}), "crit"),
    "unencoded payload": (forge({"alg": "RS256", "b64": False, "crit": ["b64"]}), "crit"),
    "another signature": (f"{HEAD}.{PAYLOAD}.{encode(b'x' * 256)}", "signature"),
    "another payload": (f"{HEAD}.{encode(claims(sub='root'))}.{SIGNATURE}", "signature"),
    "another header": (f"{encode({'alg': 'RS256', 'kid': 'first', 'x': 1})}.{PAYLOAD}.{SIGNATURE}", "signature"),
    "another key": (Signer("first", "RS256", OTHER.private).sign(claims()), "signature"),
    "its own key": (Signer("first", "RS256", OTHER.private).sign(claims(), jwk=OTHER.public), "signature"),
    "its own URL": (Signer("first", "RS256", OTHER.private).sign(claims(), jku="https://evil.example"), "signature"),
    "its own certificate": (Signer("first", "RS256", OTHER.private).sign(claims(), x5u="https://evil"), "signature"),
    "an unknown kid": (OTHER.sign(claims()), "kid"),
    "a kid that is a path": (RSA.sign(claims(), kid="../../dev/null"), "kid"),
    "a kid that is no text": (forge({"alg": "RS256", "kid": 1}), "kid is no text"),
    "an algorithm of another type": (EC.sign(claims(), kid="first"), "another algorithm"),
    "padding": (f"{HEAD}.{PAYLOAD}.{SIGNATURE}==", "no JWT"),
    "another spelling of the last character": (TOKEN[:-1] + chr(ord(TOKEN[-1]) + 1), "base64url"),
    "standard base64": (f"{HEAD}.{PAYLOAD}.{'+/' * 171}", "no JWT"),
    "spaces within": (f"{HEAD}. {PAYLOAD}.{SIGNATURE}", "no JWT"),
    "a line break at the end": (f"{TOKEN}\n", "no JWT"),
    "two parts": (f"{HEAD}.{PAYLOAD}", "no JWT"),
    "four parts": (f"{TOKEN}.x", "no JWT"),
    "five parts (JWE)": (f"{HEAD}.{HEAD}.{HEAD}.{HEAD}.{HEAD}", "no JWT"),
    "nothing": ("", "no JWT"),
    "a part of a wrong length": (f"AAAAA.{PAYLOAD}.{SIGNATURE}", "base64url"),
    "a header that is no JSON": (f"{encode(b'{')}.{PAYLOAD}.{SIGNATURE}", "no JSON"),
    "a header that is no object": (f"{encode(['alg'])}.{PAYLOAD}.{SIGNATURE}", "no JSON object"),
    "a header with a name twice": (f"{encode(TWICE)}.{PAYLOAD}.{SIGNATURE}", "twice"),
    "a header that is not in UTF-8": (f"{encode(bytes([0xFF, 0xFE]))}.{PAYLOAD}.{SIGNATURE}", "UTF-8"),
    "a deep header": (f"{encode(b'[' * 12_000)}.{PAYLOAD}.{SIGNATURE}"[:MAX_TOKEN_CHARACTERS], ""),
    "a payload that is no object": (RSA.sign(b'["sub"]'), "no JSON object"),
    "a payload that is no JSON": (RSA.sign(b"\x00"), "no JSON"),
    "an empty payload": (RSA.sign(b""), "no JSON"),
    "a claim twice": (RSA.sign(b'{"sub":"ann","sub":"root"}'), "twice"),
    "a claim twice within": (RSA.sign(b'{"a":{"sub":"ann","sub":"root"}}'), "twice"),
    "a deep payload": (RSA.sign(b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}"), ""),
    "NaN": (RSA.sign(b'{"exp":NaN}'), "NaN"),
    "Infinity": (RSA.sign(b'{"exp":Infinity}'), "Infinity"),
    "a number beyond all": (RSA.sign(b'{"exp":1e999}'), "too large"),
    "a number with thousands of digits": (RSA.sign(b'{"exp":' + b"9" * 5_000 + b"}"), ""),
    "a huge exp": (RSA.sign(claims(exp=10**30)), "exp is no time"),
    "exp in milliseconds": (RSA.sign(claims(exp=NOW_S * 1000)), "exp is no time"),
    "exp as text": (RSA.sign(claims(exp=str(NOW_S + 60))), "exp is no time"),
    "exp as a truth value": (RSA.sign(claims(exp=True)), "exp is no time"),
    "a negative exp": (RSA.sign(claims(exp=-1)), "exp is no time"),
    "nbf as an array": (RSA.sign(claims(nbf=[1])), "nbf is no time"),
    "expired": (RSA.sign(claims(exp=NOW_S)), "expired"),
    "not valid yet": (RSA.sign(claims(nbf=NOW_S + 1)), "not valid yet"),
    "issued in the future": (RSA.sign(claims(iat=NOW_S + 1)), "future"),
    "a subject that is no text": (RSA.sign(claims(sub=7)), "sub is no text"),
    "a number that no float holds": (RSA.sign(b'{"n":' + b"9" * 301 + b"}"), "too large"),
    "an issuer that is no text": (RSA.sign(claims(iss=[ISSUER])), "iss is no text"),
    "an audience that is no text": (RSA.sign(claims(aud={"greet": 1})), "aud"),
    "too long": (RSA.sign(claims(more="x" * MAX_TOKEN_CHARACTERS)), "longer than"),
    "not in ASCII": (f"{TOKEN}\N{LATIN SMALL LETTER E WITH ACUTE}", "no JWT"),
    "a lone surrogate": (f"{TOKEN}\ud800", "no JWT"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_and_no_message_holds_the_token(attack: str) -> None:
    token, word = ATTACKS[attack]
    denied = assert_refused(check(token), word)
    assert denied.reason == Reason.UNAUTHENTICATED
    assert challenge(denied) == 'Bearer realm="jwt.default", error="invalid_token"'
    for part in token.split("."):
        assert len(part) < 12 or part not in repr(denied)


def test_a_token_may_be_given_once_only() -> None:
    assert_refused(ask(build(), bearer(TOKEN), bearer(TOKEN)), "given once")


@pytest.mark.parametrize("value", ["Basic eA==", TOKEN, "Bearer", b"\x00"])
def test_a_header_that_is_no_bearer_token_is_refused(value: str | bytes) -> None:
    assert_refused(ask(build(), ("authorization", value)), "authorization: it is not Bearer and a token")


def test_a_missing_token_is_refused_without_an_error_in_the_challenge() -> None:
    denied = assert_refused(ask(build()), "no token in authorization")
    assert challenge(denied) == 'Bearer realm="jwt.default"'


def test_only_the_algorithms_that_are_named_are_accepted() -> None:
    settings = replace(SETTINGS, keys=keys_of(RSA, EC), algorithms=("ES256",))
    assert_allowed(check(EC.sign(claims()), settings))
    assert_refused(check(TOKEN, settings), "algorithm")


def test_a_key_verifies_its_own_algorithm_only() -> None:
    settings = replace(SETTINGS, keys=keys_of(RSA, alg="RS512"))
    assert_refused(check(TOKEN, settings), "another algorithm")
    assert_allowed(check(Signer("first", "RS512", RSA.private).sign(claims()), settings))


def test_of_many_keys_that_may_fit_few_are_tried() -> None:
    """A token without kid costs at most a few verifications, whatever the key set holds."""
    many = tuple(PublicKey(key.jwk, key.algorithms, f"k{index:03}") for index, key in enumerate(keys_of(OTHER) * 100))
    nameless = RSA.sign(claims(), kid=None)
    assert_refused(check(nameless, replace(SETTINGS, keys=(*many, *keys_of(RSA)))), "signature")
    assert_allowed(check(TOKEN, replace(SETTINGS, keys=(*many, *keys_of(RSA)))))


@given(st.text(max_size=300))
def test_any_text_is_refused_as_a_token(text: str) -> None:
    denied = check(text)
    assert isinstance(denied, Deny)
    denied.status()


@given(
    st.dictionaries(
        st.sampled_from(["exp", "nbf", "iat", "iss", "sub", "aud", "scope", "scp", "x"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_any_claims_get_a_verdict(given_claims: dict[str, object]) -> None:
    settings = replace(
        SETTINGS,
        audiences=("greet",),
        scopes=("read",),
        required_claims=(RequiredClaim("x.y", ("z",)),),
        inject=(HeaderTemplate("x-all", "{{ .token.Claims }} {{ .token.Claims.x }}"),),
    )
    for one in (SETTINGS, settings, replace(settings, audiences=(), scopes=(), required_claims=())):
        check(EC.sign(given_claims), replace(one, keys=keys_of(EC)))


# --- claims


def test_issuer_and_audience_are_checked_where_they_are_named() -> None:
    settings = replace(SETTINGS, issuers=(ISSUER, "https://second.example"), audiences=("other", "greet"))
    assert_allowed(check(TOKEN, settings))
    assert_allowed(check(RSA.sign(claims(aud=["x", "greet"])), settings))
    assert_refused(check(RSA.sign(claims(iss="https://evil.example")), settings), "issuer")
    denied = assert_refused(check(RSA.sign(claims(aud=["x"])), settings), "audience", Code.PERMISSION_DENIED)
    assert denied.reason == Reason.FORBIDDEN
    assert_refused(check(RSA.sign(claims(aud=[])), settings), "audience", Code.PERMISSION_DENIED)


def test_missing_claims_pass_as_in_edge_stack_unless_they_are_required() -> None:
    bare = RSA.sign({"sub": "ann"})
    settings = replace(SETTINGS, issuers=(ISSUER,), audiences=("greet",))
    assert_allowed(check(bare, settings))
    assert_refused(check(bare, replace(settings, issuer_required=True)), "no issuer")
    assert_refused(check(bare, replace(settings, audience_required=True)), "no audience", Code.PERMISSION_DENIED)
    for name, field in (("exp", "expires"), ("nbf", "not_before"), ("iat", "issued")):
        required = replace(settings, **{field: TimeRule(required=True)})  # type: ignore[arg-type]
        assert_refused(check(bare, required), f"no {name}")


@pytest.mark.parametrize(
    ("given_claims", "field"),
    [({"exp": NOW_S}, "expires"), ({"nbf": NOW_S + 30}, "not_before"), ({"iat": NOW_S + 30}, "issued")],
)
def test_clocks_may_differ_by_the_leeway(given_claims: dict[str, float], field: str) -> None:
    token = RSA.sign(claims(**given_claims))
    assert isinstance(check(token), Deny)
    assert_allowed(check(token, replace(SETTINGS, **{field: TimeRule(leeway_s=30)})))  # type: ignore[arg-type]
    assert isinstance(
        check(token, replace(SETTINGS, **{field: TimeRule(leeway_s=29)}), NOW_S + 29 * (field == "expires")), Deny
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given_claims",
    [{"scope": "read write"}, {"scope": ["write", "read"]}, {"scp": "read write"}, {"scp": ["read", "write", 1]}],
)
def test_scopes_are_text_or_array_under_both_names(given_claims: dict[str, object]) -> None:
    settings = replace(SETTINGS, scopes=("read", "write"))
    assert_allowed(check(RSA.sign(claims(**given_claims)), settings))


@pytest.mark.parametrize("scope", [None, "", "read", "read-write", ["read write"], 7, {"read": 1, "write": 1}])
def test_a_missing_scope_is_refused_with_the_scopes_that_are_needed(scope: object) -> None:
    settings = replace(SETTINGS, scopes=("read", "write"))
    denied = assert_refused(check(RSA.sign(claims(scope=scope)), settings), "read write", Code.PERMISSION_DENIED)
    assert challenge(denied) == 'Bearer realm="jwt.default", error="insufficient_scope", scope="read write"'


@pytest.mark.parametrize(
    ("required", "holds"),
    [
        (RequiredClaim("tenant"), True),
        (RequiredClaim("absent"), False),
        (RequiredClaim("tenant", ("a", "b")), True),
        (RequiredClaim("tenant", ("b",)), False),
        (RequiredClaim("groups", ("ops",)), True),
        (RequiredClaim("groups", ("admin",)), False),
        (RequiredClaim("realm.roles", ("dev",)), True),
        (RequiredClaim("https://x.example/role", ("r",)), True),
        (RequiredClaim("verified", ("true",)), True),
        (RequiredClaim("level", ("3",)), True),
        (RequiredClaim("tenant.x", ("a",)), False),
    ],
)
def test_required_claims(required: RequiredClaim, holds: bool) -> None:
    more = {"tenant": "a", "groups": ["dev", "ops"], "realm": {"roles": ["dev"]}, "verified": True, "level": 3}
    token = RSA.sign({**claims(**more), "https://x.example/role": "r"})
    verdict = check(token, replace(SETTINGS, required_claims=(required,)))
    assert_allowed(verdict) if holds else assert_refused(verdict, required.name, Code.PERMISSION_DENIED)


# --- what is remembered


class Remembering:
    """Policies of one worker, over reloads."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.services = PolicyServices()
        self.tokens = self.services.keep(TokenCache, None, lambda: TokenCache(max_bytes))

    def check(self, token: str, settings: JwtSettings = SETTINGS, at_s: float = NOW_S) -> Allow | Deny:
        return ask(build(settings, self.services), bearer(token), at_s=at_s)


def test_a_token_is_verified_once_also_over_reloads_and_for_other_mappings() -> None:
    worker = Remembering()
    first = worker.check(TOKEN)
    assert worker.check(TOKEN) is first
    assert (worker.tokens.counters.hits, worker.tokens.counters.misses) == (1, 1)


def test_a_remembered_token_still_expires() -> None:
    worker = Remembering()
    assert_allowed(worker.check(TOKEN))
    assert_allowed(worker.check(TOKEN, at_s=NOW_S + 3599.9))
    assert_refused(worker.check(TOKEN, at_s=NOW_S + 3600), "expired")
    assert_refused(worker.check(TOKEN, at_s=NOW_S - 2), "future")


def test_a_remembered_token_is_refused_when_its_key_is_gone_but_not_when_another_comes() -> None:
    worker = Remembering()
    assert_allowed(worker.check(TOKEN))
    assert_allowed(worker.check(TOKEN, replace(SETTINGS, keys=keys_of(RSA, OTHER))))
    assert worker.tokens.counters.hits == 1
    assert_refused(worker.check(TOKEN, replace(SETTINGS, keys=keys_of(OTHER))), "kid")


def test_a_token_that_one_filter_takes_is_not_taken_by_another() -> None:
    worker = Remembering()
    assert_allowed(worker.check(TOKEN))
    assert_refused(worker.check(TOKEN, replace(SETTINGS, audiences=("other",))), "audience", Code.PERMISSION_DENIED)
    assert_refused(worker.check(TOKEN, replace(SETTINGS, scopes=("x",))), "scope", Code.PERMISSION_DENIED)
    assert_refused(worker.check(TOKEN, replace(SETTINGS, algorithms=("PS256",))), "algorithm")


def test_the_memory_of_tokens_is_bounded() -> None:
    worker = Remembering(max_bytes=100_000)
    tokens = [EC.sign(claims(jti=str(index))) for index in range(200)]
    settings = replace(SETTINGS, keys=keys_of(EC))
    policy = build(settings, worker.services)
    for token in tokens:
        assert_allowed(ask(policy, bearer(token)))
    assert 10 < len(worker.tokens) < 50
    assert_allowed(ask(policy, bearer(tokens[0])))
    assert worker.tokens.counters.hits == 0
    assert_allowed(ask(policy, bearer(tokens[-1])))
    assert worker.tokens.counters.hits == 1


def test_what_is_found_without_a_digest_is_bounded() -> None:
    worker, policy = Remembering(), build(replace(SETTINGS, keys=keys_of(EC)), PolicyServices())
    token = EC.sign(claims())
    accepted = policy._verify(token, keys_of(EC))
    assert isinstance(accepted, Accepted)
    for number in range(2 * MOST_RECENT):
        worker.tokens.note(b"", f"{number}", accepted)
    assert (
        0 < sum(worker.tokens.recall(b"", f"{number}") is not None for number in range(2 * MOST_RECENT)) <= MOST_RECENT
    )
    worker.tokens.note(b"", "t" * (LONGEST_RECENT + 1), accepted)
    assert worker.tokens.recall(b"", "t" * (LONGEST_RECENT + 1)) is None


# --- metadata


def inject(value: str, name: str = "x-out") -> JwtSettings:
    return replace(SETTINGS, inject=(HeaderTemplate(name, value),))


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("fixed", "fixed"),
        ("{{ .token.Raw }}", TOKEN),
        ("{{ .token.Signature }}", SIGNATURE),
        ("{{ .token.Header.alg }}/{{ .token.Header.typ }}", "RS256/JWT"),
        ("{{ .token.Claims.sub }}", "ann"),
        ('{{ index .token.Claims "sub" }}', "ann"),
        ("{{ .token.Claims.absent }}", "<no value>"),
        ("{{ .token.Claims.iat }}", "1.799999999e+09"),
        ('{{ printf "%.0f" .token.Claims.iat }}', "1799999999"),
        ('{{ .httpRequestHeader.Get "X-Tenant" }}', "a"),
        ('{{ .httpRequestHeader.Get "X-Absent" }}', ""),
    ],
)
def test_headers_are_made_of_the_token_and_the_request(template: str, written: str) -> None:
    allowed = assert_allowed(ask(build(inject(template)), bearer(TOKEN), ("x-tenant", "a"), ("x-out", "forged")))
    assert allowed.add == (("x-out", written),)
    assert allowed.remove == ("x-out",)


def test_what_the_client_sent_under_an_injected_key_is_removed_also_where_nothing_is_set() -> None:
    template = '{{ if hasKey .token.Claims "email" }}{{ .token.Claims.email }}{{ else }}{{ doNotSet }}{{ end }}'
    allowed = assert_allowed(ask(build(inject(template)), bearer(TOKEN), ("x-out", "forged")))
    assert (allowed.add, allowed.remove) == ((), ("x-out",))


@pytest.mark.parametrize(
    ("claim", "written"),
    [
        ("J\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen", "J%C3%BCrgen"),
        ("a\r\nx-admin: 1", "a%0D%0Ax-admin: 1"),
        (" a ", "a"),
        ("\ud800", "?"),
    ],
)
def test_claims_that_no_header_can_carry_are_escaped(claim: str, written: str) -> None:
    allowed = assert_allowed(check(RSA.sign(claims(sub=claim)), inject("{{ .token.Claims.sub }}")))
    assert allowed.add == (("x-out", written),)


def test_a_binary_key_gets_the_bytes() -> None:
    allowed = assert_allowed(
        check(
            RSA.sign(claims(sub="\N{LATIN SMALL LETTER U WITH DIAERESIS}")), inject("{{ .token.Claims.sub }}", "x-bin")
        )
    )
    assert allowed.add == (("x-bin", b"\xc3\xbc"),)


def test_a_template_that_does_not_fit_the_token_refuses_it() -> None:
    deep = RSA.sign(b'{"sub":' + b"[" * 800 + b"]" * 800 + b"}")
    assert isinstance(check(deep, inject("{{ .token.Claims }}")), Deny)
    assert_refused(check(TOKEN, inject("{{ .token.Claims.sub.name }}")), "x-out cannot be made of it")


def test_a_token_whose_headers_no_request_can_have_is_refused() -> None:
    """It is no defect of the gateway: percent-encoded, a claim is three times as long."""
    long = tuple(HeaderTemplate(f"x-{number}", "{{ .token.Claims.name }}") for number in range(5))
    token = RSA.sign(claims(name="\N{SNOWMAN}" * 1500))
    assert_refused(check(token, replace(SETTINGS, inject=long)), "too long")


# --- refusals


def test_the_filters_own_refusal() -> None:
    settings = replace(
        SETTINGS,
        realm='a "realm"',
        error_headers=(
            HeaderTemplate("x-correlation-id", '{{ .httpRequestHeader.Get "X-Correlation-ID" }}'),
            HeaderTemplate("x-broken", "{{ .message.x }}"),
        ),
        error_body='{"message": {{ .message | json "" }}, "expired": {{ if .error.ValidationError }}'
        '{{ eq .error.ValidationError.Errors 16 }}{{ end }}, "status": {{ .status_code }}, "id": "{{ .requestId }}"}',
    )
    metadata = (("x-correlation-id", "c1"), ("x-request-id", "r1"))
    denied = assert_refused(ask(build(settings), bearer(RSA.sign(claims(exp=1))), *metadata), "expired")
    assert json.loads(denied.message) == {
        "message": "the token is refused: it has expired", "expired": True, "status": 401, "id": "r1",
    }  # fmt: skip
    assert dict(denied.metadata)["x-correlation-id"] == "c1"
    assert "x-broken" not in dict(denied.metadata)
    assert challenge(denied) == 'Bearer realm="a \\"realm\\"", error="invalid_token"'


def test_without_keys_calls_are_refused_as_unavailable_not_as_unauthenticated() -> None:
    denied = build_jwt(KEY, replace(SETTINGS, keys=(), no_keys="those at https://i.example are late"), PolicyServices())
    assert isinstance(denied, Deny)
    assert (denied.reason, denied.status().code) == (Reason.NO_TOKEN_KEYS, Code.UNAVAILABLE)
    assert "Filter jwt.default" in denied.message


def test_nothing_shows_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    worker = Remembering()
    settings = inject("{{ .token.Raw }}")
    verdict, asked = worker.check(TOKEN, settings), request_of(("authorization", f"Bearer {TOKEN}"))
    assert SIGNATURE not in repr((worker, build(settings, worker.services), settings))
    assert SIGNATURE not in repr((verdict, asked, asked.request))
