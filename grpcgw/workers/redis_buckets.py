"""Token buckets in Redis, for rate limits that several machines share: leases by one script call for each round trip.

While Redis is away the buckets of this machine count; a task looks for it again, at most every 5 s. Only this module
needs the client library (`pip install 'grpcgw[redis]'`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from grpcgw.policy.limits.limiter import Leased, LimitCounter
from grpcgw.policy.verdicts import ALLOW, Allow
from grpcgw.settings import RedisUrl

log = logging.getLogger(__name__)

NO_RETRY = Retry(NoBackoff(), 0)
"""An RPC waits: what fails once is away."""

ANSWER_S = 0.03
"""How long an RPC waits for Redis."""
MOST_LATE = 2
"""After so many trips in a row without an answer in time it is away: one may be late because the machine is busy."""
FIRST_ANSWER_S = 0.3
"""The same for the first RPCs of a worker, which wait for the connection."""
CONNECT_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between two tries to reach a server that is away; doubled each time."""
NAMESPACE = "grpcgw:limit:"
PROBE_KEY = NAMESPACE + "probe"
"""Of a bucket that no limit has."""
SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local capacity, per_s, hold = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local least, most, back, credit = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local full_at, refills_from = 0, 0
local stored = redis.call('GET', KEYS[1])
if stored then
  local first, second, third = string.match(stored, '(%S+) (%S+) ?(%S*)')
  refills_from = math.min(tonumber(second), now + hold)
  full_at = tonumber(first)
  local since, before = math.max(refills_from, now), tonumber(third)
  if before and before ~= per_s then
    local lacks = full_at - math.max(tonumber(second), now)
    if lacks > 0 then full_at = since + lacks * before / per_s else full_at = now end
  end
  full_at = math.min(full_at, since + (capacity + credit) / per_s)
end
if back > 0 and full_at > now then full_at = math.max(refills_from, full_at - back / per_s) end
local full = full_at <= now
local from = math.max(refills_from, now)
local available = capacity
if full then from = now + hold else available = capacity - (full_at - from) * per_s end
local tokens = math.min(most, math.floor(available + credit))
local wait = 0
if tokens < least then
  tokens = 0
  wait = from - now + (least - available) / per_s
else
  local left = available - tokens
  full_at, refills_from = from + (capacity - left) / per_s, from
  if tokens < most then wait = from - now + (1 - left) / per_s end
end
if full_at > now then
  local value = string.format('%.6f %.6f %.17g', full_at, refills_from, per_s)
  redis.call('SET', KEYS[1], value, 'PX', math.ceil((full_at - now) * 1000) + 1000)
