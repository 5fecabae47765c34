"""Memory of refused tokens: one that is sent again and again costs two digests and a look-up each time. Pure.

One per worker, for all policies; it survives reloads. Apart from the verified tokens (`token_cache`), so that a flood
of different bad ones makes no good one forgotten. Its key is a digest of the token with the policy's settings and keys:
with other keys a token is verified anew.
"""

from __future__ import annotations

from threading import Lock

from cachetools import LRUCache

from grpcgw.policy.tokens.token_claims import Lifetime, TokenFault
from grpcgw.telemetry.policy_counters import CacheCounters

MAX_ENTRIES = 10_000
"""Some 5 MiB. The longest unused go first."""


class RefusedTokens:
    def __init__(self, counters: CacheCounters | None = None, max_entries: int = MAX_ENTRIES) -> None:
        self._entries: LRUCache[bytes, TokenFault | Lifetime] = LRUCache(max_entries)
        self._lock = Lock()
        self.counters = counters or CacheCounters("refused-tokens")

    def find(self, key: bytes, now_s: float) -> TokenFault | None:
        """Why the token is refused at `now_s`, in seconds since the epoch; None: that is not known."""
        with self._lock:
            found = self._entries.get(key)
            fault = found.find_fault(now_s) if isinstance(found, Lifetime) else found
            if fault is None:
                self.counters.misses += 1
            else:
                self.counters.hits += 1
            return fault

    def put(self, key: bytes, why: TokenFault | Lifetime) -> None:
        """A Lifetime where the time alone is why: another time may find the token valid."""
        with self._lock:
            self._entries[key] = why

    def __len__(self) -> int:
        return len(self._entries)
