"""Every balancing policy by the name `load_balancer.policy` gives it. A new policy is one file and one line here."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from grpcgw.balancer.base import Balancer
from grpcgw.balancer.least_request import LeastRequest, LeastRequestPicker, WeightedLeastRequestPicker
from grpcgw.balancer.load_report import LoadWeights
from grpcgw.balancer.maglev import Maglev
from grpcgw.balancer.ring_hash import RingHash
from grpcgw.balancer.round_robin import RoundRobin, RoundRobinPicker
from grpcgw.balancer.slow_start import SlowStart
from grpcgw.balancer.weighted import StridePicker, Weigher, Weighted
from grpcgw.config.policies import LoadBalancer


def _make_round_robin(load_balancer: LoadBalancer, seed: int) -> Balancer:
    return _weighted_turns(_slow_start(load_balancer), seed) if load_balancer.slow_start_ms else RoundRobin(seed)


def _make_weighted_round_robin(load_balancer: LoadBalancer, seed: int) -> Balancer:
    return _weighted_turns([LoadWeights(), *_slow_start(load_balancer)], seed)


def _make_least_request(load_balancer: LoadBalancer, seed: int) -> Balancer:
    if not load_balancer.slow_start_ms:
        return LeastRequest()
    return Weighted(
        _slow_start(load_balancer),
        lambda pods: LeastRequestPicker(pods, random.random),
        lambda pods, weights: WeightedLeastRequestPicker(pods, weights, random.random),
    )


def _weighted_turns(weighers: Sequence[Weigher], seed: int) -> Balancer:
    turns = itertools.count(seed)
    return Weighted(
        weighers,
        lambda pods: RoundRobinPicker(pods, turns),
        lambda pods, weights: StridePicker(pods, weights, turns),
    )


def _slow_start(load_balancer: LoadBalancer) -> list[Weigher]:
    return [SlowStart(load_balancer.slow_start_ms / 1000)] if load_balancer.slow_start_ms else []


BALANCERS: Mapping[str, Callable[[LoadBalancer, int], Balancer]] = MappingProxyType(
    {
        "round_robin": _make_round_robin,
        "least_request": _make_least_request,
        "ring_hash": lambda load_balancer, seed: RingHash(seed),
        "maglev": lambda load_balancer, seed: Maglev(seed),
        "weighted_round_robin": _make_weighted_round_robin,
    }
)
"""ring_hash and maglev give every pod the same part: as in Envoy, slow start does not apply to them."""


def make_balancer(load_balancer: LoadBalancer, seed: int) -> Balancer:
    """A balancer for a policy the compiler has accepted. Raises KeyError for a name not in the catalogue."""
    return BALANCERS[load_balancer.policy](load_balancer, seed)
