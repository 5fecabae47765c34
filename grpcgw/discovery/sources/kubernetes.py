"""Objects from an API server: one list/watch loop per kind, each writing its own partition of the store, and one per
Secret that is named and no certificate (`named_secrets.py` says which those are).

Owns the order of requests, their pace, and the status of each kind. What a line of a watch means is decided in
`watch.py`; what an object means is not known here. Runs in the control process's event loop, without threads.

While the API server is away nothing is removed: the last state keeps serving, and the status says how old it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

from grpcgw.discovery.sources.annotations import AnnotatedObjects
from grpcgw.discovery.sources.kubernetes_api import ApiAway, ApiRefused, ClusterAccess, ConnectionLost, KubernetesApi
from grpcgw.discovery.sources.kubernetes_health import ApiHealth
from grpcgw.discovery.sources.named_secrets import NamedSecrets
from grpcgw.discovery.sources.watch import (
    CERTIFICATES,
    WATCHED_KINDS,
    ApiResource,
    Backoff,
    Cursor,
    LineSplitter,
    Put,
    Relist,
    Removed,
    WatchedKind,
    decode_event,
    read_kinds,
    read_page,
    watch_secret,
)
from grpcgw.discovery.store import ObjectStore, SourceStatus
from grpcgw.errors import UserError
from grpcgw.logs import DefectLog
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how patiently the API server is asked; tests make it brisk."""

    page_size: int = 500
    watch_s: tuple[float, float] = (300.0, 600.0)
    """A watch ends after a random time in between, told to the server, so that gateways do not return all at once."""
    overtime_s: float = 30.0
    """A watch that the server has not ended so long after its time is dead."""
    silence_s: float = 30.0
    """After so long without a byte the server is asked whether it is there at all: a kind that does not change may be
    silent until its watch ends, as servers send bookmarks only for kinds that have changed. So a kind whose status says
    `watching` had its last contact `silence_s` and `answer_s` ago at most."""
    answer_s: float = 10.0
    """What that question has for its answer. A server that does not answer in time is away."""
    request_s: float = 60.0
    """For a page of a list. So long is a single Secret waited for at the start, too."""
    recheck_s: float = 10.0
    """How soon a kind that is not installed is looked for again."""
    settled_s: float = 5.0
    """A watch that lived so long was a good one: the back-off starts anew."""
    retry_base_s: float = 0.1
    retry_cap_s: float = 30.0
    """Back-off after failures. It ends for all kinds as soon as one of them finds the server again."""
    rewatch_cap_s: float = 1.0
    """Back-off after a server closed young watches properly. Shorter, as such a server does deliver."""


