"""The gateway's own log: a flood of one line is a few lines and a count, and a reader that sleeps delays nobody."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dataplane.waiting import PATIENCE_S

from grpcgw.log_bounds import BURST, EVERY_S, MAX_LINE_CHARACTERS, MAX_WAITING, LogWriter, RateLimit


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def record(name: str = "grpcgw.session.session", line: int = 1, message: str = "bad") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "file.py", line, message, (), None)


def passed(limit: RateLimit, count: int, **of: object) -> list[str]:
    records = [record(**of) for _ in range(count)]  # type: ignore[arg-type]  # fields of a record
    return [one.getMessage() for one in records if limit.filter(one)]


def test_a_flood_is_a_burst_then_a_line_now_and_then_that_counts_the_others() -> None:
    clock = Clock()
    limit = RateLimit(clock)
    assert passed(limit, 1000) == ["bad"] * BURST
    clock.now_s = EVERY_S
    assert passed(limit, 1000) == [f"bad (and {1000 - BURST} similar lines before, not shown)"]
    clock.now_s = 1000 * EVERY_S
    assert len(passed(limit, 1000)) == BURST


def test_one_line_does_not_silence_another() -> None:
    limit = RateLimit(Clock())
    passed(limit, 1000)
    assert passed(limit, 1, line=2) == ["bad"]


@pytest.mark.parametrize(
    ("name", "limited"),
    [
        ("grpc", True),
        ("grpc._cython.cygrpc", True),
        ("asyncio", True),
        ("uvicorn.error", True),
        ("grpcgw.session.session", True),
        ("grpcgw.control.control", False),
        ("grpcgw.workers.slot", False),
        ("grpcio", False),
    ],
)
def test_what_clients_can_cause_is_limited_and_nothing_else(name: str, limited: bool) -> None:
    assert (len(passed(RateLimit(Clock()), 100, name=name)) == 100) is not limited


@contextmanager
def logger_into(descriptor: int) -> Iterator[logging.Logger]:
    writer, logger = LogWriter(descriptor), logging.getLogger("grpcgw.test_log_bounds")
    logger.propagate = False
    logger.addHandler(writer)
    try:
        yield logger
    finally:
        logger.removeHandler(writer)
        writer.close()


def test_lines_come_out_in_order_and_long_ones_are_cut() -> None:
    ours, theirs = os.pipe()
    with open(ours, encoding="utf-8") as reader:
        with logger_into(theirs) as logger:
            logger.error("one %d", 1)
            logger.error("x" * 2 * MAX_LINE_CHARACTERS)
            logger.error("three \udc80")
        os.close(theirs)
        assert reader.read().splitlines() == ["one 1", "x" * MAX_LINE_CHARACTERS + " (cut)", "three \\udc80"]


def test_a_reader_that_sleeps_delays_nobody_and_finds_out_what_it_missed() -> None:
    ours, theirs = os.pipe()
    said: list[str] = []
    with open(ours, encoding="utf-8") as reader:
        reading = threading.Thread(target=lambda: said.extend(reader))
        with logger_into(theirs) as logger:
            for _ in range(3 * MAX_WAITING):  # would block for ever where logging writes itself: a pipe takes 64 KiB
                logger.error("y" * 500)
            reading.start()
        os.close(theirs)
        reading.join(PATIENCE_S)
    told = [line for line in said if not line.startswith("y")]  # more than one where the pipe takes a line meanwhile
    assert told
    assert all(re.fullmatch(r"\d+ lines of this log were dropped: its reader is too slow\n", line) for line in told)
    assert sum(int(line.split()[0]) for line in told) + len(said) - len(told) == 3 * MAX_WAITING
