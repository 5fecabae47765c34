"""The rate limiter of a worker: counts RPCs by descriptor, with leases of tokens from shared buckets. Pure.

    rules = LimitRules("ambassador", limits)
    decision = limiter.decide(rules, descriptors, 1, now_s)

Most RPCs are counted by a lease: a few tokens that the worker took at once from the bucket that all workers share. A
lease has at most the tokens of LEASE_S, grows where it is used up before its end, and shrinks where it is not; what it
has left then goes back. So a worker that dies takes along no more than that. A refusal is remembered until the next
token is there. LimitDecision 034 has the figures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grpcgw.model.labels import Descriptor
from grpcgw.model.rate_limits import LabelLimit
from grpcgw.policy.limits.bucket_table import CONFIGURED, BucketTable, section_of
from grpcgw.policy.limits.token_bucket import NEVER_S, shape_of
from grpcgw.policy.verdicts import Allow

LEASE_S = 0.02
MOST_COUNTERS = 16_384
"""Keys whose leases and refusals a worker remembers; beyond, those without a lease for the longest time are dropped."""
MOST_REMEMBERED_S = 1.0
"""A refusal is remembered for at most so long: another worker may give tokens back."""


class LimitRules:
    """The limits of a domain, in the order of preference."""

    def __init__(self, domain: str, limits: Iterable[LabelLimit]) -> None:
        self.domain = domain
        self.limits = tuple(sorted(limits, key=_preference))
        self.known: dict[Descriptor, LimitCounter] = {}
        """Those of the limiter's counters that are of these rules, for policies that look at no other."""

    def find(self, descriptor: Descriptor) -> LabelLimit | None:
        """The limit with the longest pattern with which the descriptor begins; of several as long, the first that names
        a value where the others take any."""
        return next((limit for limit in self.limits if matches(limit, descriptor)), None)

    def make_counter(self, descriptor: Descriptor) -> LimitCounter | None:
        """Of the limit that counts the descriptor: by the labels that match its pattern, and no others."""
        limit = self.find(descriptor)
        if limit is None:
            return None
        labels = descriptor[: len(limit.pattern)]
        return LimitCounter(limit, repr((self.domain, limit.name, labels)))


def _preference(limit: LabelLimit) -> tuple[int, tuple[bool, ...]]:
    """Named values before any value, item by item, as Envoy's ratelimit looks them up."""
    return -len(limit.pattern), tuple(not all(value for _, value in item) for item in limit.pattern)


