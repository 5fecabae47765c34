"""Rate limits shared by Redis: exact over gateways, few round trips, and limits of the machine while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from grpcgw.model.labels import Descriptor
from grpcgw.model.rate_limits import LabelLimit, Rate, Unit
from grpcgw.policy.limits.bucket_table import TABLE_BYTES, BucketTable, NoLock
from grpcgw.policy.limits.limiter import Limiter, LimitRules
from grpcgw.policy.limits.token_bucket import NEVER_S
from grpcgw.settings import RedisUrl
from grpcgw.settings.redis_url import parse_redis_url
from grpcgw.workers.redis_buckets import ANSWER_S, SCRIPT, RedisBuckets
from tests.redis_server import RedisServer

FOO = ((("k", "foo"),),)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    yield made
    made.kill()


@dataclass(frozen=True)
class Load:
    allowed: int
    tries: int
    took_s: float


class Gateway:
    """The limiter of a worker on some machine, and what a policy does with it."""

    def __init__(self, url: str, rate: Rate, password: str | None = None, answer_s: float = ANSWER_S) -> None:
        self.remote = RedisBuckets(parse_redis_url(url), password, answer_s)
        self.limiter = Limiter(BucketTable(memoryview(bytearray(TABLE_BYTES)), NoLock()), self.remote)
        self.rules = LimitRules("d", [LabelLimit("one", ((("k", ""),),), rate)])
        self.trips = 0
        self.slowest_s = 0.0
        self.wait_s = 0.0

    async def allows(self, descriptors: tuple[Descriptor, ...] = FOO) -> bool:
        began_s = time.monotonic()
        while True:
            decision = self.limiter.decide(self.rules, descriptors, 1, time.monotonic())
            if not decision.pending:
                break
            self.trips += 1
            await self.remote.lease(decision.pending, 1)()
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        self.wait_s = decision.refused.wait_s if decision.refused is not None else 0.0
        return decision.refused is None

    async def load(self, per_s: float, seconds: float) -> Load:
        """RPCs at a steady rate. A busy machine may take longer."""
        began_s, tries, running = time.monotonic(), 0, set()
        allowed = 0

        def count(task: asyncio.Task[bool]) -> None:
            nonlocal allowed
            allowed += task.result()
            running.discard(task)

        while (elapsed_s := time.monotonic() - began_s) < seconds:
            while tries < elapsed_s * per_s:
                task = asyncio.create_task(self.allows())
                running.add(task)
                task.add_done_callback(count)
                tries += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*running)
        return Load(allowed, tries, time.monotonic() - began_s)


def test_the_script_is_the_bucket(server: RedisServer) -> None:
    async def run() -> None:
        for rate, expected in (
            (Rate(3, Unit.HOUR), [True] * 3 + [False]),
            (Rate(3, Unit.HOUR, 5), [True] * 5 + [False]),
            (Rate(0, Unit.HOUR), [False]),
        ):
            gateway = Gateway(server.url, rate)
            await gateway.remote._redis.flushall()
            assert [await gateway.allows() for _ in expected] == expected
            if rate.amount == 0:
                assert gateway.wait_s > NEVER_S - 1
            else:
                first_s = 3600 if rate.burst is None else 1200
                assert gateway.wait_s == pytest.approx(first_s, abs=5)

    asyncio.run(run())


@pytest.mark.parametrize(("before", "after", "left"), [(3, 5, 2), (5, 3, 0)])
def test_a_rate_that_changed_counts_the_calls_that_were_made_before(
    server: RedisServer, before: int, after: int, left: int
) -> None:
    async def run() -> None:
        one, other = Gateway(server.url, Rate(before, Unit.HOUR)), Gateway(server.url, Rate(after, Unit.HOUR))
        assert [await one.allows() for _ in range(before)] == [True] * before
        assert [await other.allows() for _ in range(left + 1)] == [True] * left + [False]

    asyncio.run(run())


def test_the_script_gives_credit_as_the_bucket_does(server: RedisServer) -> None:
    """With a rate so slow that this machine's speed does not matter: a token in 100 s, and credit for 50 s."""

    async def run() -> None:
        redis = Gateway(server.url, Rate(1, Unit.SECOND)).remote._redis

        async def take(full_in_s: float) -> tuple[int, float]:
            now_s = time.time()
            await redis.set("bucket", f"{now_s + full_in_s} {now_s}")
            tokens, _ = await redis.eval(SCRIPT, 1, "bucket", *map(str, (1, 0.01, 0, 1, 1, 0, 0.5)))  # type: ignore[misc]
            return tokens, float((await redis.get("bucket")).split()[0]) - now_s

        assert await take(70) == (0, pytest.approx(70, abs=0.1))
        assert await take(30) == (1, pytest.approx(130, abs=5)), "the next call waits so much longer"

    asyncio.run(run())


