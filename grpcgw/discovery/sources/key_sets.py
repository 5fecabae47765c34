"""Key sets (JWKS) as a source of objects: fetches the URLs that Filters name, again and again, one task for each.

Owns when a set is fetched, and that the keys of the last fetch that succeeded stay while later ones fail. A new key is
known at most `KeySetPace.longest_s` after the issuer has published it, or when a token has it: workers then ask for a
fetch (`fetch_early`). Runs in the control process's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from random import Random

from grpcgw.discovery.backoff import Backoff
from grpcgw.discovery.sources.named_by_objects import NamedByObjects
from grpcgw.discovery.store import ObjectStore
from grpcgw.errors import GrpcgwError
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.jwt import MissingKey, PublicKey
from grpcgw.model.key_set_objects import FetchedKeySet, KeySetSource, make_key_set, show_url
from grpcgw.model.objects import KubeObject, ObjectKey

PARTITION = "key sets"


@dataclass(frozen=True, slots=True)
class KeySetPace:
    """Times from one fetch to the next, before jitter."""

    shortest_given_s: float = 1.0
    """What a Filter may ask for (`maxStale`)."""
    shortest_s: float = 10.0
    """What an answer may ask for (`cache-control`)."""
    usual_s: float = 60.0
    """Where neither the answer nor the Filter says."""
    longest_s: float = 300.0
    first_retry_s: float = 1.0
    shortest_retry_s: float = 0.2
    longest_retry_s: float = 60.0
    early_every_s: float = 10.0
    """From one fetch that a token asked for to the next: anybody can send tokens."""
    first_wait_s: float = 3.0
    """How long a compilation waits for the first fetch of a set."""

    def choose(self, source: KeySetSource, max_age_s: float | None) -> float:
        if source.refresh_s is not None:
            return min(max(source.refresh_s, self.shortest_given_s), self.longest_s)
        return min(max(self.usual_s if max_age_s is None else max_age_s, self.shortest_s), self.longest_s)

    def choose_retry(self, source: KeySetSource, backoff_s: float) -> float:
        """After a failure: never later than after a success, as keys may have changed meanwhile."""
        return min(max(backoff_s, self.shortest_retry_s), self.choose(source, None))


@dataclass(frozen=True, slots=True)
class KeySetStatus:
    """For metrics and the page."""

    name: str
    """Its URL."""
    keys: tuple[PublicKey, ...] = ()
    fetched_at_s: float = 0.0
    """Seconds since the epoch of the last fetch that succeeded; 0.0: none has."""
    failures: int = 0
    """Fetches that failed, since the set was named first."""
    early: int = 0
    """Fetches before their time, since a token had a key that is not in the set."""
    fault: str = ""
    """Why the last fetch failed; empty: it succeeded, or none has ended yet."""
    last_fault: str = ""
    """Why a fetch failed last, though others may have succeeded since; empty: none has failed."""
    failed_at_s: float = 0.0
    """When that was, in seconds since the epoch; 0.0: never."""


class FetchFailed(GrpcgwError):
    """Why a key set could not be fetched; the message has no address and no content."""


@dataclass(frozen=True, slots=True)
class FetchedJwks:
    keys: tuple[PublicKey, ...]
    """At least one."""
    max_age_s: float | None
    """Of the answer's `cache-control`; 0 where it must not be stored; None: it does not say."""


Fetch = Callable[[KeySetSource], Awaitable[FetchedJwks]]


async def _fetch_by_http(source: KeySetSource) -> FetchedJwks:
    from grpcgw.discovery.sources.jwks_client import fetch_jwks  # aiohttp: a seventh of the start-up, for few users

    return await fetch_jwks(source)


def make_not_fetched(objects: Iterable[KubeObject], dialect: DialectObjects) -> list[KubeObject]:
    """The key sets that `objects` name, as objects of a process that fetches none."""
    named = {source.key for obj in objects for source in find_sources(obj, dialect) or ()}
    return [make_key_set(key, FetchedKeySet(not_fetched=True)) for key in sorted(named)]


def find_sources(obj: KubeObject, dialect: DialectObjects) -> frozenset[KeySetSource] | None:
    """Those that an object of this gateway names; None: it is too broken to tell."""
    return dialect.find_key_sets(obj) if obj.key.kind in dialect.naming_kinds and dialect.owns(obj) else frozenset()


