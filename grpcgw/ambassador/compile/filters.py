"""Compiles Filters: the settings of the policy that each stands for, by its type."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from grpcgw.ambassador.compile.auth_services import compile_auth_service
from grpcgw.ambassador.compile.guards import GuardContext
from grpcgw.ambassador.compile.jwt import compile_jwt
from grpcgw.ambassador.compile.metadata_edits import check_key
from grpcgw.ambassador.spec.external_specs import ServiceTlsSpec
from grpcgw.ambassador.spec.filter_specs import FIELDS, ApiKeySpec, FilterSpec, FilterType
from grpcgw.ambassador.spec.jwt_spec import JwtArgumentsSpec
from grpcgw.ambassador.spec.parse import Findings, parse_spec, parse_value
from grpcgw.ambassador.spec.secret_names import name_api_key_secrets
from grpcgw.model.api_keys import DEFAULT_HEADER, make_api_keys
from grpcgw.model.cluster import Cluster, UpstreamTls
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.objects import KubeObject, ObjectKey
from grpcgw.model.plugins import make_plugin
from grpcgw.model.route import PolicySettings, Unenforced

_REFUSED = "the calls that need it are refused"
_TEXT = re.compile(rb"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    settings: PolicySettings
    clusters: tuple[Cluster, ...] = ()


FilterCompiler = Callable[[KubeObject, FilterSpec, GuardContext, Findings], CompiledFilter | None]
"""None, or errors in the findings: it cannot be enforced."""


def compile_filters(objects: Sequence[KubeObject], context: GuardContext) -> dict[ObjectKey, CompiledFilter]:
    """Those that can be enforced."""

    def build(obj: KubeObject, findings: Findings) -> CompiledFilter | None:
        spec = parse_spec(obj, FilterSpec, findings)
        return None if spec is None else _COMPILERS[FIELDS[spec.field]](obj, spec, context, findings)

    compiled = {obj.key: context.generations.serve(obj, build, _REFUSED) for obj in objects}
    return {key: one for key, one in compiled.items() if one is not None}


def _compile_jwt(obj: KubeObject, spec: FilterSpec, context: GuardContext, findings: Findings) -> CompiledFilter | None:
    given = spec.JWT or spec.jwt
    assert given is not None
    settings = compile_jwt(given, obj.key, context.secrets, findings, spec.field)
    return None if settings is None else CompiledFilter(settings)


def _compile_external(
    obj: KubeObject, spec: FilterSpec, context: GuardContext, findings: Findings
) -> CompiledFilter | None:
    given, own = spec.external_settings, findings.of_part(spec.field)
    assert given is not None
    if given.tlsConfig is not None:
        name = f"tlsConfig of {obj.key}"
        contexts = {
            **context.around.tls_contexts,
            ObjectKey("TLSContext", obj.key.namespace, name): _compile_tls(name, obj, given.tlsConfig, context, own),
        }
        context = replace(context, around=replace(context.around, tls_contexts=contexts))
        given = given.model_copy(update={"tls": name})
    compiled = compile_auth_service(obj, given, context, own)
    findings.add(own)
    return None if compiled is None else CompiledFilter(compiled.settings, (compiled.cluster,))


def _compile_tls(
    name: str, obj: KubeObject, spec: ServiceTlsSpec, context: GuardContext, findings: Findings
) -> UpstreamTls:
    certificate, authorities = spec.secrets(obj.key.namespace)
    pair = context.secrets.find_key_pair(certificate, findings, "tlsConfig", "certificate")
    return UpstreamTls(
        name=name,
        ca=context.secrets.find_authorities(authorities, findings, "tlsConfig", "caCertificate"),
        certificate_chain=pair.chain if pair else b"",
        private_key=pair.private_key if pair else b"",
        not_after_s=pair.expires_at.timestamp() if pair else 0.0,
    )


def _compile_api_key(
    obj: KubeObject, spec: FilterSpec, context: GuardContext, findings: Findings
) -> CompiledFilter | None:
    settings = spec.APIKey or spec.apikey
    assert settings is not None
    header = (settings.httpHeader or DEFAULT_HEADER).lower()
    check_key(header, findings, spec.field, "httpHeader")
    keys = _read_keys(obj, spec.field, settings, header, context, findings)
    if not keys:
        findings.error("none of its Secrets has a key", spec.field, "keys")
        return None
    return CompiledFilter(make_api_keys(str(obj.key), header, keys, bool(settings.forwardHeader)))


def _read_keys(
    obj: KubeObject, field: str, settings: ApiKeySpec, header: str, context: GuardContext, findings: Findings
) -> dict[str, list[bytes]]:
    """The keys of all Secrets, by their names in them, as `header` has them."""
    keys: dict[str, list[bytes]] = {}
    for index, secret in enumerate(name_api_key_secrets(settings, obj.key.namespace)):
        for name, value in context.secrets.find_api_keys(secret, findings, field, "keys", index).items():
            is_text = not header.endswith("-bin")
            key = value.strip(b" \t\r\n") if is_text else value  # spaces are in many a file, and around no header
            if not key:
                findings.fault(f"{name} in {secret} is empty, and no key", field, "keys", index)
            elif is_text and not _TEXT.fullmatch(key):
                findings.fault(
                    f"{name} in {secret} has characters that no header can have, and is no key", field, "keys", index
                )
            else:
                keys.setdefault(name, []).append(key)
    return keys


def apply_arguments(
    settings: PolicySettings, arguments: Mapping[str, object], findings: Findings, *at: str | int
) -> PolicySettings:
    """The settings of a Filter with the `arguments` that a FilterPolicy's rule has for it."""
    if isinstance(settings, JwtSettings):
        rest = {name: value for name, value in arguments.items() if name != "type"}
        in_field = rest.keys() == {"jwt"}  # as in `gateway.getambassador.io/v1alpha1`
        given = rest["jwt"] if in_field else rest
        spec = parse_value(given, JwtArgumentsSpec, findings, *at, *(("jwt",) if in_field else ()))
        return settings if spec is None else replace(settings, scopes=spec.needed())
    if arguments and not isinstance(settings, Unenforced):
        findings.notice("has no effect: the Filter takes no arguments", *at)
    return settings


def _compile_plugin(
    obj: KubeObject, spec: FilterSpec, context: GuardContext, findings: Findings
) -> CompiledFilter | None:
    """The class is loaded where the policy is built, and what is wrong with it stands at the Filter."""
    settings = spec.Plugin or spec.plugin
    assert settings is not None
    made = make_plugin(str(obj.key), settings.name, settings.config or {}, settings.timeout_ms, obj.key)
    return CompiledFilter(made)


def _refuse(why: str) -> FilterCompiler:
    def compile_none(
        obj: KubeObject, spec: FilterSpec, context: GuardContext, findings: Findings
    ) -> CompiledFilter | None:
        if context.serve_without:
            findings.notice(f"{why}: calls are not filtered by it", spec.field)
        else:
            findings.error(why, spec.field)
        return None

    return compile_none


_COMPILERS: dict[FilterType, FilterCompiler] = {
    "JWT": _compile_jwt,
    "External": _compile_external,
    "Plugin": _compile_plugin,
    "APIKey": _compile_api_key,
    "OAuth2": _refuse(
        "OAuth2 is a browser's flow of redirects and cookies, which no gRPC client can go through; have clients fetch"
        " their tokens themselves (also those of grantType ClientCredentials and Password) and send them as"
        " authorization: Bearer, and verify them by a Filter of type JWT with the issuer's jwksURI"
    ),
    "Internal": _refuse("Internal is for Edge Stack's own filters, which are not here"),
}
