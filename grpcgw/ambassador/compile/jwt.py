"""Compiles a Filter of type JWT to the settings of the policy `jwt`, with the keys that verify its tokens."""

from __future__ import annotations

from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.spec.durations import parse_duration_ms
from grpcgw.ambassador.spec.jwt_spec import DEFAULT_SECRET_KEY, HeaderTemplateSpec, JwtErrorSpec, JwtSpec
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.go_template import TemplateError, parse_template
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.header_values import InvalidHeader, check_header_name, is_reserved
from grpcgw.model.jwt import ALGORITHMS, JwtSettings, PublicKey, RequiredClaim, TimeRule
from grpcgw.model.key_set_objects import read_key_set, show_url
from grpcgw.model.objects import ObjectKey

_REFUSED = "the calls that need a token are refused"
_OF_TOKEN = frozenset({"token", "httpRequestHeader"})
_OF_REFUSAL = frozenset(
    {"", "status_code", "httpStatus", "message", "error", "request_id", "requestId", "httpRequestHeader"}
)


def compile_jwt(
    spec: JwtSpec, filter_key: ObjectKey, secrets: Secrets, findings: Findings, *path: str
) -> JwtSettings | None:
    """None: an error is in `findings`. `path`: where the spec is in the Filter (`JWT`)."""
    response = spec.errorResponse or JwtErrorSpec()
    _check_template(response.bodyTemplate or "", _OF_REFUSAL, findings, *path, "errorResponse", "bodyTemplate")
    inject = _compile_headers(spec.injectRequestHeaders, _OF_TOKEN, findings, *path, "injectRequestHeaders")
    headers = _compile_headers(response.headers, _OF_REFUSAL, findings, *path, "errorResponse", "headers")
    algorithms = _compile_algorithms(spec, findings, *path)
    header = _compile_token_header(spec, findings, *path)
    keys, no_keys = _find_keys(spec, filter_key, secrets, findings, *path)
    if findings.rejected:
        return None
    source = spec.key_set()
    return JwtSettings(
        name=str(filter_key),
        keys=keys,
        no_keys=no_keys,
        key_set="" if source is None else source.id,
        algorithms=algorithms,
        issuers=tuple(spec.issuer or ()),
        issuer_required=bool(spec.requireIssuer),
        audiences=tuple(spec.audience or ()),
        audience_required=bool(spec.requireAudience),
        expires=_make_rule(spec.requireExpiresAt, spec.leewayForExpiresAt),
        not_before=_make_rule(spec.requireNotBefore, spec.leewayForNotBefore),
        issued=_make_rule(spec.requireIssuedAt, spec.leewayForIssuedAt),
        required_claims=tuple(RequiredClaim(one.name, tuple(one.values or ())) for one in spec.requiredClaims or ()),
        header=header,
        scheme="Bearer" if header == "authorization" else "",
        token_optional=bool(spec.tokenOptional),
        inject=inject,
        realm=response.realm or f"{filter_key.name}.{filter_key.namespace}",
        error_headers=tuple(one for one in headers if not is_reserved(one.name)),
        error_body=response.bodyTemplate or "",
    )


def _make_rule(required: bool | None, leeway: str | None) -> TimeRule:
    return TimeRule(bool(required), 0.0 if leeway is None else parse_duration_ms(leeway) / 1000)


def _compile_algorithms(spec: JwtSpec, findings: Findings, *path: str) -> tuple[str, ...]:
    given = spec.validAlgorithms
    if given is None:
        return ALGORITHMS
    path = (*path, "validAlgorithms")
    if "none" in given:
        findings.error("none accepts tokens that anybody can make; name the algorithms of your issuer", *path)
    secret = [one for one in given if one.startswith("HS")]
    if secret:
        findings.error(f"{', '.join(secret)}: tokens are verified with public keys only; use RS256 or ES256", *path)
    unknown = [one for one in given if one not in (*ALGORITHMS, "none", *secret)]
    if unknown:
        findings.error(f"{', '.join(unknown)[:60]}: unknown; known are {', '.join(ALGORITHMS)}", *path)
    if not given:
        findings.error("no algorithm is accepted; leave the field out, or name one", *path)
    return tuple(dict.fromkeys(given))


