"""How long a client's connection lives."""

from __future__ import annotations

from dataclasses import replace

from grpcgw.engines.contract import ASK_CLIENTS_MS, CLIENT_ANSWERS_MS
from grpcgw.engines.http2.client_life import LEAST_WAIT_S, MOST_WAIT_S, SETTINGS_S, ClientLife, Due
from grpcgw.engines.http2.client_limits import ClientLimits

LIMITS = ClientLimits(100, 65_536, idle_s=None, max_age_s=None, max_age_grace_s=None)
ASK_S, ANSWER_S = ASK_CLIENTS_MS / 1000, CLIENT_ANSWERS_MS / 1000


def begin(limits: ClientLimits = LIMITS, share: float = 1.0) -> ClientLife:
    """At second 0, with the settings acknowledged."""
    life = ClientLife(limits, 0.0, share)
    life.is_confirmed = True
    return life


def due(life: ClientLife, now_s: float, *, is_busy: bool = False, received_at_s: float | None = None) -> list[Due]:
    """`received_at_s`: None: just now."""
    return list(life.look(now_s, is_busy, now_s if received_at_s is None else received_at_s))


def test_a_client_has_some_time_to_acknowledge_the_settings() -> None:
    life = ClientLife(LIMITS, 0.0, 1.0)
    assert due(life, SETTINGS_S - 0.1) == []
    assert due(life, SETTINGS_S) == [Due.NO_SETTINGS]


def test_a_connection_without_rpcs_leaves_after_its_idle_time() -> None:
    life = begin(replace(LIMITS, idle_s=5.0))
    assert due(life, 4.9) == []
    assert due(life, 5.0, is_busy=True) == []
    life.idle_since_s = 6.0
    assert due(life, 10.9) == []
    assert due(life, 11.0) == [Due.IDLE]
    assert life.wait_s(7.0, is_busy=False) == 4.0
    assert life.wait_s(7.0, is_busy=True) == 5.0


def test_an_old_connection_is_drained_once_and_then_cut_off() -> None:
    life = begin(replace(LIMITS, max_age_s=10.0, max_age_grace_s=2.0), share=0.9)
    assert due(life, 8.9) == []
    assert life.wait_s(8.9, is_busy=True) < 0.11
    assert due(life, 9.5) == [Due.OLD]
    assert due(life, 11.4) == []
    assert due(life, 11.5) == [Due.TOO_OLD]


def test_without_a_grace_what_runs_on_an_old_connection_may_end() -> None:
    life = begin(replace(LIMITS, max_age_s=10.0))
    assert due(life, 10.0) == [Due.OLD]
    assert due(life, 1e6) == []


def test_a_silent_client_is_asked_and_given_up_where_it_does_not_answer() -> None:
    life = begin()
    assert due(life, ASK_S - 0.1, received_at_s=0.0) == []
    assert due(life, ASK_S, received_at_s=0.0) == [Due.PING]
    assert due(life, ASK_S + ANSWER_S - 0.1, received_at_s=0.0) == [], "it is asked once"
    assert due(life, ASK_S + ANSWER_S, received_at_s=0.0) == [Due.NO_ANSWER]


def test_a_client_that_answers_or_sends_anything_is_asked_again_later() -> None:
    life = begin()
    assert due(life, ASK_S, received_at_s=0.0) == [Due.PING]
    assert due(life, ASK_S + ANSWER_S, received_at_s=ASK_S + 1) == [Due.PING]
    life.note_answer()
    assert due(life, 2 * ASK_S + ANSWER_S) == []


def test_the_pause_between_two_looks_is_bounded() -> None:
    life = begin(replace(LIMITS, max_age_s=1000.0))
    assert life.wait_s(0.0, is_busy=False) == MOST_WAIT_S
    assert life.wait_s(1000.0, is_busy=False) == LEAST_WAIT_S
