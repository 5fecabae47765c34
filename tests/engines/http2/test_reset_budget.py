"""How many resets a connection to a pod may carry."""

from __future__ import annotations

from grpcgw.engines.http2.reset_budget import EASY_BURST, EASY_PER_S, HARD_BURST, HARD_PER_S, ResetBudget


def test_resets_beyond_the_burst_wait_for_the_rate() -> None:
    budget = ResetBudget(0.0)
    assert [budget.take(0.0) for _ in range(HARD_BURST + 1)] == [True] * HARD_BURST + [False]
    assert budget.wait_s(0.0) == 1 / HARD_PER_S
    assert budget.take(1.001 / HARD_PER_S)
    assert not budget.take(1.001 / HARD_PER_S)


def test_a_burst_comes_back_and_no_more() -> None:
    budget = ResetBudget(0.0)
    for _ in range(HARD_BURST):
        budget.take(0.0)
    assert budget.left(1e6) == HARD_BURST
    assert budget.wait_s(1e6) == 0


def test_new_rpcs_go_elsewhere_long_before_resets_wait_and_come_back_after_a_rest() -> None:
    budget = ResetBudget(0.0)
    assert not budget.is_low(0.0)
    for _ in range(EASY_BURST):
        budget.take(0.0)
    assert budget.is_low(0.0)
    assert budget.left(0.0) == HARD_BURST - EASY_BURST
    assert not budget.is_rested(EASY_BURST / EASY_PER_S / 4)
    assert budget.is_rested(EASY_BURST / EASY_PER_S / 2)
