"""Turns that worker processes share: each is taken once, and what shares them keeps its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
from session.gateway import destination, route, snapshot

from grpcgw.model.balancing import LoadBalancer, OutlierDetection
from grpcgw.workers.shared_turns import SHARE_OF_FILES, SharedTurns, take_turn_of

PROCESSES, EACH, MANY = 3, 5_000, 300_000
TAKE = (
    "import sys; from grpcgw.workers.shared_turns import take_turn_of; take = take_turn_of(int(sys.argv[1])); "
    f"sys.stdin.readline(); print(*(take() for _ in range({EACH}))); all(take() for _ in range({MANY}))"
)


@pytest.fixture
def turns() -> Iterator[SharedTurns]:
    shared = SharedTurns(4)
    yield shared
    shared.close()


def test_processes_take_every_turn_once_at_the_same_time(turns: SharedTurns) -> None:
    descriptor = turns.descriptors[0]
    first = os.lseek(descriptor, 0, os.SEEK_CUR) + 1
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE, str(descriptor)],
            pass_fds=(descriptor,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    taken = [int(turn) for taker in takers for turn in taker.communicate()[0].split()]
    assert len(set(taken)) == PROCESSES * EACH, "a turn was taken twice"
    assert os.lseek(descriptor, 0, os.SEEK_CUR) + 1 == first + PROCESSES * (EACH + MANY), "turns were lost"


def test_turns_begin_anywhere() -> None:
    """Or every gateway would begin with the same pod."""
    shared = SharedTurns(20)
    try:
        assert len({take_turn_of(descriptor)() for descriptor in shared.descriptors}) > 10
    finally:
        shared.close()


def test_what_stays_keeps_its_turns_and_two_never_share_them(turns: SharedTurns) -> None:
    careful = destination(outlier_detection=OutlierDetection())
    other = destination(cluster="other")
    before = turns.assign(snapshot(route(), route(careful), route(prefix="/again/")))
    assert before.keys() == {("greet", destination().balancing), ("greet", careful.balancing)}
    after = turns.assign(snapshot(route(other), route(careful)))
    assert after.keys() == {("other", other.balancing), ("greet", careful.balancing)}
    assert after["greet", careful.balancing] == before["greet", careful.balancing]
    assert len(set(after.values())) == 2


def test_policies_without_turns_need_none_and_where_all_are_dealt_the_rest_is_not_shared(turns: SharedTurns) -> None:
    hashed = route(destination(cluster="hashed", load_balancer=LoadBalancer("least_request")))
    dealt = turns.assign(snapshot(hashed, *(route(destination(cluster=f"c{number}")) for number in range(9))))
    assert [cluster for cluster, _ in dealt] == ["c0", "c1", "c2", "c3"]


def test_few_of_the_files_that_a_process_may_open_are_used() -> None:
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (800, most))
    try:
        shared = SharedTurns()
        assert len(shared.descriptors) == 800 // SHARE_OF_FILES
        shared.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
