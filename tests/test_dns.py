"""KubernetesServiceResolver: names to addresses, again and again, without losing what was known."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.config.endpoint import Endpoint, EndpointSet
from grpcgw.config.snapshot import Cluster, ResolverKind, ServiceRef
from grpcgw.discovery.catalogue import RESOLVERS
from grpcgw.discovery.dns import INTERVAL_S, MAX_BACKOFF_S, DnsResolver, hostname_of, pause_s
from grpcgw.discovery.store import ObjectStore


def cluster_of(service: ServiceRef) -> Cluster:
    return Cluster(str(service), ResolverKind.KUBERNETES_SERVICE, "kubernetes-service", service)


NAME = cluster_of(ServiceRef("api", "default", 443, "api.example.com"))
FAILURE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

Answer = Iterable[str] | Exception


class ScriptedLookup:
    """Gives its answers in turn, then the last one for ever; notes what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, hostname: str) -> Iterable[str]:
        self.asked.append(hostname)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Published:
    """What a watch published; waits for a number of publications with a deadline."""

    def __init__(self) -> None:
        self.sets: list[EndpointSet] = []
        self._grew = asyncio.Event()

    def __call__(self, endpoints: EndpointSet) -> None:
        self.sets.append(endpoints)
        self._grew.set()

    async def wait_for(self, count: int) -> list[EndpointSet]:
        async with asyncio.timeout(20):
            while len(self.sets) < count:
                self._grew.clear()
                await self._grew.wait()
        return self.sets


