"""Stable 64-bit hashes for ring_hash and maglev: the key of an RPC, and the positions of pods.

They are the same in every worker, process and release, so that a client keeps its pod over restarts; Python's `hash` is
not. blake2b is the fastest hash of the standard library that spreads similar names evenly (about 0.6 µs a key).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b

from grpcgw.model.balancing import LoadBalancer
from grpcgw.model.metadata import Metadata

MakeKey = Callable[[Metadata, str], int | None]
"""From an RPC's metadata and its client's IP address to the key for `Picker.pick`; None: no key, so any pod."""

_EIGHT_NUMBERS = struct.Struct("<8Q")


def make_key(load_balancer: LoadBalancer) -> MakeKey | None:
    """The function from an RPC to its key; None for a policy without hashing. Made once, called per RPC."""
    if load_balancer.source_ip:
        return _hash_address
    name = load_balancer.header
    return (lambda metadata, _: hash_header(metadata, name)) if name else None


def hash_header(metadata: Metadata, name: str) -> int | None:
    """The hash of all values of the key `name`, joined by commas (gRFC A42); None if there is no value."""
    values = [_to_bytes(value) for key, value in metadata if key == name]
    return hash_bytes(b",".join(values)) if values else None


def hash_bytes(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def hash_numbers(name: str, count: int) -> list[int]:
    """The first `count` numbers of an endless pseudo-random sequence seeded by `name`."""
    numbers: list[int] = []
    for block in range((count + 7) // 8):
        numbers += _EIGHT_NUMBERS.unpack(blake2b(f"{name} {block}".encode()).digest())
    return numbers[:count]


def next_owner(owners: Sequence[int], place: int) -> int:
    """The first other owner after `place`, searching once around; the same owner if there is no other."""
    owner = owners[place]
    ahead = (owners[(place + step) % len(owners)] for step in range(1, len(owners)))
    return next((other for other in ahead if other != owner), owner)


def _hash_address(metadata: Metadata, address: str) -> int | None:
    return hash_bytes(_to_bytes(address)) if address else None


def _to_bytes(value: str | bytes) -> bytes:
    # A value from the wire may hold any byte; a lone surrogate must not raise.
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
