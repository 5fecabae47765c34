"""Ambassador's kinds as discovery needs to know them (`model.dialect`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from grpcgw.ambassador.compile.misspelt import RESTRICTING_KINDS
from grpcgw.ambassador.spec.certificate_paths import find_named_files
from grpcgw.ambassador.spec.file_form import normalize
from grpcgw.ambassador.spec.jwt_spec import find_named_key_sets
from grpcgw.ambassador.spec.parse import OWN_GROUP, is_meant_for
from grpcgw.ambassador.spec.resources import API_GROUPS, EDGE_STACK_GROUP, MODELS
from grpcgw.ambassador.spec.secret_names import NAMING_KINDS, find_named_secrets
from grpcgw.model.dialect import ApiResource, DialectObjects, WatchedKind
from grpcgw.model.objects import KubeObject

T = TypeVar("T")

API_GROUP = "getambassador.io"
VERSIONS = ("v3alpha1", "v2", "v1")
"""In order of preference. A cluster serves the same objects in all of its versions, so one is read. The newest loses
least: Ambassador's conversion to v2 flattens some fields, and Ambassador 4 converts nothing unless configured to.
"""


def _watch(kind: str, plural: str) -> WatchedKind:
    return WatchedKind(tuple(ApiResource(API_GROUP, version, kind, plural) for version in VERSIONS))


def _watch_guard(kind: str, plural: str) -> WatchedKind:
    """A kind that decides on calls. If it is installed it must be read: without that right no call is served."""
    return replace(_watch(kind, plural), rare=True)


def _watch_firewall(kind: str, plural: str) -> WatchedKind:
    return WatchedKind((ApiResource(EDGE_STACK_GROUP, "v1alpha1", kind, plural),), rare=True)


def _watch_second(kind: str, plural: str) -> WatchedKind:
    """Edge Stack has its Filters in a group of its own, too: whoever writes them there expects them to decide."""
    resource = ApiResource(EDGE_STACK_GROUP, "v1alpha1", kind, plural, is_second=True)
    return WatchedKind((resource,), rare=True)


WATCHED = (
    _watch("Mapping", "mappings"),
    _watch("Module", "modules"),
    _watch("KubernetesEndpointResolver", "kubernetesendpointresolvers"),
    _watch("KubernetesServiceResolver", "kubernetesserviceresolvers"),
    _watch("ConsulResolver", "consulresolvers"),
    _watch("TLSContext", "tlscontexts"),
    _watch("Host", "hosts"),
    WatchedKind((ApiResource(API_GROUP, "v3alpha1", "Listener", "listeners"),)),
    _watch_guard("AuthService", "authservices"),
    _watch_guard("RateLimitService", "ratelimitservices"),
    _watch_guard("Filter", "filters"),
    _watch_guard("FilterPolicy", "filterpolicies"),
    _watch_second("Filter", "filters"),
    _watch_second("FilterPolicy", "filterpolicies"),
    _watch_guard("RateLimit", "ratelimits"),
    _watch_firewall("WebApplicationFirewall", "webapplicationfirewalls"),
    _watch_firewall("WebApplicationFirewallPolicy", "webapplicationfirewallpolicies"),
    WatchedKind((ApiResource(OWN_GROUP, "v1alpha1", "AuthorizationPolicy", "authorizationpolicies"),), rare=True),
)


def make_dialect_objects(ambassador_id: str = "default") -> DialectObjects:
    """For the gateway with this id: objects of other gateways name no Secrets and no files."""

    def is_for_gateway(obj: KubeObject) -> bool:
        return is_meant_for(obj, ambassador_id)

    def of_gateway(find: Callable[[KubeObject], frozenset[T] | None]) -> Callable[[KubeObject], frozenset[T] | None]:
        return lambda obj: find(obj) if is_for_gateway(obj) else frozenset()

    return DialectObjects(
        api_groups=API_GROUPS,
        watched=WATCHED,
        kinds=frozenset(MODELS),
        restricting_kinds=RESTRICTING_KINDS,
        cumulative_kinds=RESTRICTING_KINDS - {"Listener"},  # a Listener only opens a port
        singletons={"Module": "ambassador"},
        placeholder_version=f"{API_GROUP}/v3alpha1",
        annotation=f"{API_GROUP}/config",
        normalize=normalize,
        naming_kinds=NAMING_KINDS,
        find_secrets=of_gateway(find_named_secrets),
        find_files=of_gateway(find_named_files),
        find_key_sets=of_gateway(find_named_key_sets),
        gateway_field="ambassador_id",
        is_meant_for=is_for_gateway,
    )
