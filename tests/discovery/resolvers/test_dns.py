"""KubernetesServiceResolver: names to addresses, again and again, without losing what was known."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast

import pytest
from dataplane.waiting import eventually
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.discovery.resolvers.dns import INTERVAL_S, MAX_BACKOFF_S, DnsResolver, hostname_of, vary_pause_s
from grpcgw.discovery.resolvers.dns_lookup import MAX_THREADS, DnsAnswer, LookupFailed, SystemLookup, TtlLookup
from grpcgw.discovery.resolvers.resolver_catalogue import RESOLVERS
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.cluster import DEFAULT_ADDRESSING, Addressing, Cluster, ResolverKind, ServiceRef
from grpcgw.model.endpoints import Endpoint, EndpointSet


def cluster_of(service: ServiceRef, addressing: Addressing = DEFAULT_ADDRESSING) -> Cluster:
    kind = ResolverKind.KUBERNETES_SERVICE
    return Cluster(str(service), kind, "kubernetes-service", service, addressing=addressing)


API = ServiceRef("api", "default", 443, "api.example.com")
NAME = cluster_of(API)
FAILURE = LookupFailed("Name or service not known")


class ScriptedLookup:
    """Gives its answers in turn, then the last one for ever; notes what it was asked."""

    def __init__(self, *answers: Iterable[str] | Exception, ttl_s: float = 0.0) -> None:
        self._answers = list(answers)
        self._ttl_s = ttl_s
        self.asked: list[str] = []
        self.closed = False

    async def ask(self, hostname: str, addressing: Addressing) -> DnsAnswer:
        self.asked.append(hostname)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return DnsAnswer(tuple(answer), self._ttl_s)

    async def aclose(self) -> None:
        self.closed = True


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


def test_a_name_with_one_address_of_each_family_is_one_host() -> None:
    """Which family comes first in an answer may change."""
    four, six = "10.0.0.1", "fd00::1"
    resolver = DnsResolver(interval_s=0.001, lookup=ScriptedLookup([six, four], [four, six], [four, six, "fd00::2"]))

    async def scenario() -> None:
        published = Published()
        resolver.watch(NAME, published)
        one, several = await published.wait_for(2)
        assert (shown(one), one.other_addresses) == (["[fd00::1]:443"], (four,))
        assert (len(several.endpoints), several.other_addresses) == (3, ())

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


def test_a_failure_keeps_the_known_addresses_says_why_and_recovery_clears_it() -> None:
    resolver = DnsResolver(interval_s=0.001, lookup=ScriptedLookup(["10.0.0.1"], FAILURE, ["10.0.0.1"]))

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

    class SlowLookup(ScriptedLookup):
        async def ask(self, hostname: str, addressing: Addressing) -> DnsAnswer:
            if hostname.startswith("slow"):
                waiting.set()
                await asyncio.Event().wait()
            return DnsAnswer(("10.0.0.1",))

    resolver = DnsResolver(interval_s=0.001, lookup=SlowLookup())

    async def scenario() -> None:
        published, slow = Published(), Published()
        end = resolver.watch(cluster_of(ServiceRef("slow", "default", 1, "slow.example.com")), slow)
        await waiting.wait()
        (following,) = (task for task in asyncio.all_tasks() if task.get_name() == "resolve slow.example.com:1")
        end()
        end()
        await asyncio.wait([following], timeout=20)
        assert following.cancelled()
        resolver.watch(NAME, published)
        await published.wait_for(1)
        assert slow.sets == []

    run_with(resolver, scenario)


def test_a_defect_in_the_lookup_is_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")
    resolver = DnsResolver(interval_s=0.01, lookup=ScriptedLookup(["10.0.0.1"], ZeroDivisionError(), ["10.0.0.2"]))

    async def scenario() -> None:
        published = Published()
        resolver.watch(NAME, published)
        first, defect, last = await published.wait_for(3)
        assert (first.error, "defect of grpcgw (ZeroDivisionError())" in defect.error, last.error) == ("", True, "")
        assert defect.endpoints == first.endpoints != last.endpoints

    run_with(resolver, scenario)


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
    pause = vary_pause_s(INTERVAL_S, failures, chance)
    assert INTERVAL_S * 0.9 <= pause <= MAX_BACKOFF_S * 1.1
    assert pause <= vary_pause_s(INTERVAL_S, failures + 1, chance)
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


def test_the_lookups_are_closed_when_the_resolver_ends() -> None:
    lookups = ScriptedLookup(FAILURE), ScriptedLookup(FAILURE)

    async def scenario() -> None:
        """Ends at once."""

    run_with(DnsResolver(lookup=lookups[0], ttl_lookup=lookups[1]), scenario)
    assert [lookup.closed for lookup in lookups] == [True, True]


# ---- which addresses, and when again


def first_published(resolver: DnsResolver, cluster: Cluster, count: int = 1) -> list[EndpointSet]:
    found: list[EndpointSet] = []

    async def scenario() -> None:
        published = Published()
        resolver.watch(cluster, published)
        found.extend(await published.wait_for(count))

    run_with(resolver, scenario)
    return found


@pytest.mark.parametrize(
    ("addressing", "addresses"),
    [
        (Addressing(ipv6=False), ["10.0.0.1:443", "10.0.0.2:443"]),
        (Addressing(ipv4=False), ["[fd00::1]:443"]),
        (Addressing(), ["10.0.0.1:443", "10.0.0.2:443", "[fd00::1]:443"]),
    ],
)
def test_only_addresses_of_the_enabled_families_are_used(addressing: Addressing, addresses: list[str]) -> None:
    resolver = DnsResolver(lookup=ScriptedLookup(["fd00::1", "10.0.0.2", "10.0.0.1"]))
    assert shown(first_published(resolver, cluster_of(API, addressing))[0]) == addresses


def test_addresses_of_disabled_families_alone_are_an_error_that_names_the_field() -> None:
    resolver = DnsResolver(lookup=ScriptedLookup(["10.0.0.1"]))
    (found,) = first_published(resolver, cluster_of(API, Addressing(ipv4=False)))
    assert found == EndpointSet(
        error="api.example.com has addresses, but none with an IPv6 address, and enable_ipv4 is false"
    )


def test_a_written_address_of_a_disabled_family_is_an_error_too() -> None:
    published: list[EndpointSet] = []
    service = ServiceRef("x", "default", 80, "10.0.0.9")
    DnsResolver(lookup=ScriptedLookup(FAILURE)).watch(cluster_of(service, Addressing(ipv4=False)), published.append)()
    assert [found.endpoints for found in published] == [()]
    assert "enable_ipv4 is false" in published[0].error


def test_logical_dns_uses_the_first_address_and_stays_with_it_while_answers_have_it() -> None:
    lookup = ScriptedLookup(["10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2"], ["10.0.0.3", "10.0.0.1"])
    resolver = DnsResolver(interval_s=0.001, lookup=lookup)
    sets = first_published(resolver, cluster_of(API, Addressing(logical_dns=True)), count=2)
    assert [shown(found) for found in sets] == [["10.0.0.2:443"], ["10.0.0.3:443"]]


def test_respect_dns_ttl_looks_up_again_when_the_answer_is_too_old() -> None:
    """Nobody would live to see the second answer at the usual interval."""
    lookup = ScriptedLookup(["10.0.0.1"], ["10.0.0.2"], ttl_s=0.001)
    resolver = DnsResolver(interval_s=3600, lookup=ScriptedLookup(FAILURE), ttl_lookup=lookup)
    sets = first_published(resolver, cluster_of(API, Addressing(respect_dns_ttl=True)), count=2)
    assert [shown(found) for found in sets] == [["10.0.0.1:443"], ["10.0.0.2:443"]]


def test_an_answer_without_a_ttl_is_good_for_the_usual_interval() -> None:
    lookup = ScriptedLookup(["10.0.0.1"], ["10.0.0.2"])
    resolver = DnsResolver(interval_s=0.001, lookup=ScriptedLookup(FAILURE), ttl_lookup=lookup)
    assert len(first_published(resolver, cluster_of(API, Addressing(respect_dns_ttl=True)), count=2)) == 2


# ---- the system's resolver


def test_a_lookup_that_nobody_answers_fails_in_time_and_its_threads_are_few_until_the_system_gives_up() -> None:
    gives_up = threading.Event()

    def resolve(hostname: str, family: socket.AddressFamily) -> tuple[str, ...]:
        gives_up.wait(30)
        return (hostname,)

    def lookups() -> int:
        return [thread.name for thread in threading.enumerate()].count("grpcgw lookup")

    async def main() -> None:
        lookup = SystemLookup(timeout_s=0.02, resolve=resolve)
        asked = [lookup.ask("slow.example.com", DEFAULT_ADDRESSING) for _ in range(5 * MAX_THREADS)]
        failures = await asyncio.gather(*asked, return_exceptions=True)
        assert {str(failure) for failure in failures} == {"no answer within 0.02 s"}
        assert lookups() == MAX_THREADS
        gives_up.set()
        async with asyncio.timeout(20):
            while True:  # until a slot is free again
                try:
                    assert await lookup.ask("fast.example.com", DEFAULT_ADDRESSING) == DnsAnswer(("fast.example.com",))
                    return
                except LookupFailed:
                    continue

    try:
        asyncio.run(main())
    finally:
        gives_up.set()
    eventually(lambda: not lookups(), "no thread is left")


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label empty or too long"), "label empty or too long"),
        (OSError("odd"), "odd"),
    ],
)
def test_a_failure_of_the_system_is_told_in_its_words(failure: Exception, said: str) -> None:
    def resolve(hostname: str, family: socket.AddressFamily) -> tuple[str, ...]:
        raise failure

    with pytest.raises(LookupFailed, match=said):
        asyncio.run(SystemLookup(resolve=resolve).ask("x", DEFAULT_ADDRESSING))


def test_the_system_is_asked_for_the_enabled_families_alone() -> None:
    def resolve(hostname: str, family: socket.AddressFamily) -> tuple[str, ...]:
        return (family.name,)

    async def main() -> list[DnsAnswer]:
        lookup = SystemLookup(resolve=resolve)
        wanted = (Addressing(), Addressing(ipv6=False), Addressing(ipv4=False))
        return [await lookup.ask("x", addressing) for addressing in wanted]

    assert [answer.addresses[0] for answer in asyncio.run(main())] == ["AF_UNSPEC", "AF_INET", "AF_INET6"]


# ---- DNS itself, against a name server


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for IPv4 addresses with its records, others with none; `deaf` not at all."""

    def __init__(self, records: Sequence[tuple[str, int]], deaf: bool = False) -> None:
        """`records`: address and TTL in seconds."""
        self._records, self._deaf = records, deaf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._deaf:
            return
        end = data.index(b"\0", 12) + 5  # the name's end, type and class
        question, kind = data[12:end], struct.unpack("!H", data[end - 4 : end - 2])[0]
        records = self._records if kind == 1 else ()
        head = data[:2] + struct.pack("!5H", 0x8180, 1, len(records), 0, 0)
        answers = b"".join(
            struct.pack("!HHHIH", 0xC00C, 1, 1, ttl_s, 4) + socket.inet_aton(address) for address, ttl_s in records
        )
        self._transport.sendto(head + question + answers, addr)


