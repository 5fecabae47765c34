"""One gateway for all of this folder, and after each test the questions that every abuse must leave answered well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from abuse.gateway import Gateway, eventually, running_gateway
from abuse.ordinary import OrdinaryClient, running_client
from abuse.wire import LIMIT_S
from grpcgw.cli.demo_processes import ROOT

ENGINES = ("http2",)
"""Every test runs on each of them."""
SLOWEST_S = 10.0
"""No call of the ordinary client may take longer. Usually it is some milliseconds; the machine may be busy."""
MEMORY_MB = 64
"""How much a test may let the worker grow, unless it says otherwise: `@pytest.mark.memory_mb(...)`. A worker that has
grown by more returns what it has freed (docs/decisions/012-freed-memory-is-given-back.md)."""
RETURNED_S = 25.0
"""Freed memory counts as kept after this time: a worker returns it at most every 10 s, so the size of the process just
after a test says little of what the test left behind."""
WORKED_OFF_S = 60.0
"""RPCs that run after this time are a leak. A client that is gone may leave megabytes in the buffers of its sockets,
which the gateway reads before it sees the end: up to 10,000 RPCs that were reset, with 60 KB of headers each, for every
connection. A busy machine takes 20 s for four."""
DESCRIPTORS = 4
"""Those that may come and go by themselves: admin connections, timers of the event loop."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "memory_mb(limit): how much the worker may grow in this test, in MiB")
    config.addinivalue_line("markers", "log_lines(most): how many lines of complaint this test may cause; usually none")


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def served(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("gateway"), "--engine", engine) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def ordinary(served: Gateway) -> Iterator[OrdinaryClient]:
    with running_client(str(ROOT), served.port) as client:
        yield client


@pytest.fixture
def gateway(request: pytest.FixtureRequest, served: Gateway, ordinary: OrdinaryClient) -> Iterator[Gateway]:
    """The gateway; what every abuse must leave behind is checked when the test is over."""
    marker = request.node.get_closest_marker("memory_mb")
    limit_mb = served.memory_mb() + (marker.args[0] if marker else MEMORY_MB)
    lines = request.node.get_closest_marker("log_lines")
    most_lines = len(served.complaints()) + (lines.args[0] if lines else 0)
    descriptors = served.worker.num_fds()
    ordinary.begin()
    yield served
    calls = ordinary.report()
    assert calls.faults == []
    assert calls.slowest_s < SLOWEST_S
    falls_to("RPCs in flight", served.rpcs_in_flight, 0, WORKED_OFF_S)
    falls_to("memory of the worker in MiB", served.memory_mb, limit_mb, RETURNED_S)
    falls_to("descriptors of the worker", served.worker.num_fds, descriptors + DESCRIPTORS)
    assert served.worker.num_threads() < 40
    assert len(served.complaints()) <= most_lines, served.complaints()


def falls_to(what: str, read: Callable[[], float], most: float, limit_s: float = LIMIT_S) -> None:
    """Wait until `read` returns `most` or less; a failure says what it returned over time."""
    seen: list[tuple[float, float]] = []
    began_s = time.monotonic()

    def holds() -> bool:
        value = read()
        if not seen or seen[-1][1] != value:
            seen.append((round(time.monotonic() - began_s, 1), value))
        return value <= most

    reached = eventually(holds, limit_s)
    assert reached, f"{what}: above {most} for {limit_s} s; (seconds, value): {seen[:5]} … {seen[-15:]}"
