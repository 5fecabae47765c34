"""Turns of the loop: what clients send in one piece is handled in parts, and takes little of each turn."""

from __future__ import annotations

import asyncio
import time

from grpcgw.engines.http2.turn import BACKLOG_S, Turn

PARTS = 4


class Sender:
    """A connection with a backlog of some parts."""

    def __init__(self, turn: Turn, handled: list[Sender], part_s: float) -> None:
        self._turn, self._handled, self._part_s = turn, handled, part_s
        self._left = PARTS

    def handle_part(self) -> None:
        self._handled.append(self)
        until_s = time.monotonic() + self._part_s
        while time.monotonic() < until_s:
            pass
        self._left -= 1
        if self._left:
            self._turn.postpone(self)

    def fit_part(self, took_s: float, limit_s: float) -> None:
        assert took_s >= self._part_s
        assert limit_s == BACKLOG_S

    def fail(self, why: str) -> None:
        raise AssertionError(why)


async def count_parts(part_s: float) -> list[list[int]]:
    """For each turn of the loop: which of two senders had a part handled."""
    turn, handled, turns = Turn(asyncio.get_running_loop()), list[Sender](), []
    turn.small_at_s = time.monotonic()
    senders = [Sender(turn, handled, part_s) for _ in range(2)]
    for sender in senders:
        turn.postpone(sender)
    while sum(map(len, turns)) < PARTS * len(senders):
        await asyncio.sleep(0)
        turns.append([senders.index(sender) for sender in handled])
        handled.clear()
    return [parts for parts in turns if parts]


def test_parts_that_take_long_are_handled_one_in_a_turn_and_in_turns() -> None:
    assert asyncio.run(count_parts(2 * BACKLOG_S)) == [[0], [1]] * PARTS


def test_parts_that_cost_little_are_handled_together() -> None:
    assert len(asyncio.run(count_parts(0.0))) < PARTS