def test_two_gateways_together_allow_the_rate(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    rate, seconds = 500, 3.0

    async def run() -> float:
        gateways = [Gateway(server.url, Rate(rate, Unit.SECOND), answer_s=2.0) for _ in range(2)]
        await gateways[0].remote._redis.flushall()
        loads = await asyncio.gather(*(one.load(rate, seconds) for one in gateways))
        took_s = max(load.took_s for load in loads)
        assert sum(load.tries for load in loads) >= 1.2 * rate * took_s, "the machine is too slow for this test"
        return sum(load.allowed for load in loads) / (rate * took_s)

    for _ in range(5):
        caplog.clear()
        share = asyncio.run(run())
        if "on this machine alone" not in caplog.text:  # as it is where the machine has no time for Redis
            break
    assert 0.97 <= share <= 1.03


def test_most_rpcs_need_no_round_trip_and_none_more_than_one(server: RedisServer) -> None:
    async def run() -> None:
        gateway = Gateway(server.url, Rate(100_000, Unit.SECOND))
        await gateway.allows()
        tries = (await gateway.load(3000, 1.0)).tries
        info = await gateway.remote._redis.info("commandstats")
        assert 0 < info["cmdstat_evalsha"]["calls"] < tries / 5

    asyncio.run(run())


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_while_redis_is_away_the_limit_of_the_machine_holds_and_it_comes_back_by_itself(
    server: RedisServer, how: str
) -> None:
    rate = 200

    async def run() -> None:
        gateway = Gateway(server.url, Rate(rate, Unit.SECOND, 20))
        await gateway.load(rate * 2, 0.5)
        assert not gateway.remote.away
        server.kill() if how == "killed" else server.pause()
        gateway.slowest_s = 0.0
        load = await gateway.load(rate * 2, 1.5)
        assert gateway.remote.away
        assert 0.7 * rate * load.took_s <= load.allowed <= 1.35 * rate * load.took_s
        server.start() if how == "killed" else server.resume()
        until_s = time.monotonic() + 15
        while gateway.remote.away:
            assert time.monotonic() < until_s, "it does not come back"
            await asyncio.sleep(0.05)
        load = await gateway.load(rate * 2, 1.0)
        assert 0.7 * rate * load.took_s <= load.allowed <= 1.35 * rate * load.took_s

    asyncio.run(run())


def test_a_server_that_was_never_there_costs_one_wait(tmp_path: Path) -> None:
    async def run() -> None:
        gateway = Gateway("redis://127.0.0.1:1/0", Rate(5, Unit.HOUR))
        assert [await gateway.allows() for _ in range(6)] == [True] * 5 + [False]
        assert gateway.remote.away
        assert gateway.trips == 1

    asyncio.run(run())


def test_what_a_lease_has_left_is_handed_over_before_another_thread_gets_the_next_one(server: RedisServer) -> None:
    """Else the thread that counts spends tokens that the coroutine, in the other engine's second thread, gives back."""
    gateway = Gateway(server.url, Rate(1000, Unit.HOUR, 10))
    counter = gateway.rules.make_counter(FOO[0])
    assert counter is not None

    async def read_full_at() -> float:
        (key,) = await gateway.remote._redis.keys("*")
        return float((await gateway.remote._redis.get(key)).split()[0])

    async def run() -> tuple[float, float]:
        await gateway.remote.lease((counter,), 6)()
        (leased,) = gateway.remote.collect()
        before_s = await read_full_at()
        counter.note_lease(leased.tokens, 1, leased.wait_s, time.monotonic())
        begin = gateway.remote.lease((counter,), 1)
        assert counter.left == 0, "no RPC gets tokens that the trip gives back"
        await begin()
        return before_s, await read_full_at()

    before_s, after_s = asyncio.run(run())
    assert after_s - before_s == pytest.approx(-5 * 3.6, abs=0.1), "of six tokens five are there again"


def test_a_cancelled_rpc_leaves_others_their_lease(server: RedisServer) -> None:
    async def run() -> None:
        gateway = Gateway(server.url, Rate(5, Unit.HOUR))
        one, other = asyncio.create_task(gateway.allows()), asyncio.create_task(gateway.allows())
        await asyncio.sleep(0)
        one.cancel()
        assert await other

    asyncio.run(run())


def test_a_password_opens_the_server_and_is_shown_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = "kept-secret"
    server = RedisServer(tmp_path, secret)
    try:

        async def run() -> None:
            with_file = Gateway(server.url, Rate(5, Unit.HOUR), secret)
            in_url = Gateway(f"redis://:{secret}@127.0.0.1:{server.port}/0", Rate(5, Unit.HOUR))
            for gateway in (with_file, in_url):
                assert await gateway.allows()
                assert not gateway.remote.away
            wrong = Gateway(f"redis://:{secret}x@127.0.0.1:{server.port}/0", Rate(5, Unit.HOUR))
            assert await wrong.allows()
            assert wrong.remote.away

        asyncio.run(run())
    finally:
        server.kill()
    assert secret not in caplog.text
    url = RedisUrl(f"redis://user:{secret}@host:6379/0?x={secret}")
    assert secret not in f"{url!r} {url}"
    with pytest.raises(ValueError) as refused:
        parse_redis_url(f"http://user:{secret}@host")
    assert secret not in str(refused.value)


def test_a_bucket_of_a_clock_that_was_set_back_refills_as_an_empty_one(server: RedisServer) -> None:
    async def run() -> None:
        hourly, fast = Gateway(server.url, Rate(2, Unit.HOUR)), Gateway(server.url, Rate(200, Unit.SECOND))
        assert [await hourly.allows() for _ in range(3)] == [True, True, False]
        assert await fast.allows()
        (key,) = await fast.remote._redis.keys("*")
        far_s = time.time() + 1_000_000
        await fast.remote._redis.set(key, f"{far_s} {far_s}")
        other = Gateway(server.url, Rate(200, Unit.SECOND, 200))
        assert not await other.allows()
        assert other.wait_s <= 0.1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    ],
    ids=["read-only replica", "out of memory"],
)
def test_a_server_that_takes_no_writes_is_away_until_it_does(
    server: RedisServer, caplog: pytest.LogCaptureFixture, spoil: tuple[str, ...], mend: tuple[str, ...]
) -> None:
    async def run() -> None:
        gateway = Gateway(server.url, Rate(100, Unit.SECOND, 10))
        redis = gateway.remote._redis
        assert await gateway.allows()
        await redis.execute_command(*spoil)
        await gateway.load(200, 1.0)
        assert gateway.remote.away
        assert caplog.text.count("on this machine alone") == 1
        await redis.execute_command(*mend)
        until_s = time.monotonic() + 15
        while gateway.remote.away:
            assert time.monotonic() < until_s, "it does not come back"
            await asyncio.sleep(0.05)
        assert await gateway.allows()
        assert not gateway.remote.away

    asyncio.run(run())


