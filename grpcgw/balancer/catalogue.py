"""Every balancing policy by the name `load_balancer.policy` gives it. A new policy is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from grpcgw.balancer.base import Balancer
from grpcgw.balancer.round_robin import RoundRobin
from grpcgw.config.policies import LoadBalancer

BALANCERS: Mapping[str, Callable[[int], Balancer]] = MappingProxyType({"round_robin": RoundRobin})


def make_balancer(load_balancer: LoadBalancer, seed: int) -> Balancer:
    """A balancer for a policy the compiler has accepted. Raises KeyError for a name not in the catalogue."""
    return BALANCERS[load_balancer.policy](seed)