def run_with(resolver: DnsResolver, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run `scenario` beside the resolver; no task may be left afterwards."""

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(resolver.run())
            await asyncio.sleep(0)
            await scenario()
            running.cancel()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def shown(found: EndpointSet) -> list[str]:
    return [str(endpoint) for endpoint in found.endpoints]


def test_all_addresses_of_both_families_are_published_sorted_once() -> None:
    resolver = DnsResolver(lookup=ScriptedLookup(["10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2"]))

    async def scenario() -> None:
        published = Published()
        resolver.watch(NAME, published)
        (found,) = await published.wait_for(1)
        assert shown(found) == ["10.0.0.1:443", "10.0.0.2:443", "[fd00::1]:443"]

    run_with(resolver, scenario)


def test_a_changed_answer_is_published_and_an_equal_one_is_not() -> None:
    first, second, third = "10.0.0.1", "10.0.0.2", "10.0.0.3"
    lookup = ScriptedLookup([first], [first], [first, second], [third])
    resolver = DnsResolver(interval_s=0.001, lookup=lookup)

    async def scenario() -> None:
        published = Published()
        resolver.watch(NAME, published)
        sets = await published.wait_for(3)
        assert [shown(found) for found in sets] == [
            ["10.0.0.1:443"],
            ["10.0.0.1:443", "10.0.0.2:443"],
            ["10.0.0.3:443"],
        ]

    run_with(resolver, scenario)
    assert set(lookup.asked) == {"api.example.com"}


@pytest.mark.parametrize("failure", [FAILURE, UnicodeError("label empty or too long")])
def test_a_failure_keeps_the_known_addresses_says_why_and_recovery_clears_it(failure: Exception) -> None:
    resolver = DnsResolver(interval_s=0.001, lookup=ScriptedLookup(["10.0.0.1"], failure, ["10.0.0.1"]))

    async def scenario() -> None:
        published = Published()
        resolver.watch(NAME, published)
        first, failed, recovered = await published.wait_for(3)
        assert failed.endpoints == first.endpoints
        assert "cannot look up api.example.com" in failed.error
        assert "name a KubernetesEndpointResolver" in failed.error
        assert recovered == first

    run_with(resolver, scenario)


def test_a_name_that_never_resolved_is_an_error_without_endpoints() -> None:
    resolver = DnsResolver(lookup=ScriptedLookup(FAILURE))

    async def scenario() -> None:
        published = Published()
        resolver.watch(NAME, published)
        (found,) = await published.wait_for(1)
        assert found.endpoints == ()
        assert "Name or service not known" in found.error

    run_with(resolver, scenario)


@pytest.mark.parametrize("hostname", ["10.0.0.9", "fd00::9", "[fd00::9]"])
def test_an_address_is_published_at_once_without_a_lookup(hostname: str) -> None:
    lookup = ScriptedLookup(FAILURE)
    published: list[EndpointSet] = []
    DnsResolver(lookup=lookup).watch(cluster_of(ServiceRef("x", "default", 80, hostname)), published.append)()
    assert published == [EndpointSet((Endpoint(hostname.strip("[]"), 80),))]
    assert lookup.asked == []


def test_a_watch_made_before_run_is_served_when_it_runs() -> None:
    resolver = DnsResolver(lookup=ScriptedLookup(["10.0.0.1"]))
    early: list[EndpointSet] = []
    resolver.watch(NAME, early.append)

    async def scenario() -> None:
        published = Published()
        resolver.watch(NAME, published)
        await published.wait_for(1)

    run_with(resolver, scenario)
    assert [shown(found) for found in early] == [["10.0.0.1:443"]]


def test_an_ended_watch_leaves_no_task_and_publishes_nothing_while_others_go_on() -> None:
    waiting = asyncio.Event()

    async def lookup(hostname: str) -> Iterable[str]:
        if hostname.startswith("slow"):
            waiting.set()
            await asyncio.Event().wait()
        return ["10.0.0.1"]

    resolver = DnsResolver(interval_s=0.001, lookup=lookup)

    async def scenario() -> None:
        published, slow = Published(), Published()
        end = resolver.watch(cluster_of(ServiceRef("slow", "default", 1, "slow.example.com")), slow)
        await waiting.wait()
        (following,) = (task for task in asyncio.all_tasks() if task.get_name() == "resolve slow.default:1")
        end()
        end()
        await asyncio.wait([following], timeout=20)
        assert following.cancelled()
        resolver.watch(NAME, published)
        await published.wait_for(1)
        assert slow.sets == []

    run_with(resolver, scenario)


def test_a_defect_in_the_lookup_ends_run_loudly() -> None:
    resolver = DnsResolver(lookup=ScriptedLookup(ZeroDivisionError()))
    resolver.watch(NAME, lambda _: None)
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(resolver.run())
    assert caught.group_contains(ZeroDivisionError)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("grpcserver.grpcserver", "grpcserver.grpcserver"),
        ("grpcserver", "grpcserver.there"),
        ("", "grpcserver.there"),
        ("localhost", "localhost"),
        ("a.b.svc.cluster.local", "a.b.svc.cluster.local"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_a_name_without_dots_is_a_service_in_its_namespace(written: str, name: str) -> None:
    assert hostname_of(ServiceRef("grpcserver", "there", 1, written)) == name


@given(failures=st.integers(0, 10_000), chance=st.floats(0, 1))
def test_the_pause_is_the_interval_and_grows_with_failures_up_to_a_bound(failures: int, chance: float) -> None:
    pause = pause_s(INTERVAL_S, failures, chance)
    assert INTERVAL_S * 0.9 <= pause <= MAX_BACKOFF_S * 1.1
    assert pause <= pause_s(INTERVAL_S, failures + 1, chance)
    if failures < 2:
        assert pause <= INTERVAL_S * 1.1


def test_localhost_is_found_by_the_systems_resolver() -> None:
    resolver = DnsResolver()

    async def scenario() -> None:
        published = Published()
        resolver.watch(cluster_of(ServiceRef("localhost", "default", 80, "localhost")), published)
        (found,) = await published.wait_for(1)
        assert {endpoint.address for endpoint in found.endpoints} <= {"127.0.0.1", "::1"}
        assert found.endpoints

    run_with(resolver, scenario)


def test_every_resolver_kind_is_in_the_catalogue_and_can_be_made() -> None:
    assert set(RESOLVERS) == set(ResolverKind)
    for make in RESOLVERS.values():
        make(ObjectStore())
