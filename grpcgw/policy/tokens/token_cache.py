"""Cache of verified tokens: a token that was seen costs a digest and a look-up instead of a verification. Pure.

One per worker, for all policies; it survives reloads. Its key is the SHA-256 digest of the token with the policy's own
settings. A few hundred that came last are found by the value of their header as well, at a quarter of the cost. Refused
tokens are remembered elsewhere (`refused_tokens`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from grpcgw.model.metadata import MetadataValue
from grpcgw.policy.tokens.token_claims import Lifetime
from grpcgw.policy.verdicts import Allow
from grpcgw.telemetry.policy_counters import CacheCounters

MAX_BYTES = 64 * 1024 * 1024
"""Bound of the memory that it takes, by estimate: some 15,000 tokens of 700 characters. The longest unused go first."""
_FIXED_BYTES, _BYTES_PER_CHARACTER = 2048, 3
"""Of an entry, measured: its objects, and the claims parsed."""
MOST_RECENT, LONGEST_RECENT = 512, 2048
"""Values of headers whose tokens are found without a digest, and characters of one."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A token that may be used in its lifetime, for one policy."""

    key: str
    """`PublicKey.jwk` of the key that verified it: the entry holds as long as the policy has that key."""
    lifetime: Lifetime
    header: Mapping[str, object]
    claims: Mapping[str, object]
    allow: Allow | None
    """The verdict; None: it depends on the RPC, too."""
    characters: int
    """Length of the token."""


class TokenCache:
    def __init__(self, max_bytes: int = MAX_BYTES, counters: CacheCounters | None = None) -> None:
        self._entries: LRUCache[bytes, Accepted] = LRUCache(max_bytes, _estimate)
        self._recent: dict[tuple[bytes, MetadataValue], Accepted] = {}
        """All of them are among the entries."""
        self._lock = Lock()
        self.counters = counters or CacheCounters("tokens")

    def find(self, key: bytes) -> Accepted | None:
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self.counters.misses += 1
            else:
                self.counters.hits += 1
            return found

    def put(self, key: bytes, accepted: Accepted) -> None:
        with self._lock:
            before = len(self._entries)
            self._entries[key] = accepted
            if len(self._entries) <= before:  # others had to go
                self._recent.clear()

    def recall(self, identity: bytes, value: MetadataValue) -> Accepted | None:
        """What was noted for a header's value, unless that is forgotten. No digest is made."""
        found = self._recent.get((identity, value))
        if found is not None:
            self.counters.hits += 1  # without the lock: with the GIL no thread is switched within this
        return found

    def note(self, identity: bytes, value: MetadataValue, accepted: Accepted) -> None:
        """`accepted`, which was found or put just now, is the token in a header's value, under the settings with the
        digest `identity`."""
        if len(value) <= LONGEST_RECENT:
            if len(self._recent) >= MOST_RECENT:
                self._recent.clear()
            self._recent[identity, value] = accepted

    def __len__(self) -> int:
        return len(self._entries)


def make_key(identity: bytes, token: str) -> bytes:
    """Of a token under the settings with the digest `identity`."""
    return hashlib.sha256(identity + token.encode("utf-8", "surrogatepass")).digest()


def _estimate(accepted: Accepted) -> int:
    return _FIXED_BYTES + _BYTES_PER_CHARACTER * accepted.characters
