"""Pods: the addresses behind a service, in whole immutable sets, and the states of a connection to one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One pod address. Identity is address and port; the rest is for display and for zone preference."""

    address: str
    """IPv4 or IPv6 address without brackets."""
    port: int
    name: str = field(default="", compare=False)
    """Name of the pod, where discovery knows it."""
    zone: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class EndpointSet:
    """All ready pods of one cluster at one time: sorted, without duplicates. An empty set is a set, not an error.

    `error` is the cause if the set may be incomplete (Service missing, port unknown, DNS failure). A resolver that
    fails after a success keeps the endpoints it had.
    """

    endpoints: tuple[Endpoint, ...] = ()
    error: str = ""
    zone_hints: tuple[frozenset[str], ...] = ()
    """The zones each endpoint is meant for, in the order of `endpoints`; empty unless every one has a hint.

    Not part of Endpoint: hints change while the pods stay the same.
    """
    other_addresses: tuple[str, ...] = ()
    """The address of each pod in its other IP family ("": it has none), in the order of `endpoints`; empty unless some
    pod has one. Not part of Endpoint, for the same reason."""


class PodState(StrEnum):
    """Connection state of one pod in one worker (gRPC's connectivity states, plus draining)."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    FAILING = "failing"
    DRAINING = "draining"
    """Gone from the endpoint set; its running RPCs are finishing."""