@contextlib.asynccontextmanager
async def delayed(port: int, delay_s: float) -> AsyncIterator[int]:
    """The port of a proxy that passes what the server on `port` answers so much later."""
    tasks = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(delay_s)
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        tasks.append(asyncio.ensure_future(pass_on(reader, to_writer, 0)))
        tasks.append(asyncio.ensure_future(pass_on(to_reader, writer, delay_s)))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1]
    finally:
        proxy.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_server_that_always_answers_too_late_stays_away(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with delayed(server.port, 2 * ANSWER_S) as port:
            gateway = Gateway(f"redis://127.0.0.1:{port}/0", Rate(100, Unit.SECOND, 10))
            await gateway.allows()
            await gateway.load(200, 1.5)
            assert gateway.remote.away
            assert caplog.text.count("on this machine alone") == 1

    asyncio.run(run())


def test_late_answers_are_not_taken_for_those_of_other_limits(server: RedisServer) -> None:
    """A trip that is given up must not leave its answer on the connection for the next trip."""

    async def run() -> None:
        gateway = Gateway(server.url, Rate(7, Unit.HOUR), answer_s=0.05)
        for number in range(40):
            redis = gateway.remote._redis
            pausing = asyncio.create_task(redis.client_pause(80)) if number % 10 == 5 else None
            descriptor = ((("k", f"key-{number}"),),)
            allowed, was_away = 0, False
            for _ in range(9):
                allowed += await gateway.allows(descriptor)
                was_away |= gateway.remote.away
            if pausing is not None:
                await pausing
            assert was_away or allowed <= 7, "where Redis goes away in between, the gateway then counts for itself"
            until_s = time.monotonic() + 15
            while gateway.remote.away:
                assert time.monotonic() < until_s
                await asyncio.sleep(0.02)

    asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:6379/0?socket_timeout=abc",
        "redis://host:6379/0?ssl_ca_certs=/ca.pem",
        "rediss://host/0?ssl_cert_reqs=perhaps",
        "rediss://host/0?password=secret",
        "redis://host/first",
        "redis://host:port/0",
        "redis://",
    ],
)
def test_a_url_that_the_client_library_cannot_use_is_refused_before_the_gateway_starts(url: str) -> None:
    with pytest.raises(ValueError, match=r"this is no URL|unknown option|ssl_cert_reqs") as refused:
        parse_redis_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["redis://host", "redis://u:p@[::1]:1/", "rediss://h/3?ssl_ca_certs=/a&ssl_cert_reqs=none"]
)
def test_a_url_of_a_server_is_one_of_the_client_library(url: str) -> None:
    RedisBuckets(parse_redis_url(url))
