"""Key sets as a source: when they are fetched, what is kept while that fails, and what a compilation waits for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random

from grpcgw.discovery.sources.key_sets import (
    FetchedJwks,
    FetchFailed,
    KeySetPace,
    KeySets,
    make_not_fetched,
)
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.jwt import MissingKey
from grpcgw.model.key_set_objects import KEY_SET, FetchedKeySet, KeySetSource, read_key_set
from grpcgw.model.objects import KubeObject
from tests.compiling import obj
from tests.jwts import keys_of, make_signer
from tests.parsing import KINDS

URL = "https://issuer.example/jwks"
OLD, NEW = keys_of(make_signer()), keys_of(make_signer("other"))
PACE = KeySetPace(
    shortest_s=0.01, usual_s=0.01, longest_s=0.02, first_retry_s=0.01, shortest_retry_s=0.001, longest_retry_s=0.02
)  # fmt: skip
DIALECT = KINDS


def jwt_filter(name: str = "jwt", url: str = URL, **fields: object) -> KubeObject:
    return obj("Filter", name, {"JWT": {"jwksURI": url, **fields}})


class Issuer:
    """Answers fetches; counts them by URL."""

    def __init__(self) -> None:
        self.answers: dict[str, FetchedJwks | str] = {}
        self.asked: list[str] = []
        self.running = self.most_running = 0
        self.moved = asyncio.Event()
        """Set when a fetch ends: what came of it is in the store a moment later, and seen after the next one."""
        self.held: asyncio.Event | None = None
        """Fetches do not end while it is not set."""

    async def fetch(self, source: KeySetSource) -> FetchedJwks:
        self.asked.append(source.url)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            if self.held is not None:
                await self.held.wait()
            answer = self.answers.get(source.url, FetchedJwks(OLD, None))
            if isinstance(answer, str):
                raise FetchFailed(answer)
            return answer
        finally:
            self.running -= 1
            self.moved.set()


class Fetching:
    def __init__(self, pace: KeySetPace = PACE) -> None:
        self.store, self.issuer = ObjectStore(), Issuer()
        self.sets = KeySets(self.store, DIALECT, pace, self.issuer.fetch, Random(1))
        self.changes = 0
        self.store.subscribe(self._count)

    def _count(self, _: object) -> None:
        self.changes += 1

    async def put(self, *objects: KubeObject) -> None:
        self.store.replace("test", objects)
        await self.sets.fetch_wanted()

    def held(self) -> dict[str, FetchedKeySet]:
        return {one.key.name: read_key_set(one) for one in self.store.of_kind(KEY_SET)}

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                self.issuer.moved.clear()
                await self.issuer.moved.wait()


def run(test: Callable[[Fetching], Awaitable[None]], pace: KeySetPace = PACE) -> None:
    async def run_it() -> None:
        fetching = Fetching(pace)
        task = asyncio.create_task(fetching.sets.run())
        try:
            await test(fetching)
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert fetching.issuer.running == 0

    asyncio.run(run_it())


def test_a_set_is_there_before_what_names_it_is_compiled() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter(), jwt_filter("second"))
        assert fetching.held() == {URL: FetchedKeySet(OLD)}
        (status,) = fetching.sets.statuses()
        assert (status.name, status.keys, status.failures, status.fault) == (URL, OLD, 0, "")
        assert status.fetched_at_s > 0

    run(test)


def test_it_is_fetched_again_and_again_by_one_task() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter(), jwt_filter("second"))
        fetching.issuer.answers[URL] = FetchedJwks(NEW, None)
        await fetching.until(lambda: fetching.held() == {URL: FetchedKeySet(NEW)})
        assert fetching.issuer.most_running == 1

    run(test)


def test_nothing_changes_while_the_keys_stay() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        before = fetching.changes
        await fetching.until(lambda: len(fetching.issuer.asked) > 10)
        assert fetching.changes == before

    run(test)


def test_a_set_that_cannot_be_fetched_is_there_with_the_reason() -> None:
    async def test(fetching: Fetching) -> None:
        fetching.issuer.answers[URL] = "its answer is 503"
        await fetching.put(jwt_filter())
        assert fetching.held() == {URL: FetchedKeySet((), "its answer is 503")}
        await fetching.until(lambda: fetching.sets.statuses()[0].failures > 3)
        fetching.issuer.answers.clear()
        await fetching.until(lambda: fetching.held() == {URL: FetchedKeySet(OLD)})

    run(test)


def test_the_last_good_keys_stay_while_later_fetches_fail() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        fetching.issuer.answers[URL] = "its answer is 503"
        await fetching.until(lambda: fetching.held() == {URL: FetchedKeySet(OLD, "its answer is 503")})
        await fetching.until(lambda: fetching.sets.statuses()[0].failures > 3)
        assert fetching.held() == {URL: FetchedKeySet(OLD, "its answer is 503")}
        fetching.issuer.answers.clear()
        await fetching.until(lambda: fetching.held() == {URL: FetchedKeySet(OLD)})
        (status,) = fetching.sets.statuses()
        assert (status.fault, status.last_fault) == ("", "its answer is 503")
        assert 0 < status.failed_at_s <= status.fetched_at_s

    run(test)


def test_a_compilation_waits_for_a_slow_issuer_for_a_bounded_time_and_once() -> None:
    async def test(fetching: Fetching) -> None:
        fetching.issuer.held = asyncio.Event()
        await fetching.put(jwt_filter())
        assert fetching.held() == {}
        again = asyncio.create_task(fetching.sets.fetch_wanted())
        await asyncio.sleep(0)
        assert again.done()
        fetching.issuer.held.set()
        await fetching.until(lambda: fetching.held() == {URL: FetchedKeySet(OLD)})

    run(test, replace(PACE, first_wait_s=0.1))


def test_sets_that_nothing_names_any_more_are_dropped() -> None:
    async def test(fetching: Fetching) -> None:
        other = "https://other.example/jwks"
        await fetching.put(jwt_filter(), jwt_filter("second", other))
        assert set(fetching.held()) == {URL, other}
        await fetching.put(jwt_filter("second", other))
        assert set(fetching.held()) == {other}
        asked = fetching.issuer.asked.count(URL)
        await fetching.until(lambda: fetching.issuer.asked.count(other) > 5)
        assert fetching.issuer.asked.count(URL) <= asked + 1
        assert [one.name for one in fetching.sets.statuses()] == [other]

    run(test)


def test_one_slow_issuer_holds_no_other_up() -> None:
    async def test(fetching: Fetching) -> None:
        other = "https://other.example/jwks"
        fetching.issuer.held = asyncio.Event()
        await fetching.put(jwt_filter())
        held, fetching.issuer.held = fetching.issuer.held, None
        await fetching.put(jwt_filter(), jwt_filter("second", other))
        assert set(fetching.held()) == {other}
        held.set()

    run(test, replace(PACE, first_wait_s=0.05))


def test_a_filter_that_broke_still_names_its_set() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        await fetching.put(obj("Filter", "jwt", {"JWT": {"jwksURI": 7}}))
        assert set(fetching.held()) == {URL}

    run(test)


def test_filters_of_other_gateways_name_nothing() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(obj("Filter", "jwt", {"ambassador_id": "other", "JWT": {"jwksURI": URL}}))
        assert fetching.held() == {}

    run(test)


SLOW = replace(PACE, shortest_s=1000.0, usual_s=1000.0, longest_s=1000.0, first_retry_s=1000.0, longest_retry_s=1000.0)
ID = KeySetSource(URL).id


def test_a_token_with_a_new_key_has_its_set_fetched_at_once() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        fetching.issuer.answers[URL] = FetchedJwks(NEW, None)
        fetching.sets.fetch_early(MissingKey(ID, "newest"))
        await fetching.until(lambda: fetching.held() == {URL: FetchedKeySet(NEW)})
        assert [one.early for one in fetching.sets.statuses()] == [1]

    run(test, SLOW)


def test_also_while_fetches_fail_and_the_next_one_is_far_away() -> None:
    async def test(fetching: Fetching) -> None:
        fetching.issuer.answers[URL] = "its answer is 503"
        await fetching.put(jwt_filter())
        fetching.issuer.answers.clear()
        fetching.sets.fetch_early(MissingKey(ID, "newest"))
        await fetching.until(lambda: fetching.held() == {URL: FetchedKeySet(OLD)})

    run(test, replace(SLOW, shortest_retry_s=1000.0))


def test_tokens_have_a_set_fetched_once_in_an_interval_however_many_ask() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        for _ in range(100):
            fetching.sets.fetch_early(MissingKey(ID, "newest"))
            await asyncio.sleep(0)
        await fetching.until(lambda: len(fetching.issuer.asked) == 2)
        for _ in range(100):
            fetching.sets.fetch_early(MissingKey(ID, "newest"))
            await asyncio.sleep(0)
        assert len(fetching.issuer.asked) == 2

    run(test, replace(SLOW, early_every_s=1000.0))


def test_who_asks_within_the_interval_is_not_forgotten() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        for fetches in (2, 3, 4):
            fetching.sets.fetch_early(MissingKey(ID, "newest"))
            await fetching.until(lambda fetches=fetches: len(fetching.issuer.asked) == fetches)  # type: ignore[misc]
        assert fetching.sets.statuses()[0].early == 3

    run(test, replace(SLOW, early_every_s=0.02))


def test_asking_for_a_key_that_is_there_by_now_fetches_nothing() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        fetching.sets.fetch_early(MissingKey(ID, OLD[0].kid))
        for _ in range(10):
            await asyncio.sleep(0)
        assert fetching.issuer.asked == [URL]

    run(test, SLOW)


def test_who_asks_during_a_fetch_that_brings_keys_has_no_other_fetched() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        fetching.issuer.answers[URL], fetching.issuer.held = FetchedJwks(NEW, None), asyncio.Event()
        fetching.sets.fetch_early(MissingKey(ID, NEW[0].kid))
        for _ in range(20):
            await asyncio.sleep(0)
        assert fetching.issuer.running == 1
        fetching.sets.fetch_early(MissingKey(ID, NEW[0].kid))
        fetching.issuer.held.set()
        await fetching.until(lambda: fetching.held() == {URL: FetchedKeySet(NEW)})
        for _ in range(10):
            await asyncio.sleep(0)
        assert fetching.issuer.asked == [URL] * 2

    run(test, replace(SLOW, early_every_s=0.0))


def test_asking_for_a_set_that_nothing_names_does_nothing() -> None:
    async def test(fetching: Fetching) -> None:
        await fetching.put(jwt_filter())
        fetching.sets.fetch_early(MissingKey("other", "other"))
        await fetching.put()
        fetching.sets.fetch_early(MissingKey(ID, "newest"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert fetching.issuer.asked == [URL]

    run(test, SLOW)


def test_times_between_fetches_are_bounded() -> None:
    pace = KeySetPace()
    source = KeySetSource(URL)
    assert [pace.choose(source, age) for age in (None, 0.0, 100.0, 86_400.0)] == [60.0, 10.0, 100.0, 300.0]
    assert pace.choose(replace(source, refresh_s=30.0), 100.0) == 30.0
    assert pace.choose(replace(source, refresh_s=0.1), None) == 1.0
    assert pace.choose(replace(source, refresh_s=86_400.0), None) == 300.0


def test_a_set_that_failed_is_fetched_again_at_the_latest_when_its_filter_asks_for_it() -> None:
    pace, source = KeySetPace(), KeySetSource(URL, refresh_s=5.0)
    assert [pace.choose_retry(source, backoff_s) for backoff_s in (0.0, 2.0, 60.0)] == [0.2, 2.0, 5.0]
    assert pace.choose_retry(KeySetSource(URL), 60.0) == 60.0


def test_a_process_that_only_checks_fetches_nothing() -> None:
    (made,) = make_not_fetched([jwt_filter(), jwt_filter("second"), obj("Mapping", "m", {})], DIALECT)
    assert read_key_set(made) == FetchedKeySet(not_fetched=True)
