"""Guard: an object that decides on the RPCs of Mappings (AuthService, FilterPolicy, RateLimit, …), compiled.

A Guard gives each Mapping the settings of its policy, or none. `compile.guard_catalogue` has the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.labels import DEFAULT_DOMAIN
from grpcgw.ambassador.compile.matching import Matching
from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.compile.upstreams import Surroundings
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.module_spec import ModuleConfig
from grpcgw.model.cluster import Cluster
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import PolicySettings


@dataclass(frozen=True, slots=True)
class GuardedMapping:
    """A Mapping on one of its hosts, as a Guard sees it."""

    key: ObjectKey
    matching: Matching
    spec: MappingSpec
    cluster: str = ""
    """Name of its cluster."""
    labels: Mapping[str, object] = field(default_factory=dict)
    """Of the Mapping's metadata."""


class Guard(Protocol):
    """Comparable: Mappings are compiled anew where the Guards have changed."""

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """Those of the RPCs that its policies make."""
        ...

    def settings_for(self, mapping: GuardedMapping) -> PolicySettings | None:
        """Settings of the policy that decides on the RPCs of a Mapping; None: it lets them pass."""
        ...


@dataclass(frozen=True, slots=True)
class GuardContext:
    """Inputs of a Guard's compilation besides its objects."""

    around: Surroundings
    module: ModuleConfig
    secrets: Secrets
    generations: Generations
    gateway_namespace: str
    serve_without: bool
    """Serve what cannot be enforced without it (`--serve-without-auth`); else those RPCs are refused."""

    @property
    def default_domain(self) -> str:
        """Of labels, where an object names none."""
        return self.module.default_label_domain or DEFAULT_DOMAIN

    authority_hidden_by: str = ""
    """The engine that does not show `:authority`; empty: it is shown."""


def find_policies(guards: Sequence[Guard], mapping: GuardedMapping) -> tuple[PolicySettings, ...]:
    """The settings of the policies that decide on the RPCs of a Mapping, in the order of `guards`."""
    found = (guard.settings_for(mapping) for guard in guards)
    return tuple([settings for settings in found if settings is not None])
