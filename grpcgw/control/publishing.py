"""Publishes snapshots and endpoint sets to carriers. One that fails or is slow does not hold up the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from grpcgw.carriers.carrier import Carrier, CarrierReport, RefusedSnapshot
from grpcgw.control.task_restarts import TaskRestarter
from grpcgw.logs import DefectLog
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.jwt import MissingKey
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.routing.binding import CannotServe

log = logging.getLogger(__name__)

COLLECT_LIMIT_S = 2.0
"""A carrier that collects its counters for longer is shown with its last ones."""
DRAIN_GRACE_S = 10.0
"""A carrier that drains for so much longer than the drain time is given up."""

Endpoints = Mapping[str, EndpointSet]
OnTaken = Callable[[Snapshot], None]


class Publisher:
    """Snapshots reach a carrier in their order, and the newest one always. Endpoint sets reach it at once."""

    def __init__(self, carriers: Sequence[Carrier], endpoints: Endpoints, on_taken: OnTaken) -> None:
        """`endpoints`: the newest set of each cluster, kept up to date by its owner before `set_endpoints`.

        `on_taken` is called with a snapshot when the first carrier has taken it, and not with an older one after that.
        """
        self._on_taken = on_taken
        self._published = 0
        self._taken = 0
        self._feeds = [_Feed(carrier, endpoints, self._note_taken) for carrier in carriers]

    async def run(
        self, restarter: TaskRestarter, changed: Callable[[], None], want_key: Callable[[MissingKey], None]
    ) -> None:
        """Run the carriers and publish to them until cancelled. `changed`: a carrier has something new to report.
        `want_key`: one lacks the key of a token.

        Raises the UserError of a carrier that cannot start.
        """
        async with asyncio.TaskGroup() as tasks:
            for feed in self._feeds:
                run = partial(feed.run_carrier, changed, want_key)
                what = f"the carrier {feed.carrier.name}"
                tasks.create_task(restarter.keep_running(what, run), name=f"carrier {feed.carrier.name}")
                tasks.create_task(feed.run(changed), name=f"snapshots for {feed.carrier.name}")

    def publish(self, snapshot: Snapshot) -> None:
        """Hand `snapshot` to every carrier that has another version, or failed to take it before."""
        self._published += 1
        for feed in self._feeds:
            feed.publish(self._published, snapshot)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        """Hand `endpoints` to every carrier that has `cluster`; the others get them with the snapshot that names it."""
        for feed in self._feeds:
            feed.set_endpoints(cluster, endpoints)

    def busy(self) -> bool:
        """Whether a carrier has not taken the newest snapshot yet."""
        return any(feed.busy for feed in self._feeds)

    def clusters(self) -> Iterator[str]:
        """Names of the clusters that any carrier serves or is about to serve; one may come twice."""
        for feed in self._feeds:
            yield from feed.clusters()

    def reports(self) -> dict[str, CarrierReport]:
        """What each carrier serves as far as is known now, and the snapshot it did not take, by its name."""
        return {feed.carrier.name: feed.report() for feed in self._feeds}

    async def collect(self) -> dict[str, CarrierReport]:
        """As `reports`, with fresh counters."""
        reports = await asyncio.gather(*(feed.collect() for feed in self._feeds))
        return {feed.carrier.name: report for feed, report in zip(self._feeds, reports, strict=True)}

    def is_starting(self) -> bool:
        """Whether a carrier has not started yet, though nothing of it has failed; or none has started."""
        started = [feed.report().started for feed in self._feeds]
        return not any(started) or not all(
            has_started or feed.has_failed for has_started, feed in zip(started, self._feeds, strict=True)
        )

    async def drain(self, limit_s: float) -> None:
        """Drain all carriers at once; returns when the last has ended, or is given up."""
        await asyncio.gather(*(feed.drain(limit_s) for feed in self._feeds))

    def close(self) -> None:
        """Close all carriers, after `run` ended or in place of it."""
        for feed in self._feeds:
            with DefectLog(log).contained("cannot close carrier", feed.carrier.name):
                feed.carrier.close()

    def _note_taken(self, number: int, snapshot: Snapshot) -> None:
        if number > self._taken:
            self._taken = number
            self._on_taken(snapshot)


class _Feed:
    """One carrier with the snapshot that it has not taken yet."""

    def __init__(self, carrier: Carrier, endpoints: Endpoints, on_taken: Callable[[int, Snapshot], None]) -> None:
        self.carrier = carrier
        self._endpoints, self._on_taken = endpoints, on_taken
        self._newest = EMPTY_SNAPSHOT
        self._number = 0
        self._unsent = asyncio.Event()
        self._applying = False
        self._sent = EMPTY_SNAPSHOT
        """The last one handed to the carrier, whether it took it or failed."""
        self._taken = EMPTY_SNAPSHOT
        self._defects = DefectLog(log)
        self._last_report = CarrierReport()
        self._refused: RefusedSnapshot | None = None
        """Why the carrier did not take the newest snapshot."""
        self._run_failed = False

    @property
    def has_failed(self) -> bool:
        """Whether the carrier did not take the newest snapshot, or its `run` has raised before."""
        return self._run_failed or self._refused is not None

    async def run_carrier(self, changed: Callable[[], None], want_key: Callable[[MissingKey], None]) -> None:
        try:
            await self.carrier.run(changed, want_key)
        except Exception:
            self._run_failed = True
            changed()
            raise

    async def run(self, changed: Callable[[], None]) -> None:
        while True:
            await self._unsent.wait()
            self._unsent.clear()
            self._applying = True
            number, snapshot = self._number, self._newest
            try:
                await self._apply(snapshot)
            except Exception as error:  # a defect of this carrier: it serves what it served before
                self._note_failure(snapshot, error)
                changed()
            else:
                self._taken, self._refused = snapshot, None
            finally:
                self._applying = False
            if self._taken is snapshot:
                with self._defects.contained("cannot note the snapshot that was taken by", self.carrier.name):
                    self._on_taken(number, snapshot)

    async def _apply(self, snapshot: Snapshot) -> None:
        self._sent = snapshot
        for name in snapshot.clusters.keys() - self._taken.clusters.keys():
            if name in self._endpoints:
                self._set_endpoints(name, self._endpoints[name])
        await self.carrier.apply(snapshot)

    def _note_failure(self, snapshot: Snapshot, error: Exception) -> None:
        name = self.carrier.name
        log.error("defect: %s cannot take configuration %s", name, snapshot.version, exc_info=error)
        if isinstance(error, CannotServe):
            self._refused = RefusedSnapshot(name, str(error), error.mapping)
        else:
            self._refused = RefusedSnapshot(name, repr(error))

    @property
    def busy(self) -> bool:
        return self._applying or self._unsent.is_set()

    def publish(self, number: int, snapshot: Snapshot) -> None:
        if snapshot.version != self._newest.version or self._refused is not None:
            self._newest, self._number = snapshot, number
            self._unsent.set()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        if cluster in self._sent.clusters or cluster in self._taken.clusters:
            self._set_endpoints(cluster, endpoints)

    def _set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        with self._defects.contained(f"{self.carrier.name} cannot take the endpoints of cluster", cluster):
            self.carrier.set_endpoints(cluster, endpoints)

    def clusters(self) -> Iterable[str]:
        return {**self._taken.clusters, **self._sent.clusters, **self._newest.clusters}

    def report(self) -> CarrierReport:
        with self._defects.contained("no report of carrier", self.carrier.name):
            self._last_report = self.carrier.report()
        return self._complete_report()

    def _complete_report(self) -> CarrierReport:
        """The last report, with the snapshot that the carrier did not take."""
        report, refused = self._last_report, self._refused
        return report if refused is None else replace(report, refused=(*report.refused, refused))

    async def collect(self) -> CarrierReport:
        with self._defects.contained("no fresh report of carrier", self.carrier.name):
            try:
                async with asyncio.timeout(COLLECT_LIMIT_S):
                    self._last_report = await self.carrier.collect()
                    return self._complete_report()
            except TimeoutError:
                log.debug("carrier %s: counters are late", self.carrier.name)
        return self.report()

    async def drain(self, limit_s: float) -> None:
        with self._defects.contained("cannot drain carrier", self.carrier.name):
            try:
                async with asyncio.timeout(limit_s + DRAIN_GRACE_S):
                    await self.carrier.drain(limit_s)
            except TimeoutError:
                log.error("carrier %s did not end in time", self.carrier.name)
