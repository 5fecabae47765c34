"""The balancing policies by their names in `load_balancer.policy`. A new policy is one file and one line here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from grpcgw.balancer.base import Balancer, TakeTurn
from grpcgw.balancer.least_request import LeastRequest, LeastRequestPicker, WeightedLeastRequestPicker
from grpcgw.balancer.load_report import LoadWeights
from grpcgw.balancer.maglev import Maglev
from grpcgw.balancer.ring_hash import RingHash
from grpcgw.balancer.round_robin import RoundRobin, RoundRobinPicker
from grpcgw.balancer.slow_start import SlowStart
from grpcgw.balancer.weighted import StridePicker, Weigher, Weighted
from grpcgw.model.balancing import LoadBalancer


def _make_round_robin(load_balancer: LoadBalancer, take_turn: TakeTurn) -> Balancer:
    if not load_balancer.slow_start_ms:
        return RoundRobin(take_turn)
    return _weighted_turns(_slow_start(load_balancer), take_turn)


def _make_weighted_round_robin(load_balancer: LoadBalancer, take_turn: TakeTurn) -> Balancer:
    return _weighted_turns([LoadWeights(), *_slow_start(load_balancer)], take_turn)


def _make_least_request(load_balancer: LoadBalancer, take_turn: TakeTurn) -> Balancer:
    if not load_balancer.slow_start_ms:
        return LeastRequest()
    return Weighted(
        _slow_start(load_balancer),
        lambda pods: LeastRequestPicker(pods, random.random),
        lambda pods, weights: WeightedLeastRequestPicker(pods, weights, random.random),
    )


def _weighted_turns(weighers: Sequence[Weigher], take_turn: TakeTurn) -> Balancer:
    return Weighted(
        weighers,
        lambda pods: RoundRobinPicker(pods, take_turn),
        lambda pods, weights: StridePicker(pods, weights, take_turn),
    )


def _slow_start(load_balancer: LoadBalancer) -> list[Weigher]:
    return [SlowStart(load_balancer.slow_start_ms / 1000)] if load_balancer.slow_start_ms else []


TAKE_TURNS = frozenset({"round_robin"})
"""The policies whose strict turns the workers share."""

BALANCERS: Mapping[str, Callable[[LoadBalancer, TakeTurn], Balancer]] = MappingProxyType(
    {
        "round_robin": _make_round_robin,
        "least_request": _make_least_request,
        "ring_hash": lambda load_balancer, take_turn: RingHash(take_turn),
        "maglev": lambda load_balancer, take_turn: Maglev(take_turn),
        "weighted_round_robin": _make_weighted_round_robin,
    }
)
"""ring_hash and maglev give every pod the same share: as in Envoy, slow start does not apply to them."""


def make_balancer(load_balancer: LoadBalancer, take_turn: TakeTurn) -> Balancer:
    """A balancer for a policy the compiler has accepted. Raises KeyError for an unknown name."""
    return BALANCERS[load_balancer.policy](load_balancer, take_turn)