class KeySets:
    """Keeps the store equal to the key sets that its objects name."""

    def __init__(
        self,
        store: ObjectStore,
        dialect: DialectObjects,
        pace: KeySetPace | None = None,
        fetch: Fetch = _fetch_by_http,
        random: Random | None = None,
    ) -> None:
        """`fetch` raises FetchFailed."""
        self._store, self._fetch = store, fetch
        self._pace, self._random = pace or KeySetPace(), random or Random()
        self._named = NamedByObjects(store, dialect.naming_kinds, lambda obj: find_sources(obj, dialect))
        self._sources: dict[ObjectKey, KeySetSource] = {}
        self._sources_changed = asyncio.Event()
        self._tried: dict[ObjectKey, asyncio.Event] = {}
        """By set: whether its first fetch has ended."""
        self._wanted_early: dict[ObjectKey, asyncio.Event] = {}
        """By set: whether a token has asked for it since its last fetch began."""
        self._statuses: dict[ObjectKey, KeySetStatus] = {}

    def statuses(self) -> tuple[KeySetStatus, ...]:
        return tuple(self._statuses[key] for key in sorted(self._statuses))

    async def fetch_wanted(self) -> None:
        """Return when each set that is named newly has been fetched once, or soon after: so that it is compiled
        together with what names it."""
        wanted, former = _merge(self._named.find()), self._sources
        if wanted == former:
            return
        self._sources = wanted
        for key in former.keys() - wanted.keys():
            self._forget(key)
        untried = [self._tried.setdefault(key, asyncio.Event()) for key in wanted.keys() - former.keys()]
        self._sources_changed.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.first_wait_s):
                for event in untried:
                    await event.wait()

    def fetch_early(self, missing: MissingKey) -> None:
        """Fetch the set now, or `early_every_s` after the last time; unless it has the key by now, which a worker may
        not know yet."""
        key = next((key for key, source in self._sources.items() if source.id == missing.key_set), None)
        if key in self._wanted_early and missing.kid not in [one.kid for one in self._status_of(key).keys]:
            self._wanted_early[key].set()

    async def run(self) -> None:
        """Fetch until cancelled."""
        running: dict[ObjectKey, tuple[KeySetSource, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._sources_changed.clear()
                for key, (source, task) in list(running.items()):
                    if self._sources.get(key) != source:
                        task.cancel()
                        del running[key]
                for key in self._sources.keys() - running.keys():
                    source = self._sources[key]
                    task = tasks.create_task(self._keep_fetching(source), name=f"key set {show_url(key)}")
                    running[key] = source, task
                await self._sources_changed.wait()

    async def _keep_fetching(self, source: KeySetSource) -> None:
        pace = self._pace
        retry = Backoff(pace.first_retry_s, pace.longest_retry_s, self._random)
        wanted = self._wanted_early[source.key] = asyncio.Event()
        earliest_s = -math.inf
        while True:
            wanted.clear()
            try:
                fetched = await self._fetch(source)
            except FetchFailed as error:
                self._note_failure(source.key, str(error))
                pause_s = pace.choose_retry(source, retry.next_s())
            else:
                if fetched.keys != self._status_of(source.key).keys:
                    wanted.clear()  # who asked meanwhile asks again, if these are not what is missing
                self._note_success(source.key, fetched)
                retry.reset()
                pause_s = pace.choose(source, fetched.max_age_s) * self._random.uniform(0.9, 1.0)
            if await self._wait_until_wanted(wanted, earliest_s, pause_s):
                earliest_s = asyncio.get_running_loop().time() + pace.early_every_s
                former = self._status_of(source.key)
                self._statuses[source.key] = replace(former, early=former.early + 1)

    async def _wait_until_wanted(self, wanted: asyncio.Event, earliest_s: float, longest_s: float) -> bool:
        """False: for `longest_s` nobody wanted the set before its time, or not yet at `earliest_s` (of the loop)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await wanted.wait()
                await asyncio.sleep(earliest_s - asyncio.get_running_loop().time())
                return True
        return False

    def _note_success(self, key: ObjectKey, fetched: FetchedJwks) -> None:
        former = self._status_of(key)
        self._note(key, replace(former, keys=fetched.keys, fetched_at_s=time.time(), fault=""))

    def _note_failure(self, key: ObjectKey, fault: str) -> None:
        former = self._status_of(key)
        failed = replace(former, fault=fault, last_fault=fault, failed_at_s=time.time())
        self._note(key, replace(failed, failures=former.failures + 1))

    def _status_of(self, key: ObjectKey) -> KeySetStatus:
        return self._statuses.get(key, KeySetStatus(show_url(key)))

    def _note(self, key: ObjectKey, status: KeySetStatus) -> None:
        """A set that failed keeps the keys of its last fetch that succeeded."""
        self._statuses[key] = status
        self._store.apply(PARTITION, make_key_set(key, FetchedKeySet(status.keys, status.fault)))
        if key in self._tried:
            self._tried[key].set()

    def _forget(self, key: ObjectKey) -> None:
        self._store.remove(PARTITION, key)
        self._statuses.pop(key, None)
        self._tried.pop(key, None)
        self._wanted_early.pop(key, None)


def _merge(sources: Iterable[KeySetSource]) -> dict[ObjectKey, KeySetSource]:
    """One for each set: the shortest refresh that an object asks for."""
    merged: dict[ObjectKey, KeySetSource] = {}
    for source in sources:
        known = merged.get(source.key)
        if known is None or _refresh(source) < _refresh(known):
            merged[source.key] = source
    return merged


def _refresh(source: KeySetSource) -> float:
    return math.inf if source.refresh_s is None else source.refresh_s
