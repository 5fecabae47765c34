"""Pods as balancers see them, and one load_balancer of every kind the catalogue can make."""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.model.balancing import LoadBalancer
from grpcgw.model.endpoints import Endpoint


@dataclass(eq=False)
class FakePod:
    endpoint: Endpoint
    in_flight: int = 0

    def __repr__(self) -> str:
        return str(self.endpoint)


def make_pods(count: int, first: int = 0) -> list[FakePod]:
    """`count` pods at 10.0.0.0, 10.0.0.1, … counted from `first`."""
    return [FakePod(Endpoint(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 50051)) for n in range(first, first + count)]


LOAD_BALANCERS = (
    LoadBalancer("round_robin"),
    LoadBalancer("round_robin", slow_start_ms=30_000),
    LoadBalancer("least_request"),
    LoadBalancer("least_request", slow_start_ms=30_000),
    LoadBalancer("ring_hash", source_ip=True),
    LoadBalancer("maglev", header="x-user"),
    LoadBalancer("weighted_round_robin"),
    LoadBalancer("weighted_round_robin", slow_start_ms=30_000),
)
