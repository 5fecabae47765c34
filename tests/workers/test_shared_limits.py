"""Rate limits over several processes: exact together, also where one is killed while it counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from grpcgw.policy.limits.bucket_table import CONFIGURED
from grpcgw.policy.limits.concurrency import ConcurrencyCounter
from grpcgw.policy.limits.in_flight_table import MOST_SHARED_KEYS
from grpcgw.policy.limits.token_bucket import BucketShape
from grpcgw.workers.shared_limits import make_table_file, map_tables

COUNT = """
import sys, time
from grpcgw.model.rate_limits import LabelLimit, Rate, Unit
from grpcgw.policy.limits.limiter import Limiter, LimitRules
from grpcgw.workers.shared_limits import map_tables

limiter = Limiter(map_tables(int(sys.argv[1]), 0)[0])
rules = LimitRules("d", [LabelLimit("one", ((("k", ""),),), Rate(int(sys.argv[2]), Unit.SECOND))])
print("ready", flush=True)
sys.stdin.readline()
began_s, allowed, tries = time.monotonic(), 0, 0
gap_s = 1 / float(sys.argv[3])
while (now_s := time.monotonic()) < began_s + float(sys.argv[4]):
    while began_s + tries * gap_s < now_s:
        allowed += limiter.decide(rules, ((("k", "v"),),), 1, now_s).refused is None
        tries += 1
    time.sleep(0.001)
print(allowed, tries, flush=True)
"""

HOLD = """
import fcntl, sys

fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 0, 0)  # all that there are
print("locked", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def table_file() -> Iterator[int]:
    descriptor = make_table_file()
    assert descriptor is not None
    yield descriptor
    os.close(descriptor)


def start(descriptor: int, *arguments: float, stack: ExitStack) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COUNT, str(descriptor), *map(str, arguments)]
    process = subprocess.Popen(command, pass_fds=[descriptor], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_four_processes_together_allow_the_rate(table_file: int) -> None:
    rate, seconds = 1000, 3.0
    with ExitStack() as stack:
        workers = [start(table_file, rate, 500, seconds, stack=stack) for _ in range(4)]
        assert [read(one) for one in workers] == ["ready\n"] * 4
        for one in workers:
            go(one)
        counts = [tuple(map(int, read(one).split())) for one in workers]
    assert sum(tries for _, tries in counts) >= 1.9 * rate * seconds, "the machine is too slow for this test"
    assert 0.98 <= sum(allowed for allowed, _ in counts) / (rate * seconds) <= 1.03


def test_a_process_that_is_killed_blocks_no_other_and_takes_little_along(table_file: int) -> None:
    rate, seconds = 1000, 3.0
    with ExitStack() as stack:
        workers = [start(table_file, rate, 2000, seconds, stack=stack) for _ in range(2)]
        assert [read(one) for one in workers] == ["ready\n"] * 2
        for one in workers:
            go(one)
        victim = start(table_file, rate, 1_000_000, seconds, stack=stack)
        read(victim)
        go(victim)
        time.sleep(0.3)  # so that it is killed while it counts
        victim.kill()
        victim.wait()
        allowed = sum(int(read(one).split()[0]) for one in workers)
    # The victim may have taken what 0.3 s and a lease allow, and the first second's tokens.
    assert (seconds - 1.5) * rate <= allowed <= 1.03 * rate * seconds


def test_processes_share_a_bucket(table_file: int) -> None:
    (one, _), (other, _) = map_tables(table_file, 0), map_tables(table_file, 1)
    shape = BucketShape(3, 0.001, 0.0)
    key = one.locate("key", CONFIGURED)
    assert key == other.locate("key", CONFIGURED)
    assert one.take(key, shape, 1, 2, 1000.0).tokens == 2
    assert other.take(key, shape, 1, 2, 1000.0).tokens == 1
    assert one.take(key, shape, 1, 2, 1000.0).tokens == 0


def test_workers_count_their_running_rpcs_together(table_file: int) -> None:
    one, other = (ConcurrencyCounter("greet", map_tables(table_file, worker)[1]) for worker in (0, 1))
    assert [one.admit(3), other.admit(3), one.admit(3)] == [True] * 3
    assert not other.admit(3)
    one.release()
    assert other.admit(3)
    assert not one.admit(3)


def test_what_a_dead_worker_had_running_is_free_when_its_successor_starts(table_file: int) -> None:
    dead, other = (ConcurrencyCounter("greet", map_tables(table_file, worker)[1]) for worker in (0, 1))
    assert [dead.admit(2), dead.admit(2), other.admit(2)] == [True, True, False]
    map_tables(table_file, 0)
    assert other.admit(2)


def test_keys_beyond_the_bound_count_in_each_worker(table_file: int) -> None:
    tables = [map_tables(table_file, worker)[1] for worker in (0, 1)]
    for number in range(MOST_SHARED_KEYS):
        assert tables[0].find_row(str(number)) == number
    assert tables[1].find_row("5") == 5
    one, other = (ConcurrencyCounter("more", table) for table in tables)
    assert [one.admit(1), one.admit(1), other.admit(1)] == [True, False, True]


def test_a_worker_beyond_the_bound_counts_by_itself(table_file: int) -> None:
    counter = ConcurrencyCounter("greet", map_tables(table_file, 64)[1])
    assert [counter.admit(1), counter.admit(1)] == [True, False]
    counter.release()
    assert counter.admit(1)


def test_a_worker_that_is_stopped_with_a_lock_does_not_block_the_others(table_file: int) -> None:
    command = [sys.executable, "-c", HOLD, str(table_file)]
    stopped = subprocess.Popen(command, pass_fds=[table_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with stopped:
        try:
            assert read(stopped) == "locked\n"
            stopped.send_signal(signal.SIGSTOP)
            buckets, in_flight = map_tables(table_file, 0)
            key, shape = buckets.locate("key", CONFIGURED), BucketShape(100, 0.001, 0.0)
            began_s = time.monotonic()
            taken = [buckets.take(key, shape, 1, 1, 1000.0).tokens for _ in range(1000)]
            counter = ConcurrencyCounter("greet", in_flight)
            admitted = [counter.admit(5) for _ in range(10)]
            took_s = time.monotonic() - began_s
        finally:
            stopped.kill()
    assert took_s < 1.0
    assert sum(taken) == 100
    assert sum(admitted) == 5
