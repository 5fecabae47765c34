"""Reflector: lists and watches one kind (or one object) of the API server and mirrors it into a partition of the store.

As client-go's Reflector: list, watch from the list's resourceVersion, relist when events were missed. Owns the order
and pace of requests and the status of its kind; `watch_events.py` decodes events. Runs in the control process's loop.

While the API server is away nothing is removed: the last state keeps serving, and the status says how old it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from grpcgw.discovery.backoff import Backoff
from grpcgw.discovery.sources.api_discovery import ApiDiscovery, NotInstalled
from grpcgw.discovery.sources.kubernetes_api import ApiAway, ApiRefused, ConnectionLost, KubernetesApi
from grpcgw.discovery.sources.kubernetes_health import ApiHealth
from grpcgw.discovery.sources.watch_events import (
    Cursor,
    LineSplitter,
    Put,
    Relist,
    Removed,
    decode_event,
    read_page,
)
from grpcgw.discovery.store import ObjectStore, SourceStatus
from grpcgw.errors import UserError
from grpcgw.logs import DefectLog
from grpcgw.model.dialect import DialectObjects, WatchedKind
from grpcgw.model.objects import KubeObject, Problem, Severity

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReflectorPace:
    """Intervals and time-outs of requests to the API server; tests shorten them."""

    page_size: int = 500
    watch_s: tuple[float, float] = (300.0, 600.0)
    """A watch ends after a random time in this range (`timeoutSeconds`), so that gateways do not return all at once."""
    overtime_s: float = 30.0
    """A watch that the server has not ended this long after its time is dead."""
    silence_s: float = 30.0
    """After this time without a byte the server is probed: a kind that does not change may be silent until its watch
    ends, as servers send bookmarks only for kinds that have changed. So a kind with the status `watching` had its last
    contact at most `silence_s` and `answer_s` ago."""
    answer_s: float = 10.0
    """Time-out of a probe. A server that does not answer in time is away."""
    request_s: float = 60.0
    """Time-out of a page of a list, and how long the start waits for a single Secret."""
    recheck_s: float = 10.0
    """Interval of checks for a kind that is not installed."""
    settled_s: float = 5.0
    """A watch that lasted this long resets the back-off."""
    retry_base_s: float = 0.1
    retry_cap_s: float = 30.0
    """Back-off after failures. It ends for all kinds when the server answers one of them."""
    rewatch_cap_s: float = 1.0
    """Back-off after a server closed young watches properly. Shorter, as such a server does deliver events."""


@dataclass(frozen=True, slots=True)
class ReflectorContext:
    """What all reflectors of one source share."""

    api: KubernetesApi
    discovery: ApiDiscovery
    health: ApiHealth
    dialect: DialectObjects
    pace: ReflectorPace
    clock: Callable[[], float]
    """Seconds since the epoch."""
    random: Random


def name_partition(kind: WatchedKind) -> str:
    return f"kubernetes {kind.name}"


class Reflector:
    """Lists and watches one kind, or one object of it, until cancelled."""

    def __init__(self, kind: WatchedKind, shared: ReflectorContext, store: ObjectStore, namespace: str) -> None:
        pace = shared.pace
        self.partition = name_partition(kind)
        self._kind, self._store, self._namespace = kind, store, namespace
        self._api, self._discovery, self._health = shared.api, shared.discovery, shared.health
        self._dialect, self._pace, self._clock, self._random = shared.dialect, pace, shared.clock, shared.random
        self._retry = Backoff(pace.retry_base_s, pace.retry_cap_s, shared.random)
        self._relist = Backoff(pace.retry_base_s, pace.retry_cap_s, shared.random)
        """Separate from `_retry`: the list after an outage does not wait for the back-off of the outage."""
        self._rewatch = Backoff(pace.retry_base_s, pace.rewatch_cap_s, shared.random)
        self._defects = DefectLog(log)
        self._status = SourceStatus(self.partition, synced=False, last_contact_s=0.0, watching=False)
        store.set_status(self._status)
        self._resource = kind.candidates[0]
        self._cursor: Cursor | None = None
        """None: a list is due."""
        self._watching_since: float | None = None
        self._ends_at_s = 0.0
        """When the server should end the watch."""
        self._absences = 0
        self._verb = "list"
        self._missing_right = ""
        """The error of the last missing right; empty once there is a watch."""
        self._waited_for_until_s = 0.0

    async def run(self) -> None:
        self._waited_for_until_s = asyncio.get_running_loop().time() + self._pace.request_s
        try:
            while True:
                delay_s = await self._follow_once()
                if await self._health.pause(delay_s):
                    self._reset_backoffs()
                    await asyncio.sleep(self._retry.next_s())  # spreads the requests of all kinds
        finally:
            self._health.forget(self.partition)

    async def _follow_once(self) -> float:
        """List if a list is due, then watch until the watch ends. Returns the seconds to wait before the next round."""
        self._watching_since = None
        try:
            cursor = self._cursor or await self._list()
            await self._watch(cursor)
        except NotInstalled:
            self._health.note_success(self.partition)
            return self._note_absence()
        except ApiRefused as refusal:
            self._health.note_answer()
            return self._note_refusal(refusal)
        except Relist as reason:
            return self._note_relist(reason)
        except ConnectionLost as lost:
            self._note_error(str(lost))
            return self._next_delay(self._rewatch)
        except ApiAway as away:
            self._health.note_away(self.partition, away)
            self._note_error(str(away))
            return self._next_delay(self._retry)
        except UserError as error:
            return self._note_failure("credentials", str(error))
        except Exception as error:  # the other kinds must go on
            self._cursor = None
            self._defects.note(f"{self.partition} cannot be followed")
            self._note_error(f"it cannot be followed, which is a defect of grpcgw, to be reported ({error!r})")
            return self._next_delay(self._relist)
        return self._next_delay(self._rewatch)

    async def _list(self) -> Cursor:
        self._verb = "list"
        self._resource = await self._discovery.choose(self._kind)
        try:
            objects, version = await self._read_pages(self._pace.page_size)
        except ApiRefused as refusal:
            if refusal.status != 410:
                raise
            # The continue token expired between two pages: read the list in one piece.
            objects, version = await self._read_pages(0)
        self._store.replace(self.partition, objects)
        self._absences = 0
        self._report()
        self._set_status(replace(self._status, synced=True, last_contact_s=self._clock()))
        self._cursor = Cursor(version, {obj.key for obj in objects})
        return self._cursor

    async def _read_pages(self, page_size: int) -> tuple[list[KubeObject], str]:
        objects: list[KubeObject] = []
        query = self._query(limit=str(page_size)) if page_size else self._query()
        while True:
            page = await self._api.get(self._resource.path(self._namespace), query, self._pace.request_s)
            found, version, token = read_page(page, self._resource, self._dialect)
            objects += found
            if not token:
                return objects, version
            query["continue"] = token

    async def _watch(self, cursor: Cursor) -> None:
        self._verb = "watch"
        lines = LineSplitter()
        lasts_s = max(1, round(self._random.uniform(*self._pace.watch_s)))
        query = self._query(
            watch="1",
            allowWatchBookmarks="true",
            resourceVersion=cursor.version,
            timeoutSeconds=str(lasts_s),
        )
        path = self._resource.path(self._namespace)
        async with self._api.stream(path, query, self._pace.silence_s, self._check_alive) as chunks:
            self._watching_since = asyncio.get_running_loop().time()
            self._ends_at_s = self._watching_since + lasts_s
            self._health.note_success(self.partition)
            self._missing_right = ""
            self._report()
            self._set_status(replace(self._status, watching=True, error="", last_contact_s=self._clock()))
            async for chunk in chunks:
                for line in lines.feed(chunk):
                    self._apply(line, cursor)

    async def _check_alive(self) -> None:
        """Raises ApiAway if the silent watch is dead."""
        if asyncio.get_running_loop().time() > self._ends_at_s + self._pace.overtime_s:
            raise ApiAway("the API server did not end a watch in the time it was given")
        await self._health.probe()
        self._set_status(replace(self._status, last_contact_s=self._clock()))

    def _apply(self, line: bytes, cursor: Cursor) -> None:
        event = decode_event(line, self._resource, self._dialect)
        cursor.advance(event)
        self._set_status(replace(self._status, last_contact_s=self._clock()))
        if isinstance(event, Put):
            self._store.apply(self.partition, event.obj)
        elif isinstance(event, Removed):
            self._store.remove(self.partition, event.key)

    def _query(self, **parameters: str) -> dict[str, str]:
        selector = {"fieldSelector": self._resource.field_selector} if self._resource.field_selector else {}
        return {**selector, **parameters}

    def _note_absence(self) -> float:
        """A kind that is not installed counts as read and is checked again. A starting API server may not serve a kind
        for a moment, so a kind that was there is removed only when it is missing twice."""
        self._cursor = None
        self._absences += 1
        status = replace(self._status, watching=False, last_contact_s=self._clock())
        if self._absences > 1 or not status.synced:
            self._store.replace(self.partition, ())
            self._store.report(self.partition, [] if self._kind.rare else [self._absence_notice()])
            self._set_status(replace(status, synced=True, error=""))
        else:
            self._set_status(replace(status, error=f"{self._kind.name} is no longer served; checking once more"))
        return self._random.uniform(0.9, 1.1) * self._pace.recheck_s

    def _note_refusal(self, refusal: ApiRefused) -> float:
        if not refusal.is_passing:
            self._cursor = None
        if refusal.status == 404 and self._resource.group:
            return self._note_absence()
        if refusal.status == 410:
            return self._note_relist(Relist(str(refusal), is_expiry=True))
        error, cause = str(refusal), f"refused {refusal.status}"
        if refusal.status == 403:
            right = self._resource.describe_right(self._verb, self._namespace)
            error = f"not allowed: grpcgw needs the right {right} (deploy/rbac.yaml grants it): {refusal.message}"
            cause = f"{self.partition} 403"
            self._missing_right = error
            self._report()
        delay_s = self._note_failure(cause, error, refusal.is_passing)
        return max(delay_s, min(refusal.retry_after_s, self._pace.retry_cap_s))

    def _note_relist(self, reason: Relist) -> float:
        self._cursor = None
        self._health.note_answer()
        if reason.is_expiry:
            log.debug("%s: listing again: %s", self.partition, reason)
        else:
            self._health.note_failure(self.partition, "list again", f"listing again: {reason}")
        self._note_error(f"listing again: {reason}")
        return self._next_delay(self._relist)

    def _note_failure(self, cause: str, error: str, is_passing: bool = True) -> float:
        self._health.note_failure(self.partition, cause, error)
        self._note_error(error, is_passing)
        return self._next_delay(self._retry)

    def _note_error(self, error: str, is_passing: bool = True) -> None:
        can_wait = self._kind.only is not None or self._kind.optional
        synced = self._status.synced or (can_wait and not self._is_waited_for(is_passing))
        self._set_status(replace(self._status, synced=synced, watching=False, error=error))

    def _is_waited_for(self, is_passing: bool) -> bool:
        """Whether a single Secret or optional kind that could not be read still delays the start: only for a while,
        as everything that does not need it can be served."""
        return is_passing and asyncio.get_running_loop().time() < self._waited_for_until_s

    def _next_delay(self, backoff: Backoff) -> float:
        since = self._watching_since
        if since is not None and asyncio.get_running_loop().time() - since >= self._pace.settled_s:
            self._reset_backoffs()
        return backoff.next_s()

    def _reset_backoffs(self) -> None:
        for backoff in (self._retry, self._relist, self._rewatch):
            backoff.reset()

    def _report(self) -> None:
        self._store.report(self.partition, self._problems())

    def _problems(self) -> Iterator[Problem]:
        preferred = self._kind.candidates[0]
        if self._resource.kind != preferred.kind:
            text = f"the cluster does not serve {preferred.kind} {preferred.api_version}; {self._resource.kind} is read"
            yield Problem(Severity.NOTICE, text, "kubernetes")
        if self._missing_right:
            yield Problem(Severity.ERROR, self._missing_right, "kubernetes", self._kind.only)

    def _absence_notice(self) -> Problem:
        text = (
            f"{self._kind.name} ({self._resource.group}) is not installed in this cluster, so none is read; "
            f"deploy/crds.yaml installs it, and it is picked up within {self._pace.recheck_s * 1.1:.0f} s"
        )
        return Problem(Severity.NOTICE, text, "kubernetes")

    def _set_status(self, status: SourceStatus) -> None:
        self._status = status
        self._store.set_status(status)