class KubernetesSource:
    """Keeps the store equal to the cluster, for the kinds of `WATCHED_KINDS` and the Secrets that are named.

    From its creation on the store is not `synced` until every kind has been read once. `namespace` empty: all
    namespaces. `ambassador_id`: whose objects count in naming Secrets. `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        store: ObjectStore,
        access: ClusterAccess,
        namespace: str = "",
        ambassador_id: str = "default",
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        pace = pace or Pace()
        self._api = KubernetesApi(access)
        discovery = _Discovery(self._api, pace)
        health = ApiHealth(self._api, pace.answer_s, pace.silence_s / 6)

        def make_loop(kind: WatchedKind, namespace: str) -> _KindLoop:
            return _KindLoop(kind, self._api, discovery, health, store, namespace, pace, clock, random or Random())

        def make_secret_loop(key: ObjectKey) -> _KindLoop:
            return make_loop(watch_secret(key), key.namespace)

        self._named = NamedSecrets(store, make_secret_loop, _name_partition(CERTIFICATES), namespace, ambassador_id)
        self._loops = [make_loop(kind, namespace) for kind in WATCHED_KINDS]
        self._annotated = AnnotatedObjects(store)

    async def run(self) -> None:
        """Run until cancelled. Raises UserError at once where address or credentials cannot be loaded; an API server
        that is away is no error, here or later: it is waited for."""
        await self._api.connect()
        unfollow = self._annotated.follow()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._named.run(), name="kubernetes named Secrets")
                for loop in self._loops:
                    group.create_task(loop.run(), name=loop.partition)
        finally:
            unfollow()
            await self._api.aclose()


class _NotInstalled(Exception):
    """The cluster does not serve the kind."""


class _Discovery:
    """Which kinds an API version has, remembered for half the time between rechecks, as several loops ask the same."""

    def __init__(self, api: KubernetesApi, pace: Pace) -> None:
        self._api = api
        self._timeout_s = pace.request_s
        self._lifetime_s = pace.recheck_s / 2
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    async def choose(self, kind: WatchedKind) -> ApiResource:
        """Raises _NotInstalled, ApiAway."""
        served = {each.api_version: await self._kinds(each.group_path) for each in kind.candidates if each.group}
        resource = kind.choose(served)
        if resource is None:
            raise _NotInstalled
        return resource

    async def _kinds(self, group_path: str) -> frozenset[str]:
        now = asyncio.get_running_loop().time()
        until, kinds = self._known.get(group_path, (now, frozenset()))
        if now < until:
            return kinds
        try:
            kinds = read_kinds(await self._api.get(group_path, {}, self._timeout_s))
        except ApiRefused as refusal:
            if refusal.status != 404:
                raise ApiAway(f"asking {group_path} which kinds there are was refused: {refusal}") from refusal
            kinds = frozenset()
        self._known[group_path] = (now + self._lifetime_s, kinds)
        return kinds


def _name_partition(kind: WatchedKind) -> str:
    return f"kubernetes {kind.name}"


class _KindLoop:
    """List, watch, and what comes after the end of a watch, for one kind, or for one object of it."""

    def __init__(
        self,
        kind: WatchedKind,
        api: KubernetesApi,
        discovery: _Discovery,
        health: ApiHealth,
        store: ObjectStore,
        namespace: str,
        pace: Pace,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self.partition = _name_partition(kind)
        self._kind = kind
        self._api = api
        self._discovery = discovery
        self._health = health
        self._store = store
        self._namespace = namespace
        self._pace = pace
        self._clock = clock
        self._random = random
        self._retry = Backoff(pace.retry_base_s, pace.retry_cap_s, random)
        self._relist = Backoff(pace.retry_base_s, pace.retry_cap_s, random)
        """Apart from `_retry`: a list that is due after an outage does not wait for what the outage made of that."""
        self._rewatch = Backoff(pace.retry_base_s, pace.rewatch_cap_s, random)
        self._defects = DefectLog(log)
        self._status = SourceStatus(self.partition, synced=False, last_contact_s=0.0, watching=False)
        store.set_status(self._status)
        self._resource = kind.candidates[0]
        self._cursor: Cursor | None = None
        """None: a list is due."""
        self._watching_since: float | None = None
        self._ends_at_s = 0.0
        """When the server should have ended the watch."""
        self._absences = 0
        self._verb = "list"
        self._missing_right = ""
        """What the last refusal of a right said; empty from when there is a watch."""
        self._waited_for_until_s = 0.0

    async def run(self) -> None:
        self._waited_for_until_s = asyncio.get_running_loop().time() + self._pace.request_s
        try:
            while True:
                delay_s = await self._follow_once()
                if await self._health.pause(delay_s):
                    self._reset_backoffs()
                    await asyncio.sleep(self._retry.next_s())  # not all at once
        finally:
            self._health.forget(self.partition)

    async def _follow_once(self) -> float:
        """A list where one is due, and a watch until it ends. Returns the seconds to wait before the next round."""
        self._watching_since = None
        try:
            cursor = self._cursor or await self._list()
            await self._watch(cursor)
        except _NotInstalled:
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
        except Exception as error:  # the other kinds are to be followed
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
            # The list changed too much between two pages to be continued: take it in one piece.
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
            found, version, token = read_page(page, self._resource)
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
        async with self._api.stream(path, query, self._pace.silence_s, self._prove_life) as chunks:
            self._watching_since = asyncio.get_running_loop().time()
            self._ends_at_s = self._watching_since + lasts_s
            self._health.note_success(self.partition)
            self._missing_right = ""
            self._report()
            self._set_status(replace(self._status, watching=True, error="", last_contact_s=self._clock()))
            async for chunk in chunks:
                for line in lines.feed(chunk):
                    self._apply(line, cursor)

    async def _prove_life(self) -> None:
        """Raises ApiAway where the watch that is silent cannot be trusted any more."""
        if asyncio.get_running_loop().time() > self._ends_at_s + self._pace.overtime_s:
            raise ApiAway("the API server did not end a watch in the time it was given")
        await self._health.ask()
        self._set_status(replace(self._status, last_contact_s=self._clock()))

    def _apply(self, line: bytes, cursor: Cursor) -> None:
        event = decode_event(line, self._resource)
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
        """Not installed counts as read, and is looked for again. An API server that is starting can deny a kind for a
        moment, so a kind that was there is believed gone only when it is missing twice."""
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
        """Whether a single Secret or optional kind that could not be read still keeps the gateway from starting: it is
        worth a while, not more, as everything that does not need it can be served."""
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
