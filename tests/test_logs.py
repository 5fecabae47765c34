"""The gateway's log: numbers as a reader would write them, and defects once."""

from __future__ import annotations

import logging

import pytest

from grpcgw.logs import DEFECT_AGAIN_S, DefectLog, count


@pytest.mark.parametrize(("number", "text"), [(0, "no routes"), (1, "1 route"), (2, "2 routes")])
def test_one_of_a_thing_is_not_many(number: int, text: str) -> None:
    assert count(number, "route") == text


def test_the_same_defect_is_logged_once_a_minute_and_how_often_it_came_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = [0.0]
    defects = DefectLog(logging.getLogger("defects"), lambda: now_s[0])

    def stumble(what: str) -> None:
        try:
            raise RuntimeError
        except RuntimeError:
            defects.note(what, "a")

    for now_s[0] in (0.0, 1.0, 2.0, DEFECT_AGAIN_S):
        stumble("cannot see")
    stumble("cannot hear")
    assert [record.getMessage() for record in caplog.records] == [
        "defect: cannot see a; the gateway continues",
        "defect: cannot see a (and 2 times since this was last logged); the gateway continues",
        "defect: cannot hear a; the gateway continues",
    ]
    assert all(record.exc_info for record in caplog.records)