def _compile_token_header(spec: JwtSpec, findings: Findings, *path: str) -> str:
    try:
        header = check_header_name(spec.tokenHeader or "authorization")
    except InvalidHeader as error:
        findings.error(str(error), *path, "tokenHeader")
        return ""
    if header.endswith("-bin") or is_reserved(header):
        findings.error(f"{header} cannot carry a token", *path, "tokenHeader")
    return header


def _compile_headers(
    given: list[HeaderTemplateSpec] | None, fields: frozenset[str], findings: Findings, *path: str
) -> tuple[HeaderTemplate, ...]:
    made: dict[str, HeaderTemplate] = {}
    for index, one in enumerate(given or ()):
        try:
            name = check_header_name(one.name)
        except InvalidHeader as error:
            findings.error(str(error), *path, str(index), "name")
            continue
        _check_template(one.value, fields, findings, *path, str(index), "value")
        if is_reserved(name):
            _note_reserved(name, fields, findings, *path, str(index), "name")
        made[name] = HeaderTemplate(name, one.value)
    return tuple(made.values())


def _note_reserved(name: str, fields: frozenset[str], findings: Findings, *path: str) -> None:
    if fields is _OF_REFUSAL:
        findings.notice(f"{name} has no effect: a refusal is a gRPC status", *path)
    else:
        findings.error(f"{name} is set by gRPC itself on each connection; choose another name", *path)


def _check_template(text: str, fields: frozenset[str], findings: Findings, *path: str) -> None:
    try:
        unknown = parse_template(text).fields() - fields
    except TemplateError as error:
        findings.error(f"the template cannot be used: {error}", *path)
        return
    if unknown:
        findings.error(f"the template asks for .{min(unknown)}, which there is not", *path)


def _find_keys(
    spec: JwtSpec, filter_key: ObjectKey, secrets: Secrets, findings: Findings, *path: str
) -> tuple[tuple[PublicKey, ...], str]:
    """The keys, or why there are none yet. Calls are refused then; the rest of the gateway serves."""
    source = spec.key_set()
    if source is None:
        return _find_keys_in_secret(spec, filter_key, secrets, findings, *path)
    path = (*path, "jwksURI")
    if spec.insecureTLS:
        findings.notice("insecureTLS: the server's certificate is not checked, so others can send keys", *path)
    url, obj = show_url(source.key), secrets.find_key_set(source.key)
    fetched = None if obj is None else read_key_set(obj)
    if fetched is None:
        findings.fault(f"the keys at {url} have not been fetched yet; until they are, {_REFUSED}", *path)
        return (), f"those at {url} have not been fetched yet"
    if fetched.not_fetched:
        findings.notice(f"the keys at {url} are fetched by a running gateway only, and not checked here", *path)
        return (), f"those at {url} are not fetched by this command"
    if fetched.fault and fetched.keys:
        findings.fault(
            f"the keys at {url} cannot be fetched ({fetched.fault}); those of the last fetch are used", *path
        )
    elif fetched.fault:
        findings.fault(f"the keys at {url} cannot be fetched ({fetched.fault}); until they are, {_REFUSED}", *path)
    return fetched.keys, "" if fetched.keys else f"those at {url} cannot be fetched"


def _find_keys_in_secret(
    spec: JwtSpec, filter_key: ObjectKey, secrets: Secrets, findings: Findings, *path: str
) -> tuple[tuple[PublicKey, ...], str]:
    key, given = spec.secret(filter_key.namespace), spec.jwksSecret
    assert key is not None
    assert given is not None
    return secrets.find_token_keys(key, given.key or DEFAULT_SECRET_KEY, findings, *path, "jwksSecret"), ""
