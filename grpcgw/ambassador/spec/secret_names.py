"""The Secrets that a TLSContext, Host or Filter names.

Used by the compiler to look them up, and by sources that read only the Secrets that are named.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.ambassador.spec.filter_specs import ApiKeySpec, FilterSpec
from grpcgw.ambassador.spec.host_specs import HostSpec, TLSContextSpec
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.model.objects import KubeObject, ObjectKey

NAMING_KINDS = frozenset({"TLSContext", "Host", "Filter"})


@dataclass(frozen=True, slots=True)
class SecretNames:
    """None: no such Secret is named."""

    key_pair: ObjectKey | None
    authorities: ObjectKey | None
    revocations: ObjectKey | None


def name_secrets_of_context(spec: TLSContextSpec, namespace: str) -> SecretNames:
    namespacing = spec.secret_namespacing is not False
    return SecretNames(
        name_secret(spec.secret, namespace, namespacing),
        name_secret(spec.ca_secret, namespace, namespacing),
        name_secret(spec.crl_secret or spec.v3CRLSecret, namespace, namespacing),
    )


def name_secrets_of_host(spec: HostSpec, namespace: str) -> SecretNames:
    """Its own; those of the TLSContext it names are the TLSContext's."""
    secret = spec.tlsSecret
    return SecretNames(
        None if secret is None else ObjectKey("Secret", secret.namespace or namespace, secret.name),
        None if spec.tls is None else name_secret(spec.tls.ca_secret, namespace),
        None if spec.tls is None else name_secret(spec.tls.crl_secret or spec.tls.v3CRLSecret, namespace),
    )


def name_api_key_secrets(spec: ApiKeySpec, namespace: str) -> list[ObjectKey]:
    """In their order. `namespace`: the Filter's."""
    return [ObjectKey("Secret", one.secretNamespace or namespace, one.secretName) for one in spec.keys]


def name_secret(text: str | None, namespace: str, namespacing: bool = True) -> ObjectKey | None:
    """The Secret that `name[.namespace]` means; without `namespacing`, dots belong to the name."""
    if not text:
        return None
    name, dot, other = text.rpartition(".")
    if not dot or not namespacing:
        return ObjectKey("Secret", namespace, text)
    return ObjectKey("Secret", other, name)


def find_named_secrets(obj: KubeObject) -> frozenset[ObjectKey] | None:
    """All Secrets that an object of `NAMING_KINDS` names; None: it is too broken to tell (its compilation says why)."""
    if obj.key.kind == "Filter":
        return _find_secrets_of_filter(obj)
    named = _read_names(obj)
    if named is None:
        return None
    return frozenset(key for key in (named.key_pair, named.authorities, named.revocations) if key is not None)


def _find_secrets_of_filter(obj: KubeObject) -> frozenset[ObjectKey] | None:
    spec = parse_spec(obj, FilterSpec, Findings(obj))
    if spec is None:
        return None
    api_key, token = spec.APIKey or spec.apikey, spec.JWT or spec.jwt
    external, namespace = spec.external_settings, obj.key.namespace
    keys = [] if api_key is None else name_api_key_secrets(api_key, namespace)
    keys_of_tokens = None if token is None else token.secret(namespace)
    tls = None if external is None else external.tlsConfig
    named = [*keys, keys_of_tokens, *(() if tls is None else tls.secrets(namespace))]
    return frozenset(one for one in named if one is not None)


def _read_names(obj: KubeObject) -> SecretNames | None:
    findings = Findings(obj)
    if obj.key.kind == "TLSContext":
        context = parse_spec(obj, TLSContextSpec, findings)
        return None if context is None else name_secrets_of_context(context, obj.key.namespace)
    host = parse_spec(obj, HostSpec, findings)
    return None if host is None else name_secrets_of_host(host, obj.key.namespace)
