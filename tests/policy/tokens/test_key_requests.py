"""Tokens with an unknown key: when their key set is asked for, and which RPCs wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from grpcgw.model.jwt import JwtSettings, MissingKey
from grpcgw.policy.contract import CoroutineWork, Policy, Wait
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.tokens.key_requests import ASK_EVERY_S, CHECK_EVERY_S, MOST_WAITING, WAIT_S, WINDOW_S, KeyRequests
from grpcgw.policy.verdicts import Allow, Deny
from tests.jwts import ISSUER, NOW_S, claims, keys_of
from tests.policy.tokens.test_jwt_policy import (
    OTHER,
    RSA,
    SETTINGS,
    TOKEN,
    assert_allowed,
    assert_refused,
    bearer,
    build,
    request_of,
)

FETCHED = replace(SETTINGS, key_set="0123")
ROTATED = replace(FETCHED, keys=keys_of(RSA, OTHER))
NEW = OTHER.sign(claims())
WANTED = MissingKey("0123", "other")
FORGED = f"{TOKEN[:-8]}AAAAAAAA"


class Worker:
    """Policies of one worker; `pauses` are done one after the other while an RPC waits."""

    def __init__(self, *pauses: Callable[[], object]) -> None:
        self.services = PolicyServices()
        self.wanted: list[MissingKey] = []
        self.slept_s = 0.0
        self._pauses = list(pauses)
        self.services.key_requests.connect(self.wanted.append, self.sleep)

    async def sleep(self, duration_s: float) -> None:
        self.slept_s += duration_s
        if self._pauses:
            self._pauses.pop(0)()

    def build(self, settings: JwtSettings = FETCHED) -> Policy:
        return build(settings, self.services)


def check(policy: Policy, token: str, now_s: float = 0.0) -> Allow | Deny | Wait:
    verdict = policy.check(replace(request_of(bearer(token)), now_s=now_s))
    assert isinstance(verdict, Allow | Deny | Wait)
    return verdict


def refuse(policy: Policy, token: str, now_s: float = 0.0) -> None:
    verdict = check(policy, token, now_s)
    assert isinstance(verdict, Deny)
    assert_refused(verdict, "kid")


def finish(verdict: Allow | Deny | Wait) -> Allow | Deny:
    """Let it wait."""
    assert isinstance(verdict, Wait)
    assert isinstance(verdict.work, CoroutineWork)
    came = asyncio.run(as_coroutine(verdict.work.start()))
    assert isinstance(came, Allow)
    assert verdict.then is not None
    then = verdict.then(came)
    assert isinstance(then, Allow | Deny)
    return then


async def as_coroutine(work: Awaitable[object]) -> object:
    return await work


def test_an_unknown_kid_asks_for_the_key_set_and_nothing_else_does() -> None:
    worker = Worker()
    for token in (
        TOKEN,
        FORGED,
        RSA.sign(claims(exp=NOW_S - 1)),
        RSA.sign(claims(), alg="HS256"),
        RSA.sign(claims(), kid="k" * 257),
    ):
        check(worker.build(), token)
    refuse(worker.build(SETTINGS), NEW)  # with keys of a Secret
    assert worker.wanted == []
    assert isinstance(check(worker.build(), NEW), Wait)
    assert worker.wanted == [WANTED]


def test_a_token_that_no_key_would_make_good_asks_and_waits_for_none() -> None:
    """Rules with a Filter for each of several issuers are tried one after the other."""
    worker = Worker()
    policy = worker.build(replace(FETCHED, issuers=(ISSUER,), audiences=("greet",)))
    for other in (claims(iss="https://other.example"), claims(aud="other"), b"no claims"):
        assert isinstance(check(policy, OTHER.sign(other)), Deny)
    assert worker.wanted == []


def test_each_set_is_asked_for_once_a_second_also_by_a_token_that_is_remembered() -> None:
    worker = Worker()
    policy = worker.build()
    for now_s in (0.0, ASK_EVERY_S - 0.01, ASK_EVERY_S, ASK_EVERY_S + 0.01):
        check(policy, NEW, now_s)
    assert worker.wanted == [WANTED] * 2


def test_one_set_does_not_keep_another_from_being_asked_for() -> None:
    requests, sent = KeyRequests(), list[MissingKey]()
    requests.connect(sent.append, asyncio.sleep)
    assert [requests.ask(MissingKey(key_set, "k"), 1.0) for key_set in ("a", "b", "a")] == [True] * 3
    assert [one.key_set for one in sent] == ["a", "b"]


def test_a_token_whose_key_comes_meanwhile_passes() -> None:
    worker = Worker(lambda: None, lambda: worker.build(ROTATED))
    former = worker.build()
    assert_allowed(finish(check(former, NEW)))
    assert worker.slept_s == 2 * CHECK_EVERY_S
    worker.slept_s = 0
    assert_allowed(finish(check(former, OTHER.sign(claims(sub="bob")))))  # an RPC of the snapshot before
    assert worker.slept_s == 0
    after = check(worker.build(ROTATED), NEW)
    assert not isinstance(after, Wait)
    assert_allowed(after)


def test_a_token_whose_key_does_not_come_is_refused_in_time() -> None:
    worker = Worker()
    assert_refused(finish(check(worker.build(), NEW)), "kid")
    assert round(worker.slept_s, 6) == WAIT_S


@pytest.mark.parametrize(("changed", "word"), [({"exp": NOW_S - 1}, "expired"), ({"nbf": NOW_S + 9}, "not valid yet")])
def test_a_token_with_a_new_key_must_be_good_in_every_other_way(changed: dict[str, object], word: str) -> None:
    worker = Worker(lambda: worker.build(ROTATED))
    assert_refused(finish(check(worker.build(), OTHER.sign(claims(**changed)))), word)


def test_rpcs_wait_once_in_a_while_and_only_so_many() -> None:
    """Strangers can send tokens with any kid."""
    policy = Worker().build()
    for now_s in (100.0, 100.0 + WINDOW_S):
        waiting = [check(policy, NEW, now_s) for _ in range(MOST_WAITING)]
        assert {type(one) for one in waiting} == {Wait}
        refuse(policy, NEW, now_s)
    policy = Worker().build()
    assert isinstance(check(policy, NEW, 100.0), Wait)
    refuse(policy, NEW, 100.0 + WAIT_S)
    refuse(policy, NEW, 100.0 + WINDOW_S - 0.01)


def test_where_nobody_fetches_no_rpc_waits() -> None:
    refuse(build(FETCHED), NEW)
