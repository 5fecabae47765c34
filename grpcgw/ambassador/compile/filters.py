"""Compiles Filters: the settings of the policy that each stands for, by its type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grpcgw.ambassador.compile.guards import GuardContext
from grpcgw.ambassador.compile.metadata_edits import check_key
from grpcgw.ambassador.spec.filter_specs import FIELDS, ApiKeySpec, FilterSpec, FilterType
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.ambassador.spec.secret_names import name_api_key_secrets
from grpcgw.model.api_keys import DEFAULT_HEADER, make_api_keys
from grpcgw.model.cluster import Cluster
from grpcgw.model.objects import KubeObject, ObjectKey
from grpcgw.model.route import PolicySettings

_REFUSED = "the calls that need it are refused"


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


def _compile_api_key(
    obj: KubeObject, spec: FilterSpec, context: GuardContext, findings: Findings
) -> CompiledFilter | None:
    settings = spec.APIKey or spec.apikey
    assert settings is not None
    header = (settings.httpHeader or DEFAULT_HEADER).lower()
    check_key(header, findings, spec.field, "httpHeader")
    keys = _read_keys(obj, spec.field, settings, context, findings)
    if not keys:
        findings.error("none of its Secrets has a key", spec.field, "keys")
        return None
    return CompiledFilter(make_api_keys(str(obj.key), header, keys, bool(settings.forwardHeader)))


def _read_keys(
    obj: KubeObject, field: str, settings: ApiKeySpec, context: GuardContext, findings: Findings
) -> dict[str, list[bytes]]:
    """The keys of all Secrets, by their names in them."""
    keys: dict[str, list[bytes]] = {}
    for index, secret in enumerate(name_api_key_secrets(settings, obj.key.namespace)):
        for name, value in context.secrets.find_api_keys(secret, findings, field, "keys", index).items():
            key = value.rstrip(b"\r\n")  # which no header has, and many a file does
            if key:
                keys.setdefault(name, []).append(key)
            else:
                findings.fault(f"{name} in {secret} is empty, and no key", field, "keys", index)
    return keys


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
    "JWT": _refuse("a Filter of this type is not supported yet"),
    "External": _refuse("a Filter of this type is not supported yet"),
    "Plugin": _refuse("a Filter of this type is not supported yet"),
    "APIKey": _compile_api_key,
    "OAuth2": _refuse(
        "OAuth2 is a browser's flow of redirects and cookies, which no gRPC client can go through; have clients send"
        " their tokens, and verify them by a Filter of type JWT"
    ),
    "Internal": _refuse("Internal is for Edge Stack's own filters, which are not here"),
}
