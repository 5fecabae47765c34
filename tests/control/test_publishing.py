"""Publishing to several carriers: each gets everything in order, and none suffers from another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from dataplane.waiting import PATIENCE_S
from gateway.recording_carrier import RecordingCarrier
from session.gateway import cluster, endpoints, route, snapshot

from grpcgw.carriers.carrier import CarrierReport, RefusedSnapshot
from grpcgw.control.publishing import Publisher
from grpcgw.control.task_restarts import TaskRestarter
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.jwt import MissingKey
from grpcgw.model.snapshot import Snapshot
from grpcgw.routing.binding import CannotServe
from tests.scenarios import run


def version(number: int, *clusters: str) -> Snapshot:
    named = {name: replace(cluster(), name=name) for name in clusters}
    return replace(snapshot(route(), version=str(number)), clusters=named)


class SlowCarrier(RecordingCarrier):
    """Takes a snapshot only when the test lets it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.may_take = asyncio.Semaphore(0)

    async def apply(self, snapshot: Snapshot) -> None:
        await self.may_take.acquire()
        await super().apply(snapshot)


class FailingCarrier(RecordingCarrier):
    """Whatever it is asked for raises, while `fails`."""

    fails = True

    def _fail(self) -> None:
        if self.fails:
            raise ZeroDivisionError("why")

    async def apply(self, snapshot: Snapshot) -> None:
        self._fail()
        await super().apply(snapshot)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._fail()
        super().set_endpoints(cluster, endpoints)

    def report(self) -> CarrierReport:
        self._fail()
        return super().report()

    async def drain(self, limit_s: float) -> None:
        self._fail()

    def close(self) -> None:
        self._fail()


class Bench:
    """A publisher to `carriers`, with the owner's table of endpoint sets."""

    def __init__(self, *carriers: RecordingCarrier) -> None:
        self.endpoints: dict[str, EndpointSet] = {}
        self.taken: list[str] = []
        self.changes = 0
        self.publisher = Publisher(carriers, self.endpoints, lambda snapshot: self.taken.append(snapshot.version))

    def note_change(self) -> None:
        self.changes += 1

    def set_endpoints(self, cluster: str, found: EndpointSet) -> None:
        self.endpoints[cluster] = found
        self.publisher.set_endpoints(cluster, found)

    def refused(self, carrier: str) -> tuple[RefusedSnapshot, ...]:
        return self.publisher.reports()[carrier].refused

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0)


@asynccontextmanager
async def publishing_to(*carriers: RecordingCarrier) -> AsyncIterator[Bench]:
    bench = Bench(*carriers)
    running = asyncio.create_task(bench.publisher.run(TaskRestarter(), bench.note_change, lambda _: None))
    yield bench
    await bench.publisher.drain(0.0)
    running.cancel()
    await asyncio.wait((running,))
    bench.publisher.close()


def test_a_second_carrier_sees_every_snapshot_and_endpoint_set_in_order() -> None:
    async def scenario() -> None:
        first, second = RecordingCarrier("first"), RecordingCarrier("second")
        one, two, gone = version(1, "a"), version(2, "a", "b"), version(3, "b")
        async with publishing_to(first, second) as bench:
            bench.set_endpoints("a", endpoints(1))
            bench.publisher.publish(one)
            await bench.until(lambda: second.version == "1")
            bench.set_endpoints("a", endpoints(1, 2))
            bench.set_endpoints("b", endpoints(3))
            bench.publisher.publish(two)
            await bench.until(lambda: second.version == "2")
            bench.publisher.publish(replace(two))  # nothing new
            bench.publisher.publish(gone)
            await bench.until(lambda: second.version == "3")
            bench.set_endpoints("b", endpoints(4))
        expected = [
            *(("a", endpoints(1)), one),
            *(("a", endpoints(1, 2)), ("b", endpoints(3)), two),
            *(gone, ("b", endpoints(4))),
        ]
        assert first.events == second.events == expected
        assert bench.taken == ["1", "2", "3"]
        assert (first.drained_s, first.closed) == (0.0, 1)

    run(scenario())


