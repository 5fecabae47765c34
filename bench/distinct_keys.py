"""A million distinct keys of a limit, and tokens: what a worker's memory grows by."""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256

from bench.children import resident_bytes
from grpcgw.errors import UserError
from grpcgw.model.labels import HeaderLabel
from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limits import LabelLimit, Rate, RateLimitSettings, Unit
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.limits.rate_limit import build
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.tokens.token_cache import Accepted, TokenCache
from grpcgw.policy.tokens.token_claims import Lifetime
from grpcgw.policy.verdicts import Allow

COUNT = 1_000_000
TOKEN_CHARACTERS = 700
LIMIT_BOUND_BYTES = 35_000_000
"""The table of buckets (`bucket_table.TABLE_BYTES`), and MOST_COUNTERS of `limiter`, of 2 KB at most."""
TOKEN_BOUND_BYTES = 100_000_000
"""`token_cache.MAX_BYTES` is an estimate; the allocator keeps some more."""


def grow_by_limit_keys(count: int = COUNT) -> int:
    """Bytes by which memory grows. Raises UserError unless the limit still counts."""
    key = ObjectKey("Mapping", "bench", "greet")
    limit = LabelLimit("each", ((("tenant", ""),),), Rate(1, Unit.HOUR))
    settings = RateLimitSettings(
        name="Mapping greet.bench", domain="bench", groups=((HeaderLabel("tenant", "x-tenant"),),), limits=(limit,)
    )
    policy = build(key, settings, PolicyServices())
    before, now_s = resident_bytes(os.getpid()), time.monotonic()

    def check(tenant: str) -> object:
        metadata = (("x-tenant", tenant),)
        return policy.check(PolicyRequest(Request("/a/b", "", metadata, None, Peer("")), key, metadata, now_s=now_s))

    for number in range(count):
        check(f"tenant-{number}")
    grown = resident_bytes(os.getpid()) - before
    check("last")
    if isinstance(check("last"), Allow):
        raise UserError(f"after {count:,} keys the limit lets a second call pass")
    return grown


def grow_by_tokens(count: int = COUNT) -> int:
    """Bytes by which memory grows, for tokens that were verified. Raises UserError unless the last one is known."""
    cache, before = TokenCache(), resident_bytes(os.getpid())
    for number in range(count):
        claims = json.loads(_CLAIMS % number)
        allow = Allow(facts=(("identity", claims["sub"]),), claims=claims)
        accepted = Accepted("key", Lifetime(0, 0, 1_900_000_000), {"alg": "RS256"}, claims, allow, TOKEN_CHARACTERS)
        cache.put(sha256(str(number).encode()).digest(), accepted)
    if cache.find(sha256(str(count - 1).encode()).digest()) is None:
        raise UserError("the token seen last is not in the cache")
    return resident_bytes(os.getpid()) - before


_CLAIMS = json.dumps(
    {
        "iss": "bench",
        "sub": "user-%d",
        "aud": "greet",
        "exp": 1_900_000_000,
        "groups": [f"group-{n}" for n in range(10)],
    }
)
