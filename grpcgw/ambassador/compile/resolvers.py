"""Compiles the resolvers that Mappings can name: their kinds, and the addresses of Consul agents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.ambassador.spec.resources import ConsulResolverSpec, ResolverSpec
from grpcgw.ambassador.spec.service import InvalidService, parse_service
from grpcgw.model.cluster import ConsulAgent, ResolverKind
from grpcgw.model.environment import fill_in
from grpcgw.model.objects import KubeObject

DEFAULT_RESOLVER = "kubernetes-service"
DEFAULT_CONSUL_ADDRESS = "127.0.0.1:8500"
_CONSUL_PORT = 8500
_OPEN_TO_ALL = ("HOST_IP",)
"""The variables that objects of a cluster may read: the address of the node, which runs an agent."""


@dataclass(frozen=True, slots=True)
class ResolverChoice:
    name: str
    kind: ResolverKind
    consul: ConsulAgent | None = None


_CONSUL = ConsulAgent(DEFAULT_CONSUL_ADDRESS, "dc1")
_BUILT_IN = (
    ResolverChoice(DEFAULT_RESOLVER, ResolverKind.KUBERNETES_SERVICE),
    ResolverChoice("endpoint", ResolverKind.KUBERNETES_ENDPOINT),
    ResolverChoice("kubernetes-endpoint", ResolverKind.KUBERNETES_ENDPOINT),
    ResolverChoice("consul", ResolverKind.CONSUL, _CONSUL),
    ResolverChoice("consul-endpoint", ResolverKind.CONSUL, _CONSUL),
)
"""They exist without being declared."""

_ALIASES = (("endpoint", "kubernetes-endpoint"), ("consul", "consul-endpoint"))
"""Both names mean a resolver declared under either (Ambassador's rule)."""


def compile_resolvers(
    declared: Iterable[KubeObject], environment: Mapping[str, str], generations: Generations
) -> dict[str, ResolverChoice]:
    """By name. Names are global across namespaces, as in Ambassador. `environment`: the gateway's."""

    def build(obj: KubeObject, findings: Findings) -> ResolverChoice | None:
        return _build(obj, environment, findings)

    found: dict[str, ResolverChoice] = {}
    kinds: dict[str, str] = {}
    for obj in declared:
        kind, name = obj.key.kind, obj.key.name
        taken = kinds.get(name, kind)
        if taken != kind:
            generations.leave_out(obj, f"the name is taken by a {taken}; resolver names are global, choose another")
            continue
        resolver = generations.serve(obj, build)
        if resolver is not None:
            kinds[name] = kind
            found.setdefault(name, resolver)
    for one, other in _ALIASES:
        if (one in found) != (other in found):
            found[one] = found[other] = found.get(one) or found[other]
    return {**{resolver.name: resolver for resolver in _BUILT_IN}, **found}


def _build(obj: KubeObject, environment: Mapping[str, str], findings: Findings) -> ResolverChoice | None:
    kind = ResolverKind(obj.key.kind)
    if kind is not ResolverKind.CONSUL:
        return ResolverChoice(obj.key.name, kind) if parse_spec(obj, ResolverSpec, findings) is not None else None
    spec = parse_spec(obj, ConsulResolverSpec, findings)
    if spec is None:
        return None
    address = _compile_address(spec.address or DEFAULT_CONSUL_ADDRESS, environment, findings)
    filled = tuple(one for _, one in obj.source.filled)
    return ResolverChoice(obj.key.name, kind, ConsulAgent(address, spec.datacenter, filled))


def _compile_address(text: str, environment: Mapping[str, str], findings: Findings) -> str:
    """`[http(s)://]host:port`. Variables in files are already substituted; a remaining one has no value."""
    given = fill_in(text, {name: environment[name] for name in _OPEN_TO_ALL if name in environment})
    if given is not None and given.missing:
        findings.error(
            f"{text!r} names {', '.join(given.missing)}, which has no value: files have the gateway's environment,"
            f" objects of a cluster have {', '.join(_OPEN_TO_ALL)} alone",
            "address",
        )
        return text
    filled = text if given is None else given.text
    scheme, separator, rest = filled.rpartition("://")
    if "@" in filled:  # nothing of it is quoted, it may be a password
        findings.error("has an '@': name host and port alone; CONSUL_HTTP_TOKEN has the token", "address")
        return filled
    if scheme not in ("", "http", "https"):
        findings.error(f"{filled!r} has the unknown scheme {scheme!r}; use http, https or none", "address")
    try:
        parsed = parse_service(rest, namespace="")
    except InvalidService as error:
        findings.error(str(error), "address")
        return filled
    if parsed.port_given:
        return filled
    return f"{scheme}{separator}{rest}:{_CONSUL_PORT}"