def matches(limit: LabelLimit, descriptor: Descriptor) -> bool:
    if len(limit.pattern) > len(descriptor):
        return False
    return all(
        any(key == label[0] and value in ("", label[1]) for key, value in item)
        for item, label in zip(limit.pattern, descriptor, strict=False)
    )


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A limit that does not allow an RPC."""

    limit: LabelLimit
    wait_s: float
    """Until it may allow as much."""


@dataclass(frozen=True, slots=True)
class LimitLevel:
    """What a limit still allows, as far as this worker knows: it cannot see the leases of others."""

    limit: LabelLimit
    left: int
    full_in_s: float | None
    """Until it allows its whole rate again; None: the remote buckets know it."""


@dataclass(frozen=True, slots=True)
class LimitDecision:
    applied: tuple[LabelLimit, ...] = ()
    """The limits that count the RPC, or would."""
    exceeded: tuple[Exceeded, ...] = ()
    """Those that are exceeded, also those that only log it."""
    refused: Exceeded | None = None
    """The one that refuses it, of several the one that does so the longest; then no limit has counted it."""
    pending: tuple[LimitCounter, ...] = ()
    """Those that need a lease of the remote buckets first; then no limit has counted it, and it is decided again."""

    @property
    def is_plain(self) -> bool:
        """Whether it allows the RPC, and nothing else."""
        return not self.exceeded and not self.pending


UNLIMITED = LimitDecision()
NEEDS_LEASE = -1.0


class LimitCounter:
    """What a worker knows of one bucket: the lease that it holds, and until when there is no token."""

    __slots__ = (
        *("_leased_s", "_most", "_refused_until_s", "_refuses", "_remembered_until_s", "_size"),
        *("ends_s", "left", "limit", "name", "section", "shape"),
    )

    def __init__(self, limit: LabelLimit, name: str) -> None:
        """`name`: of the bucket, the same in all workers and gateways."""
        self.limit, self.name, self.shape = limit, name, shape_of(limit.rate)
        self.section = CONFIGURED if limit.names_its_values else section_of(self.shape)
        self._most = max(1, int(limit.rate.per_s * LEASE_S))
        self._size = self._refuses = 1
        self._leased_s = self.ends_s = self._refused_until_s = self._remembered_until_s = 0.0
        self.left = 0
        """Tokens of the lease that are not used. They are valid before `ends_s`."""

    def take(self, tokens: int, now_s: float) -> float:
        """Take so many tokens of the lease. Returns 0.0, the seconds until there may be as many, or NEEDS_LEASE."""
        if self.left >= tokens and now_s < self.ends_s:
            self.left -= tokens
            return 0.0
        if now_s < self._remembered_until_s and tokens >= self._refuses:
            return self._refused_until_s - now_s
        return NEEDS_LEASE

    def plan_lease(self, now_s: float) -> int:
        """How many tokens to lease. Called once for each lease."""
        used_up_soon = not self.left and now_s - self._leased_s < LEASE_S
        self._size = min(2 * self._size, self._most) if used_up_soon else max(1, self._size // 2)
        return self._size

    def hand_over(self) -> int:
        """What the lease has left, for who takes it back; it has nothing then."""
        left, self.left = self.left, 0
        return left

    def note_lease(self, tokens: int, least: int, wait_s: float, now_s: float) -> None:
        """The lease is there: so many tokens, and as `token_bucket.Taken` says. `least`: how many were needed."""
        if tokens:
            self.left += tokens
            self._leased_s, self.ends_s = now_s, now_s + LEASE_S
        self._refused_until_s = now_s + wait_s
        self._remembered_until_s = now_s + min(wait_s - self.shape.early_s, MOST_REMEMBERED_S)
        self._refuses = 1 if tokens else least


@dataclass(frozen=True, slots=True)
class Leased:
    """A lease of remote buckets that has come."""

    counter: LimitCounter
    tokens: int
    wait_s: float
    """As `token_bucket.Taken.wait_s`."""


class RemoteBuckets(Protocol):
    """Buckets that several machines share."""

    @property
    def away(self) -> bool:
        """Whether the buckets of this machine count instead."""
        ...

    def collect(self) -> list[Leased]:
        """The leases that have come since the last call."""
        ...

    def lease(self, counters: Sequence[LimitCounter], hits: int) -> Callable[[], Coroutine[Any, Any, Allow]]:
        """A coroutine that gets a lease for each counter, or finds that the buckets are away. It raises nothing, and
        may run in another thread: counters are touched by this call and when leases are collected, at no other time."""
        ...


class Limiter:
    """All rate limits of a worker, or of the service that counts for others. Called by one thread."""

    def __init__(self, table: BucketTable, remote: RemoteBuckets | None = None) -> None:
        self._table, self.remote = table, remote
        self._counters: OrderedDict[tuple[LimitRules, Descriptor], LimitCounter | None] = OrderedDict()
        """None: no limit of these rules counts the descriptor. The longest without a lease is the first."""

    def decide(
        self, rules: LimitRules, descriptors: Sequence[Descriptor], hits: int, now_s: float, remote: bool = True
    ) -> LimitDecision:
        """Count an RPC (or `hits` of them at once) that has these descriptors: all limits count it, or none.

        `remote`: by the remote buckets, if there are any; else the decision is never `pending`.
        """
        counters = [self._counter_of(rules, one, now_s) for one in descriptors]
        return self._decide([one for one in counters if one is not None], hits, now_s, remote)

    def look(self, rules: LimitRules, descriptor: Descriptor, now_s: float) -> LimitLevel | None:
        """The limit that counts the descriptor, and what it still allows; None: no limit does."""
        counter = self._counter_of(rules, descriptor, now_s)
        if counter is None:
            return None
        if self.remote is not None and not self.remote.away:
            return LimitLevel(counter.limit, counter.left, None)
        level = self._table.look(self._table.locate(counter.name, counter.section), counter.shape, now_s)
        return LimitLevel(counter.limit, level.tokens + counter.left, level.full_in_s)

    def _decide(self, counters: list[LimitCounter], hits: int, now_s: float, remote: bool) -> LimitDecision:
        for one in self.remote.collect() if self.remote is not None else ():
            one.counter.note_lease(one.tokens, 1, one.wait_s, now_s)
        taken, pending, exceeded = [], [], []
        for counter in counters:
            wait_s = self._take(counter, hits, now_s, remote)
            if not wait_s:
                taken.append(counter)
            elif wait_s < 0:
                pending.append(counter)
            else:
                exceeded.append(Exceeded(counter.limit, wait_s))
        applied = tuple([one.limit for one in counters])
        refusing = [one for one in exceeded if not one.limit.log_only]
        if pending or refusing:
            for counter in taken:
                counter.left += hits
        if refusing:
            return LimitDecision(applied, tuple(exceeded), max(refusing, key=lambda one: one.wait_s))
        return LimitDecision(applied, tuple(exceeded), None, tuple(pending))

    def _take(self, counter: LimitCounter, hits: int, now_s: float, remote: bool) -> float:
        wait_s = counter.take(hits, now_s)
        if wait_s < 0 and not counter.shape.allows(hits):
            return NEVER_S
        if wait_s >= 0 or (remote and self.remote is not None and not self.remote.away):
            return wait_s
        return self._lease(counter, hits, now_s)

    def _lease(self, counter: LimitCounter, hits: int, now_s: float) -> float:
        """As `LimitCounter.take`, of a new lease of this machine's bucket."""
        key = self._table.locate(counter.name, counter.section)
        most = max(hits, counter.plan_lease(now_s))
        self._end_lease(counter, now_s)
        taken = self._table.take(key, counter.shape, hits, most, now_s)
        counter.note_lease(taken.tokens, hits, taken.wait_s, now_s)
        if not taken.tokens:
            return taken.wait_s
        counter.left -= hits
        return 0.0

    def _end_lease(self, counter: LimitCounter, now_s: float) -> None:
        """Give back what the lease has left."""
        left = counter.hand_over()
        if left:
            self._table.give_back(self._table.locate(counter.name, counter.section), counter.shape, left, now_s)

    def _counter_of(self, rules: LimitRules, descriptor: Descriptor, now_s: float) -> LimitCounter | None:
        """Of the limit that counts the descriptor; None: none does. What is looked up here moves to the end."""
        key = (rules, descriptor)
        if key in self._counters:
            self._counters.move_to_end(key)
            return self._counters[key]
        if len(self._counters) >= MOST_COUNTERS:
            self._drop_first(now_s)
        counter = self._counters[key] = rules.make_counter(descriptor)
        if counter is not None:
            rules.known[descriptor] = counter
        return counter

    def _drop_first(self, now_s: float) -> None:
        (rules, descriptor), dropped = self._counters.popitem(last=False)
        if dropped is not None:
            del rules.known[descriptor]
            self._end_lease(dropped, now_s)
