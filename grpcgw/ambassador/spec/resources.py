"""The kinds grpcgw reads, with the typed model of each, and Ambassador's kinds that have no effect yet."""

from __future__ import annotations

from typing import Annotated

from grpcgw.ambassador.spec.auth_specs import AuthServiceSpec
from grpcgw.ambassador.spec.authorization_spec import AuthorizationPolicySpec
from grpcgw.ambassador.spec.fields import AmbassadorId, Resource, Text, served
from grpcgw.ambassador.spec.filter_specs import FilterPolicySpec, FilterSpec
from grpcgw.ambassador.spec.host_specs import HostSpec, ListenerSpec, TLSContextSpec
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.module_spec import ModuleSpec
from grpcgw.ambassador.spec.parse import OWN_GROUP
from grpcgw.ambassador.spec.rate_limit_service_spec import RateLimitServiceSpec
from grpcgw.ambassador.spec.rate_limit_specs import RateLimitSpec

EDGE_STACK_GROUP = "gateway.getambassador.io"
API_GROUPS = frozenset({"getambassador.io", EDGE_STACK_GROUP, "x.getambassador.io", "ambassador", OWN_GROUP})
"""The second is Edge Stack's, for Filters; the fourth the older name that annotations and files still have."""


class ResolverSpec(Resource):
    """KubernetesEndpointResolver and KubernetesServiceResolver: they have only a name and a kind."""

    ambassador_id: AmbassadorId = None


class ConsulResolverSpec(Resource):
    ambassador_id: AmbassadorId = None
    address: Annotated[
        str | None,
        served("`host[:port]` of a Consul agent, with `${HOST_IP}` in a cluster too; default 127.0.0.1:8500"),
    ] = None
    datacenter: Annotated[Text, served("required; the datacenter whose instances serve")]


MODELS: dict[str, type[Resource]] = {
    "Mapping": MappingSpec,
    "KubernetesEndpointResolver": ResolverSpec,
    "KubernetesServiceResolver": ResolverSpec,
    "ConsulResolver": ConsulResolverSpec,
    "Module": ModuleSpec,
    "TLSContext": TLSContextSpec,
    "Host": HostSpec,
    "Listener": ListenerSpec,
    "Filter": FilterSpec,
    "FilterPolicy": FilterPolicySpec,
    "AuthService": AuthServiceSpec,
    "AuthorizationPolicy": AuthorizationPolicySpec,
    "RateLimit": RateLimitSpec,
    "RateLimitService": RateLimitServiceSpec,
}
"""The kinds that are read, by name."""

PLANNED_KINDS = {
    "AmbassadorInstallation": "the gateway is installed by its manifests",
    "DevPortal": "there is no developer portal",
    "LogService": "calls are not logged remotely",
    "Project": "projects are not built",
    "ProjectController": "projects are not built",
    "ProjectRevision": "projects are not built",
    "TCPMapping": "only gRPC is served",
    "TracingService": "calls are not traced",
}
"""Ambassador's kinds that are known and have no effect yet, with what that means; see `guards` for others."""