def ask_server(server: NameServer, timeout_s: float = 20.0) -> DnsAnswer:
    async def main() -> DnsAnswer:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: server, ("127.0.0.1", 0))
        lookup = TtlLookup(timeout_s, [f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"])
        try:
            return await lookup.ask("api.example.com", Addressing(ipv6=False))
        finally:
            await lookup.aclose()
            transport.close()

    return asyncio.run(main())


def test_the_shortest_ttl_of_an_answer_is_how_long_it_holds() -> None:
    answer = ask_server(NameServer([("10.0.0.1", 30), ("10.0.0.2", 7)]))
    assert (sorted(answer.addresses), answer.ttl_s) == (["10.0.0.1", "10.0.0.2"], 7.0)


def test_a_name_without_addresses_has_failed() -> None:
    with pytest.raises(LookupFailed):
        ask_server(NameServer([]))


def test_a_name_server_that_is_silent_is_given_up() -> None:
    with pytest.raises(LookupFailed):
        ask_server(NameServer([], deaf=True), timeout_s=0.05)


def test_a_name_of_the_hosts_file_has_no_ttl() -> None:
    async def main() -> DnsAnswer:
        lookup = TtlLookup()
        try:
            return await lookup.ask("localhost", Addressing(ipv6=False))
        finally:
            await lookup.aclose()

    assert asyncio.run(main()) == DnsAnswer(("127.0.0.1",), 0.0)
