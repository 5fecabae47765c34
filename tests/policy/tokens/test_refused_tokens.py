"""Tokens that are refused: what is remembered of them, and how long."""

from __future__ import annotations

from dataclasses import replace

from grpcgw.model.codes import Code
from grpcgw.model.jwt import JwtSettings
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.tokens.refused_tokens import MAX_ENTRIES, RefusedTokens
from grpcgw.policy.tokens.token_cache import TokenCache
from grpcgw.policy.tokens.token_claims import TokenFault
from grpcgw.policy.verdicts import Allow, Deny
from tests.jwts import NOW_S, claims, keys_of, make_signer
from tests.policy.tokens.test_jwt_policy import (
    ATTACKS,
    OTHER,
    RSA,
    SETTINGS,
    TOKEN,
    ask,
    assert_allowed,
    assert_refused,
    bearer,
    build,
)

EC = make_signer("ec", "ES256")
FORGED = f"{TOKEN[:-8]}AAAAAAAA"


class Worker:
    """Policies of one worker, over reloads."""

    def __init__(self) -> None:
        self.services = PolicyServices()
        self.refused = self.services.keep(RefusedTokens, None, RefusedTokens)
        self.tokens = self.services.keep(TokenCache, None, TokenCache)

    def check(self, token: str, settings: JwtSettings = SETTINGS, at_s: float = NOW_S) -> Allow | Deny:
        return ask(build(settings, self.services), bearer(token), at_s=at_s)

    @property
    def remembered(self) -> int:
        return self.refused.counters.hits


def test_a_bad_token_is_verified_once_and_refused_alike_ever_after() -> None:
    worker = Worker()
    for number, (token, word) in enumerate(ATTACKS.values()):
        first = assert_refused(worker.check(token), word)
        assert worker.remembered == number
        assert worker.check(token) == first
        assert worker.remembered == number + 1


def test_what_the_token_is_not_for_is_remembered_with_its_code() -> None:
    worker, settings = Worker(), replace(SETTINGS, scopes=("orders:read",))
    for _ in range(2):
        assert_refused(worker.check(TOKEN, settings), "scope", Code.PERMISSION_DENIED)
    assert worker.remembered == 1
    assert_allowed(worker.check(TOKEN))


def test_a_refusal_ends_when_time_makes_the_token_valid() -> None:
    worker, early = Worker(), RSA.sign(claims(nbf=NOW_S + 10))
    for at_s in (NOW_S, NOW_S + 9.9):
        assert_refused(worker.check(early, at_s=at_s), "not valid yet")
    assert (worker.remembered, len(worker.tokens)) == (1, 0)
    assert_allowed(worker.check(early, at_s=NOW_S + 10))
    assert_refused(worker.check(early, at_s=NOW_S + 3600), "expired")


def test_a_clock_that_was_ahead_leaves_no_refusal_behind() -> None:
    worker = Worker()
    for _ in range(2):
        assert_refused(worker.check(TOKEN, at_s=NOW_S + 4000), "expired")
    assert worker.remembered == 1
    assert_allowed(worker.check(TOKEN))


def test_a_refusal_ends_when_the_keys_change() -> None:
    worker = Worker()
    for _ in range(2):
        assert_refused(worker.check(OTHER.sign(claims())), "kid")
    assert_allowed(worker.check(OTHER.sign(claims()), replace(SETTINGS, keys=keys_of(RSA, OTHER))))


def test_a_flood_of_bad_tokens_makes_no_good_one_forgotten_and_takes_bounded_memory() -> None:
    worker = Worker()
    policy = build(replace(SETTINGS, keys=keys_of(EC)), worker.services)
    good = EC.sign(claims())
    assert_allowed(ask(policy, bearer(good)))
    for number in range(MAX_ENTRIES + 1000):
        ask(policy, bearer(f"x{number}"))
    assert len(worker.refused) == MAX_ENTRIES
    assert_allowed(ask(policy, bearer(good)))
    assert worker.tokens.counters.hits == 1


def test_expired_tokens_take_no_room_of_good_ones() -> None:
    worker = Worker()
    for number in range(3):
        assert_refused(worker.check(RSA.sign(claims(exp=NOW_S - 1, jti=str(number)))), "expired")
    assert (len(worker.tokens), len(worker.refused)) == (0, 3)


def test_the_longest_unused_refusals_go_first() -> None:
    refused = RefusedTokens(max_entries=2)
    for key in (b"a", b"b"):
        refused.put(key, TokenFault(key.decode()))
    assert refused.find(b"a", NOW_S) == TokenFault("a")
    refused.put(b"c", TokenFault("c"))
    assert [refused.find(key, NOW_S) is None for key in (b"a", b"b", b"c")] == [False, True, False]
