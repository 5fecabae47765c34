"""Token buckets in Redis, for rate limits that several machines share: leases by one script call for each round trip.

While Redis is away the buckets of this machine count; a task looks for it again, at most every 5 s. Only this module
needs the client library (`pip install 'grpcgw[redis]'`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
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
local least, most, back = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local full_at, refills_from = 0, 0
local stored = redis.call('GET', KEYS[1])
if stored then
  local first, second = string.match(stored, '(%S+) (%S+)')
  refills_from = math.min(tonumber(second), now + hold)
  full_at = math.min(tonumber(first), math.max(refills_from, now) + capacity / per_s)
end
if back > 0 and full_at > now then full_at = math.max(refills_from, full_at - back / per_s) end
local full = full_at <= now
local from = math.max(refills_from, now)
local available = capacity
if full then from = now + hold else available = math.max(0, capacity - (full_at - from) * per_s) end
local tokens = math.min(most, math.floor(available + 0.000001))
local wait = 0
if tokens < least then
  tokens = 0
  wait = from - now + (least - available) / per_s
else
  local left = math.max(0, available - tokens)
  full_at, refills_from = from + (capacity - left) / per_s, from
  if tokens < most then wait = from - now + (1 - left) / per_s end
end
if full_at > now then
  local value = string.format('%.6f %.6f', full_at, refills_from)
  redis.call('SET', KEYS[1], value, 'PX', math.ceil((full_at - now) * 1000) + 1000)
end
return {tokens, math.ceil(wait * 1000000)}
"""
"""`policy.limits.token_bucket` in Redis, on its clock, which may be set back: no bucket is emptier than empty. KEYS[1]
is "full_at refills_from"; returns the tokens and the wait in microseconds."""


class RedisBuckets:
    """A `RemoteBuckets`. Its coroutines run on one loop; the other methods may be called by another thread."""

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
        self._wanted: dict[LimitCounter, int] = {}
        """Counters that the next trip gets leases for, and the tokens that RPCs wait for."""
        self._landing: asyncio.Future[None] | None = None
        """Done when that trip is over."""
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
        return lambda: self._wait(counters, hits)

    async def _wait(self, counters: Sequence[LimitCounter], hits: int) -> Allow:
        if self._away:
            return ALLOW
        for counter in counters:
            self._wanted[counter] = self._wanted.get(counter, 0) + hits
        if self._landing is None:
            self._landing = asyncio.get_running_loop().create_future()
        landing = self._landing
        if not self._flying:
            self._flying = True
            self._start(self._fly())
        await asyncio.shield(landing)  # a cancelled RPC does not end the trip of others
        return ALLOW

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self) -> None:
        """One trip after the other, while there is something to lease."""
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                landing, self._landing = self._landing, None
                try:
                    async with asyncio.timeout(self._answer_s if self._script_hash else FIRST_ANSWER_S):
                        await self._exchange(wanted)
                    self._late = 0
                except TimeoutError as error:
                    self._late += 1
                    if self._late >= MOST_LATE:
                        self._go_away(error)
                except Exception as error:  # whatever it is: the buckets of this machine count, and no RPC waits
                    self._go_away(error)
                finally:
                    if landing is not None and not landing.done():
                        landing.set_result(None)
        finally:
            self._flying = False

    async def _exchange(self, wanted: dict[LimitCounter, int]) -> None:
        now_s = time.monotonic()
        plans = [(counter, tokens, max(tokens, counter.plan_lease(now_s))) for counter, tokens in wanted.items()]
        try:
            answers = await self._run_scripts(plans)
        except NoScriptError:
            self._script_hash = ""
            answers = await self._run_scripts(plans)
        for (counter, _, _), (tokens, wait_us) in zip(plans, answers, strict=True):
            self._leased.append(Leased(counter, int(tokens), int(wait_us) / 1e6))

    async def _run_scripts(self, plans: list[tuple[LimitCounter, int, int]]) -> list[list[int]]:
        if not self._script_hash:
            await self._load_script()
        pipeline = self._redis.pipeline(transaction=False)
        for counter, _, most in plans:
            shape = counter.shape
            # At least one token: where some are left, the RPCs that come first get them.
            numbers = (shape.capacity, repr(shape.per_s), shape.hold_s, 1, most, counter.hand_over())
            pipeline.evalsha(self._script_hash, 1, _key_of(counter), *map(str, numbers))
        return await pipeline.execute()

    async def _load_script(self) -> None:
        loaded: Any = await self._redis.script_load(SCRIPT)
        self._script_hash = loaded.decode() if isinstance(loaded, bytes) else loaded

    async def _try_script(self) -> None:
        """A replica and a server without memory load a script, but do not run one that writes. Raises RedisError."""
        await self._redis.evalsha(self._script_hash, 1, PROBE_KEY, *map(str, (1, 1.0, 0.0, 1, 1, 0)))

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
