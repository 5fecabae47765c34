"""How many resets a connection to a pod may carry."""

from __future__ import annotations

from grpcgw.engines.http2.reset_budget import BURST, EASY, MOST_OF_FEW, MOST_SHARE, PER_S, ResetBudget

NETTY_MOST, NETTY_WINDOW_S = 200, 30.0


def test_resets_beyond_the_burst_wait_for_the_rate() -> None:
    budget = ResetBudget(0.0)
    assert [budget.take(0.0) for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert budget.wait_s(0.0) == 1 / PER_S
    assert budget.take(1.001 / PER_S)
    assert not budget.take(1.001 / PER_S)


def test_a_burst_comes_back_and_no_more() -> None:
    budget = ResetBudget(0.0)
    for _ in range(BURST):
        budget.take(0.0)
    assert budget.left(1e6) == BURST
    assert budget.wait_s(1e6) == 0


def test_no_window_of_netty_has_more_than_it_allows() -> None:
    """Whenever it begins, and where the first reset of it was some seconds longer on its way than the last."""
    budget, sent_at_s = ResetBudget(0.0), list[float]()
    for tick in range(4000):
        now_s = tick / 20
        if now_s % 60 < 30 and budget.take(now_s):
            sent_at_s.append(now_s)
    assert len(sent_at_s) > 300
    for begins_s in sent_at_s:
        assert sum(begins_s <= at_s < begins_s + NETTY_WINDOW_S + 4 for at_s in sent_at_s) <= NETTY_MOST


def test_as_many_rpcs_should_run_as_may_be_reset() -> None:
    budget = ResetBudget(0.0)
    assert budget.room(0.0, 0) == BURST
    for _ in range(EASY):
        budget.take(0.0)
    assert budget.room(0.0, EASY) == BURST - EASY
    budget.take(0.0)
    assert budget.room(0.0, EASY) == 0, "another connection is opened meanwhile"
    assert budget.room(EASY / PER_S, EASY) > BURST - EASY


def test_a_connection_of_which_many_rpcs_were_reset_gets_no_more_of_them_however_slowly() -> None:
    """Envoy counts over the whole life of a connection."""
    budget, now_s = ResetBudget(0.0), 0.0
    for _ in range(MOST_OF_FEW + 1):
        now_s += 60
        budget.take(now_s)
    assert budget.room(now_s, 2 * MOST_OF_FEW) == 0
    assert budget.room(now_s, round((MOST_OF_FEW + 10) / MOST_SHARE)) > EASY
