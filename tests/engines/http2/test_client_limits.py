"""How many control frames a client may send: in proportion to time, and to what it is sent."""

from __future__ import annotations

from grpcgw.engines.http2.client_limits import (
    CONTROL_BURST,
    CONTROL_PER_ANSWER,
    CONTROL_PER_S,
    ControlBudget,
    count_reset,
)


def sends(budget: ControlBudget, frames: int, answers: int, now_s: float) -> bool:
    """Whether so many frames at one time are too many."""
    return any(budget.count() and budget.is_exceeded(answers, now_s) for _ in range(frames))


def test_a_burst_is_allowed_once() -> None:
    budget = ControlBudget(0.0)
    assert not sends(budget, CONTROL_BURST, 0, 0.0)
    assert sends(budget, 1, 0, 0.0)


def test_the_budget_grows_with_time() -> None:
    budget = ControlBudget(0.0)
    assert not sends(budget, CONTROL_BURST, 0, 0.0)
    assert not sends(budget, CONTROL_PER_S, 0, 1.0)
    assert sends(budget, 1, 0, 1.0)


def test_the_budget_grows_with_what_the_client_is_sent() -> None:
    budget = ControlBudget(0.0)
    for answers in range(1, 1000):
        assert not sends(budget, CONTROL_PER_ANSWER, answers, 0.0)


def test_what_is_not_used_does_not_add_up_beyond_the_burst() -> None:
    budget = ControlBudget(0.0)
    assert not sends(budget, CONTROL_BURST + 1, 10**6, 10**6)
    assert sends(budget, 2 * CONTROL_BURST, 10**6, 10**6)


def test_too_many_are_reported_once() -> None:
    budget = ControlBudget(0.0)
    assert sends(budget, CONTROL_BURST + 1, 0, 0.0)
    assert not sends(budget, CONTROL_BURST, 0, 0.0)


def test_resets_of_usual_rpcs_cost_nothing_and_those_of_header_bombs_more_than_their_rpcs_earn() -> None:
    assert count_reset(16_384) == 0
    assert count_reset(58_000) > 2 * CONTROL_PER_ANSWER
