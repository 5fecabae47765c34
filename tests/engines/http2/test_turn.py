"""Turns of the loop: what clients send in one piece is handled in parts, and takes little of each turn."""

from __future__ import annotations

import asyncio
import time

import pytest

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


class Connection:
    is_dirty = False

    def __init__(self, fails: bool) -> None:
        self._fails = fails
        self.flushed = self.handled = 0
        self.failed = ""

    def flush(self) -> None:
        self.flushed += 1
        if self._fails:
            raise ValueError("a defect")

    def handle_part(self) -> None:
        self.handled += 1
        if self._fails:
            raise ValueError("a defect")

    def fit_part(self, took_s: float, limit_s: float) -> None: ...

    def fail(self, why: str) -> None:
        self.failed = why


def test_a_connection_that_cannot_be_flushed_is_closed_and_the_others_are_flushed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        turn = Turn(asyncio.get_running_loop())
        connections = [Connection(fails=False), Connection(fails=True), Connection(fails=False)]
        for _ in range(2):
            for connection in connections:
                turn.postpone(connection)
                turn.mark(connection)
            for _ in connections:  # a turn may have time for one part only
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert [one.flushed for one in connections] == [2, 2, 2]
        assert [one.handled for one in connections] == [2, 2, 2]
        assert [bool(one.failed) for one in connections] == [False, True, False]

    asyncio.run(run())
    assert caplog.text.count("defect: a connection could not be written to") == 1