end
return {tokens, math.ceil(wait * 1000000)}
"""
"""`policy.limits.token_bucket` in Redis, on its clock, which may be set back: no bucket is emptier than empty. KEYS[1]
is "full_at refills_from per_s"; returns the tokens and the wait in microseconds."""


@dataclass(slots=True)
class _Wish:
    """What a trip is to get for a counter. Made in the thread that counts, which alone may change the counter."""

    tokens: int
    """That RPCs wait for."""
    lease: int
    """That the counter would like."""
    back: int
    """That it has left of its last lease, and gives back."""


class _Trip:
    """One round trip: it waits for the one before to land, and takes the wishes of all RPCs that come until then."""

    def __init__(self) -> None:
        self.wishes: dict[LimitCounter, _Wish] = {}
        self._landed = False
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        if not self._landed:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def land(self) -> None:
        self._landed = True
        for future in self._waiting:
            if not future.done():  # as that of a cancelled RPC is
                future.set_result(None)


class RedisBuckets:
    """A `RemoteBuckets`. Its coroutines run on one loop; the other methods may be called by another thread, the one
    that counts: so only these touch counters."""

    def __init__(self, url: RedisUrl, password: str | None = None, answer_s: float = ANSWER_S) -> None:
        """`password`: instead of that in the URL. Raises ValueError for a URL that redis-py cannot read."""
        self._url, self._answer_s = url, answer_s
        self._late = 0
        """Trips in a row without an answer in time."""
        self._redis: Redis = Redis.from_url(
            url.reveal(), socket_connect_timeout=CONNECT_S, socket_timeout=CONNECT_S, retry=NO_RETRY
        )
        if password is not None:
            self._redis.connection_pool.connection_kwargs["password"] = password
        self._script_hash = ""
        self._away = False
        self._next, self._next_lock = _Trip(), threading.Lock()
        """The lock: a wish is either in the trip that begins, or in the one after it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._flying = False
        self._leased: deque[Leased] = deque()

    @property
    def away(self) -> bool:
        """Whether the buckets of this machine count."""
        return self._away

    def collect(self) -> list[Leased]:
        """The leases that have come since the last call."""
        return [self._leased.popleft() for _ in range(len(self._leased))]

    def lease(self, counters: Sequence[LimitCounter], hits: int) -> Callable[[], Coroutine[Any, Any, Allow]]:
        """As `RemoteBuckets.lease`. RPCs that wait at the same time share a trip."""
        now_s = time.monotonic()
        with self._next_lock:
            trip = self._next
            for counter in counters:
                wish = trip.wishes.get(counter)
                if wish is None:
                    lease = counter.plan_lease(now_s)
                    wish = trip.wishes[counter] = _Wish(0, lease, counter.hand_over())
                wish.tokens += hits
        return lambda: self._wait(trip)

    async def _wait(self, trip: _Trip) -> Allow:
        if not self._away:
            if not self._flying:
                self._flying = True
                self._start(self._fly())
            await trip.wait()
        return ALLOW

    def _begin_trip(self) -> _Trip:
        with self._next_lock:
            trip, self._next = self._next, _Trip()
        return trip

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self) -> None:
        """One trip after the other, while there is something to lease."""
        try:
            while self._next.wishes:
                trip = self._begin_trip()
                try:
                    async with asyncio.timeout(self._answer_s if self._script_hash else FIRST_ANSWER_S):
                        await self._exchange(trip.wishes)
                    self._late = 0
                except TimeoutError as error:
                    self._late += 1
                    if self._late >= MOST_LATE:
                        self._go_away(error)
                except Exception as error:  # whatever it is: the buckets of this machine count, and no RPC waits
                    self._go_away(error)
                finally:
                    trip.land()
        finally:
            self._flying = False

    async def _exchange(self, wishes: dict[LimitCounter, _Wish]) -> None:
        try:
            answers = await self._run_scripts(wishes)
        except NoScriptError:
            self._script_hash = ""
            answers = await self._run_scripts(wishes)
        for counter, (tokens, wait_us) in zip(wishes, answers, strict=True):
            self._leased.append(Leased(counter, int(tokens), int(wait_us) / 1e6))

    async def _run_scripts(self, wishes: dict[LimitCounter, _Wish]) -> list[list[int]]:
        if not self._script_hash:
            await self._load_script()
        pipeline = self._redis.pipeline(transaction=False)
        for counter, wish in wishes.items():
            shape = counter.shape
            # At least one token: where some are left, the RPCs that come first get them.
            numbers = (
                *(shape.capacity, repr(shape.per_s), shape.hold_s),
                *(1, max(wish.tokens, wish.lease), wish.back, repr(shape.credit)),
            )
            pipeline.evalsha(self._script_hash, 1, _key_of(counter), *map(str, numbers))
        return await pipeline.execute()

    async def _load_script(self) -> None:
        loaded: Any = await self._redis.script_load(SCRIPT)
        self._script_hash = loaded.decode() if isinstance(loaded, bytes) else loaded

    async def _try_script(self) -> None:
        """A replica and a server without memory load a script, but do not run one that writes. Raises RedisError."""
        await self._redis.evalsha(self._script_hash, 1, PROBE_KEY, *map(str, (1, 1.0, 0.0, 1, 1, 0, 0)))

    def _go_away(self, error: BaseException) -> None:
        if not self._away:
            self._away = True
            log.warning("rate limits count on this machine alone: %s: %s", self._url, _describe(error))
            self._start(self._come_back())

    async def _come_back(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._away:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            try:
                async with asyncio.timeout(CONNECT_S):
                    await self._load_script()
                async with asyncio.timeout(self._answer_s):
                    await self._try_script()
            except Exception:  # whatever it is: it is tried again
                continue
            self._away, self._late = False, 0
            log.info("rate limits are shared by Redis again: %s", self._url)


def _describe(error: BaseException) -> str:
    """Without what a server or library may quote of the URL."""
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__


def _key_of(counter: LimitCounter) -> str:
    return NAMESPACE + blake2b(counter.name.encode(errors="surrogateescape"), digest_size=16).hexdigest()
