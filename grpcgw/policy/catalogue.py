"""The catalogue of policies: one line each, and the order in which the policies of a route run. Pure.

A new policy is one file in this package (a folder where it needs several), its settings in the model, and one line in
`CATALOGUE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from grpcgw.model.objects import ObjectKey
from grpcgw.model.plugins import PluginSettings
from grpcgw.model.route import Destination, PolicySettings, Route
from grpcgw.model.status import Reason
from grpcgw.policy import api_key, rbac_policy, unenforced
from grpcgw.policy.chain import BuiltPolicy
from grpcgw.policy.contract import Policy
from grpcgw.policy.ext_authz import ext_authz_policy
from grpcgw.policy.filter_policy import FilterPolicy, build_filter_policy
from grpcgw.policy.limits import concurrency, rate_limit, remote_rate_limit
from grpcgw.policy.plugin import build_plugin
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Deny


class Stage(IntEnum):
    """The order of policies: by stage, and within a stage in the order of the settings."""

    IDENTITY = 1
    """Who calls: client certificate, API key, JWT; FilterPolicies, whatever their filters are."""
    REMOTE_AUTHORIZATION = 2
    """AuthService, External filter (ext_authz)."""
    AUTHORIZATION = 3
    """Rules: may this identity call this method."""
    LIMITS = 4
    """Rates and concurrency: local, then shared."""
    OWN = 5
    """The user's own policies."""


EVERY_MAPPING = ObjectKey("every Mapping", "", "")
"""In the place of a Mapping's key, for the faults of what all Mappings share."""


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """One line of the catalogue."""

    kind: str
    """`PolicySettings.kind`."""
    stage: Stage
    build: Callable[[ObjectKey, PolicySettings, PolicyServices], Policy | Deny]
    """Makes the policy of a Mapping (its key) from the settings, once per snapshot. A Deny refuses all RPCs of the
    Mapping; so does an exception, with UNAVAILABLE. State that survives a reload comes from the services."""


@dataclass(frozen=True, slots=True)
class CompositeKind:
    """The line of a policy that is made of other policies, which `build` gets built."""

    kind: str
    stage: Stage
    build: Callable[[PolicySettings, Callable[[PolicySettings], Policy | Deny]], Policy | Deny]


class Catalogue:
    """The kinds of policies there are."""

    def __init__(self, kinds: Iterable[PolicyKind | CompositeKind]) -> None:
        self.kinds = tuple(kinds)
        self._by_kind = {one.kind: one for one in self.kinds}

    def build(
        self, destination: Destination, services: PolicyServices, shared: tuple[PolicySettings, ...] = ()
    ) -> tuple[BuiltPolicy, ...] | Deny:
        """The policies of a Mapping and the `shared` ones of all (`Snapshot.policies`), in the order they run; or the
        Deny of all its RPCs: one cannot be built."""
        built = []
        every = (*destination.policies, *shared)
        for settings in self.order(destination, shared):
            policy = self._build(destination.key, settings, services)
            if isinstance(policy, Deny):
                return policy
            index = every.index(settings)
            counters = services.counters.of_policy(destination.label, settings.name)
            built.append(BuiltPolicy(settings.name, index, policy, getattr(policy, "on_end", None), counters))
        return tuple(built)

    def order(self, destination: Destination, shared: tuple[PolicySettings, ...] = ()) -> list[PolicySettings]:
        """The settings of the policies of a Mapping, in the order they run."""
        return sorted((*destination.policies, *shared), key=self._stage)

    def find_faults(self, routes: Iterable[Route]) -> dict[ObjectKey, str]:
        """The objects with a policy that cannot be built, and why. Without those that are refused on purpose."""
        with_policies = [one for route in routes for one in route.destinations if one.policies]
        services = PolicyServices()  # of no worker: what is built here serves no RPC
        faults: dict[ObjectKey, str] = {}
        for one in with_policies:
            built = self.build(one, services)
            if not isinstance(built, Deny):
                faults.update(_find_unbuilt_filters(one.key, built))
            elif built.reason == Reason.POLICY_NOT_BUILT:
                faults[one.key] = built.message
        return faults

    def find_shared_faults(self, shared: Iterable[PolicySettings]) -> list[str]:
        """Why policies of `Snapshot.policies` cannot be built."""
        services = PolicyServices()
        built = [self._build(EVERY_MAPPING, settings, services) for settings in shared]
        faults = [one.message for one in built if isinstance(one, Deny) and one.reason == Reason.POLICY_NOT_BUILT]
        return [message.removeprefix(f"{EVERY_MAPPING}: ") for message in faults]

    def _stage(self, settings: PolicySettings) -> Stage:
        found = self._by_kind.get(settings.kind)
        return Stage.OWN if found is None else found.stage

    def _build(self, key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Policy | Deny:
        found = self._by_kind.get(settings.kind)
        if found is None:
            return _not_built(key, settings, f"there is no policy of the kind {settings.kind!r}")
        try:
            if isinstance(found, CompositeKind):
                return found.build(settings, lambda part: self._build(key, part, services))
            return found.build(key, settings, services)
        except Exception as error:  # a defect in one policy refuses its own RPCs, and nothing else
            return _not_built(key, settings, f"{type(error).__name__}: {error}")


def _find_unbuilt_filters(mapping: ObjectKey, built: tuple[BuiltPolicy, ...]) -> Iterator[tuple[ObjectKey, str]]:
    """At the Filter, where it is known; else at the Mapping."""
    for policy in (one.policy for one in built if isinstance(one.policy, FilterPolicy)):
        for settings, denied in policy.unbuilt:
            by = settings.by if isinstance(settings, PluginSettings) else None
            yield by or mapping, denied.message.removeprefix(f"{mapping}: ")


def _not_built(key: ObjectKey, settings: PolicySettings, cause: str) -> Deny:
    return Deny(Reason.POLICY_NOT_BUILT, f"{key}: {settings.name} cannot be built: {cause}")


def build_jwt(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Policy | Deny:
    """As `policy.tokens.jwt_policy.build_jwt`; its library takes 0.2 s to load, which gateways without tokens save."""
    from grpcgw.policy.tokens import jwt_policy

    return jwt_policy.build_jwt(key, settings, services)


CATALOGUE = Catalogue(
    (
        PolicyKind("unenforced", Stage.REMOTE_AUTHORIZATION, unenforced.refuse),
        CompositeKind("filter-policy", Stage.IDENTITY, build_filter_policy),
        PolicyKind("api-key", Stage.IDENTITY, api_key.build),
        PolicyKind("jwt", Stage.IDENTITY, build_jwt),
        PolicyKind("ext-authz", Stage.REMOTE_AUTHORIZATION, ext_authz_policy.build),
        PolicyKind("authorization", Stage.AUTHORIZATION, rbac_policy.build),
        PolicyKind("rate-limit", Stage.LIMITS, rate_limit.build),
        PolicyKind("concurrency-limit", Stage.LIMITS, concurrency.build),
        PolicyKind("rate-limit-service", Stage.LIMITS, remote_rate_limit.build),
        PolicyKind("plugin", Stage.OWN, build_plugin),
    )
)