def test_a_slow_carrier_holds_up_no_other_and_gets_the_newest_with_all_endpoints() -> None:
    async def scenario() -> None:
        slow, fast = SlowCarrier("slow"), RecordingCarrier("fast")
        async with publishing_to(slow, fast) as bench:
            for number in (1, 2, 3):
                bench.publisher.publish(version(number, "a", f"new in {number}"))
                await bench.until(lambda number=number: fast.version == str(number))  # type: ignore[misc]
                bench.set_endpoints("a", endpoints(number))
                bench.set_endpoints(f"new in {number}", endpoints(number))
            assert (slow.snapshots(), bench.publisher.busy()) == ([], True)
            assert {"new in 1", "new in 3"} <= set(bench.publisher.clusters()), "both are still in use"
            slow.may_take.release()
            slow.may_take.release()
            await bench.until(lambda: slow.version == "3")
            await bench.until(lambda: not bench.publisher.busy())
            assert [one.version for one in slow.snapshots()] == ["1", "3"]
            assert dict(slow.endpoints()) == {name: bench.endpoints[name] for name in ("a", "new in 1", "new in 3")}
            assert slow.events.index(("new in 3", endpoints(3))) < slow.events.index(slow.snapshots()[-1])
            assert set(bench.publisher.clusters()) == {"a", "new in 3"}
        assert bench.taken == ["1", "2", "3"], "an older one is not announced after a newer one"

    run(scenario())


def test_a_failing_carrier_is_a_problem_and_the_others_get_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")

    async def scenario() -> None:
        failing, good = FailingCarrier("failing"), RecordingCarrier("good")
        async with publishing_to(failing, good) as bench:
            bench.set_endpoints("a", endpoints(1))
            bench.publisher.publish(version(1, "a"))
            await bench.until(lambda: bench.refused("failing"))
            assert bench.refused("failing") == (RefusedSnapshot("failing", "ZeroDivisionError('why')"),)
            assert good.events == [("a", endpoints(1)), version(1, "a")]
            reports = await bench.publisher.collect()
            assert {name: report.version for name, report in reports.items()} == {"failing": "", "good": "1"}
            failing.fails = False
            bench.publisher.publish(version(1, "a"))  # after the next compilation
            await bench.until(lambda: failing.version == "1")
            await bench.until(lambda: not bench.refused("failing"))
            assert failing.events == good.events
            failing.fails = True
        assert good.closed == 1

    run(scenario())


class RefusingCarrier(RecordingCarrier):
    """Cannot serve a route of any snapshot."""

    async def apply(self, snapshot: Snapshot) -> None:
        raise CannotServe(snapshot.routes[0], KeyError("fastest"))


def test_a_snapshot_that_cannot_be_served_because_of_a_mapping_is_a_problem_of_the_mapping(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")

    async def scenario() -> None:
        async with publishing_to(RefusingCarrier("refusing")) as bench:
            bench.publisher.publish(version(1, "a"))
            await bench.until(lambda: bench.refused("refusing"))
            (refused,) = bench.refused("refusing")
            assert (refused.by, refused.why) == ("refusing", "KeyError: 'fastest'")
            assert refused.key == route().destinations[0].key
            assert (await bench.publisher.collect())["refusing"].refused == (refused,)

    run(scenario())


class CrashingCarrier(RecordingCarrier):
    """Its `run` raises."""

    async def run(self, changed: Callable[[], None], want_key: Callable[[MissingKey], None]) -> None:
        raise ZeroDivisionError("why")


@pytest.mark.parametrize("kind", [FailingCarrier, RefusingCarrier, CrashingCarrier])
def test_a_carrier_that_fails_before_it_has_started_is_not_waited_for_if_another_has(
    kind: type[RecordingCarrier], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")

    async def scenario() -> None:
        bad, good = kind("bad"), SlowCarrier("good")
        async with publishing_to(bad, good) as bench:
            bench.publisher.publish(version(1, "a"))
            await bench.until(lambda: bench.changes)
            assert bench.publisher.is_starting(), "none has started"
            good.may_take.release()
            await bench.until(lambda: not bench.publisher.is_starting())
            assert good.version == "1"

    run(scenario())


def test_a_carrier_that_has_not_failed_is_waited_for() -> None:
    async def scenario() -> None:
        slow, fast = SlowCarrier("slow"), RecordingCarrier("fast")
        async with publishing_to(slow, fast) as bench:
            bench.publisher.publish(version(1, "a"))
            await bench.until(lambda: fast.version)
            assert bench.publisher.is_starting()
            slow.may_take.release()
            await bench.until(lambda: not bench.publisher.is_starting())

    run(scenario())
