"""The limiter: patterns, leases over several workers, all or none, bounded memory."""

from __future__ import annotations

import random

import pytest

from grpcgw.model.labels import Descriptor
from grpcgw.model.rate_limits import LabelLimit, PatternItem, Rate, Unit
from grpcgw.policy.limits.bucket_table import MOST_KEYS, TABLE_BYTES, BucketTable, NoLock
from grpcgw.policy.limits.limiter import MOST_COUNTERS, Limiter, LimitRules

FOO: Descriptor = (("generic_key", "foo"),)


def table() -> BucketTable:
    return BucketTable(memoryview(bytearray(TABLE_BYTES)), NoLock())


def limit(name: str, rate: Rate, *pattern: PatternItem, log_only: bool = False) -> LabelLimit:
    return LabelLimit(name, pattern or ((("generic_key", "foo"),),), rate, log_only)


def allows(limiter: Limiter, rules: LimitRules, *descriptors: Descriptor, now_s: float = 1000.0) -> bool:
    return limiter.decide(rules, descriptors, 1, now_s).refused is None


# --- which limit counts


PATTERNS: list[tuple[tuple[PatternItem, ...], Descriptor, bool]] = [
    (((("k", "v"),),), (("k", "v"),), True),
    (((("k", "v"),),), (("k", "other"),), False),
    (((("k", "v"),),), (("k", "v"), ("k2", "x")), True),
    (((("k", "v"),), (("k2", "x"),)), (("k", "v"),), False),
    (((("k2", "x"),),), (("k", "v"), ("k2", "x")), False),
    (((("k", ""),),), (("k", "anything"),), True),
    (((("k", ""),),), (("other", "anything"),), False),
    (((("a", "1"), ("b", "2")),), (("b", "2"),), True),
    (((("a", "1"), ("b", "2")),), (("b", "1"),), False),
]


@pytest.mark.parametrize(("pattern", "descriptor", "matches"), PATTERNS)
def test_a_pattern_matches_a_descriptor_that_begins_with_it(
    pattern: tuple[PatternItem, ...], descriptor: Descriptor, matches: bool
) -> None:
    rules = LimitRules("d", [limit("one", Rate(1, Unit.SECOND), *pattern)])
    assert (rules.find(descriptor) is not None) is matches


def test_the_longest_pattern_counts() -> None:
    short, long = (
        limit("short", Rate(1, Unit.SECOND), (("a", ""),)),
        limit("long", Rate(1, Unit.SECOND), (("a", ""),), (("b", ""),)),
    )
    rules = LimitRules("d", [short, long])
    assert rules.find((("a", "1"), ("b", "2"))) is long
    assert rules.find((("a", "1"), ("c", "2"))) is short


A_NAMED, A_ANY = (("a", "1"),), (("a", ""),)
B_NAMED, B_ANY = (("b", "2"),), (("b", ""),)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("preferred", "other"),
    [((A_NAMED,), (A_ANY,)), ((A_NAMED, B_ANY), (A_ANY, B_NAMED)), ((A_ANY, B_NAMED), (A_ANY, B_ANY))],
)
def test_of_patterns_of_one_length_the_one_that_names_values_counts(
    preferred: tuple[PatternItem, ...], other: tuple[PatternItem, ...], turned: bool
) -> None:
    """Whatever their order, as in Envoy's ratelimit, which looks up a value before any value."""
    both = [limit("preferred", Rate(1, Unit.SECOND), *preferred), limit("other", Rate(1, Unit.SECOND), *other)]
    found = LimitRules("d", both[::-1] if turned else both).find((("a", "1"), ("b", "2")))
    assert found is not None
    assert found.name == "preferred"


def test_each_value_counts_apart() -> None:
    rules = LimitRules("d", [limit("one", Rate(1, Unit.MINUTE), (("ip", ""),))])
    limiter = Limiter(table())
    assert allows(limiter, rules, (("ip", "10.0.0.1"),))
    assert not allows(limiter, rules, (("ip", "10.0.0.1"),))
    assert allows(limiter, rules, (("ip", "10.0.0.2"),))


def test_labels_behind_the_pattern_do_not_count_apart() -> None:
    rules = LimitRules("d", [limit("one", Rate(1, Unit.MINUTE))])
    limiter = Limiter(table())
    assert allows(limiter, rules, (*FOO, ("ip", "10.0.0.1")))
    assert not allows(limiter, rules, (*FOO, ("ip", "10.0.0.2")))


def test_what_no_pattern_matches_is_not_limited() -> None:
    rules = LimitRules("d", [limit("one", Rate(0, Unit.SECOND))])
    limiter = Limiter(table())
    assert allows(limiter, rules, (("other", "x"),))
    assert allows(limiter, rules)


def test_a_rate_of_nothing_refuses_all() -> None:
    rules = LimitRules("d", [limit("none", Rate(0, Unit.SECOND))])
    decision = Limiter(table()).decide(rules, [FOO], 1, 1000.0)
    assert decision.refused is not None
    assert decision.refused.limit.name == "none"


# --- several limits


def test_an_rpc_that_one_limit_refuses_counts_for_no_other() -> None:
    wide, narrow = (
        limit("wide", Rate(3, Unit.MINUTE), (("a", ""),)),
        limit("narrow", Rate(1, Unit.MINUTE), (("b", ""),)),
    )
    rules = LimitRules("d", [wide, narrow])
    limiter = Limiter(table())
    both = ((("a", "1"),), (("b", "1"),))
    assert allows(limiter, rules, *both)
    for _ in range(5):
        assert not allows(limiter, rules, *both)
    assert [allows(limiter, rules, both[0]) for _ in range(3)] == [True, True, False]


def test_a_limit_that_only_logs_refuses_nothing() -> None:
    rules = LimitRules("d", [limit("one", Rate(1, Unit.MINUTE), log_only=True)])
    limiter = Limiter(table())
    assert not limiter.decide(rules, [FOO], 1, 1000.0).exceeded
    decision = limiter.decide(rules, [FOO], 1, 1000.0)
    assert decision.refused is None
    assert [one.limit.name for one in decision.exceeded] == ["one"]


def test_several_hits_count_at_once() -> None:
    rules = LimitRules("d", [limit("one", Rate(10, Unit.MINUTE))])
    limiter = Limiter(table())
    assert limiter.decide(rules, [FOO], 7, 1000.0).refused is None
    assert limiter.decide(rules, [FOO], 4, 1000.0).refused is not None
    assert limiter.decide(rules, [FOO], 3, 1000.0).refused is None
    assert limiter.decide(rules, [FOO], 1, 1000.0).refused is not None


# --- accuracy


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    "rate",
    [Rate(2000, Unit.SECOND), Rate(2000, Unit.SECOND, 20), Rate(50, Unit.SECOND), Rate(6000, Unit.MINUTE, 10)],
    ids=str,
)
def test_at_twice_the_rate_workers_together_allow_half(rate: Rate, workers: int) -> None:
    """Over 10 s, within 2 %: a minute's bucket lets 10 more through."""
    shared, rules = table(), LimitRules("d", [limit("one", rate)])
    limiters = [Limiter(shared) for _ in range(workers)]
    choose = random.Random(1)
    count = int(20 * rate.per_s)
    allowed = 0
    for number in range(count):
        allowed += allows(choose.choice(limiters), rules, FOO, now_s=1000 + 10 * number / count)
    assert 0.98 <= allowed / (10 * rate.per_s) <= 1.02


def test_below_the_rate_nothing_is_refused() -> None:
    shared, rules = table(), LimitRules("d", [limit("one", Rate(1000, Unit.SECOND))])
    limiters = [Limiter(shared) for _ in range(4)]
    choose = random.Random(1)
    assert all(allows(choose.choice(limiters), rules, FOO, now_s=1000 + number / 900) for number in range(9000))


def test_a_worker_that_dies_with_its_lease_costs_little() -> None:
    """Every 100 ms a worker dies, with what it has leased."""
    shared, rules = table(), LimitRules("d", [limit("one", Rate(1000, Unit.SECOND))])
    limiters = [Limiter(shared) for _ in range(4)]
    choose = random.Random(1)
    allowed = 0
    for number in range(20_000):
        if number % 200 == 0:
            limiters[choose.randrange(4)] = Limiter(shared)
        allowed += allows(choose.choice(limiters), rules, FOO, now_s=1000 + number / 2000)
    assert 9800 <= allowed <= 10_200


def test_most_rpcs_are_counted_without_the_table() -> None:
    class CountingLock(NoLock):
        taken = 0

        def acquire(self, number: int) -> None:
            self.taken += 1

    lock = CountingLock()
    limiter = Limiter(BucketTable(memoryview(bytearray(TABLE_BYTES)), lock))
    rules = LimitRules("d", [limit("one", Rate(100_000, Unit.SECOND))])
    for number in range(10_000):
        assert allows(limiter, rules, FOO, now_s=1000 + number / 10_000)
    assert lock.taken < 300


def test_refusals_are_remembered_until_the_next_token() -> None:
    class CountingLock(NoLock):
        taken = 0

        def acquire(self, number: int) -> None:
            self.taken += 1

    lock = CountingLock()
    limiter = Limiter(BucketTable(memoryview(bytearray(TABLE_BYTES)), lock))
    rules = LimitRules("d", [limit("one", Rate(1, Unit.HOUR))])
    assert allows(limiter, rules, FOO)
    for number in range(1, 1000):
        refused = limiter.decide(rules, [FOO], 1, 1000 + number / 1001).refused
        assert refused is not None
        assert refused.wait_s == pytest.approx(3600 - number / 1001)
    assert lock.taken < 10


# --- bounds


def test_a_flood_of_keys_stays_bounded_and_refills_no_bucket() -> None:
    rules = LimitRules("d", [limit("one", Rate(5, Unit.HOUR), (("user", ""),))])
    limiter = Limiter(table())
    victim: Descriptor = (("user", "victim"),)
    assert [allows(limiter, rules, victim) for _ in range(6)] == [True] * 5 + [False]
    for number in range(MOST_KEYS + MOST_KEYS // 2):
        limiter.decide(rules, [(("user", str(number)),)], 1, 1000.0 + number / 1e6)
    assert not allows(limiter, rules, victim, now_s=1001.0)
    assert len(limiter._counters) <= MOST_COUNTERS


def test_a_key_that_is_used_up_keeps_its_place_among_keys_that_are_not() -> None:
    """Beyond the bound, keys take over buckets of others with what they lack: none is refilled early."""
    rules = LimitRules("d", [limit("one", Rate(1, Unit.DAY), (("user", ""),))])
    limiter = Limiter(table())
    allowed = sum(allows(limiter, rules, (("user", str(number)),)) for number in range(MOST_KEYS + MOST_KEYS // 4))
    assert allowed <= MOST_KEYS


FLOOD = [(("user", str(number)),) for number in range(2 * MOST_KEYS)]
HOURLY = LimitRules("d", [limit("users", Rate(100, Unit.HOUR), (("user", ""),))])


FIXED = LimitRules("d", [limit("all", Rate(100, Unit.HOUR), (("generic_key", "foo"),))])


@pytest.fixture(scope="module")
def flooded() -> Limiter:
    """After 40 calls of one key that no client chooses, and a flood of others. The two tests that get it use keys of
    their own: a flood takes two seconds."""
    limiter = Limiter(table())
    assert sum(allows(limiter, FIXED, FOO) for _ in range(40)) == 40
    for number, user in enumerate(FLOOD):
        limiter.decide(HOURLY, [user], 1, 1000.0 + number / 1e6)
    return limiter


def test_a_flood_of_keys_does_not_touch_limits_whose_keys_no_client_chooses(flooded: Limiter) -> None:
    assert sum(allows(flooded, FIXED, FOO, now_s=1001.0) for _ in range(80)) == 60
    fast = LimitRules("d", [limit("fast", Rate(1000, Unit.SECOND), (("generic_key", "foo"),))])
    assert sum(allows(flooded, fast, FOO, now_s=1001.0) for _ in range(1010)) == 1000


def test_a_flood_of_keys_that_last_for_hours_does_not_starve_those_that_last_for_seconds(flooded: Limiter) -> None:
    rules = LimitRules("d", [limit("ip", Rate(10, Unit.SECOND), (("ip", ""),))])
    for second in range(1001, 1100, 3):
        assert sum(allows(flooded, rules, (("ip", "10.0.0.1"),), now_s=second) for _ in range(11)) == 10


def test_a_rate_that_was_raised_holds_from_the_first_call_on() -> None:
    limiter = Limiter(table())
    slow, fast = (LimitRules("d", [limit("one", rate)]) for rate in (Rate(5, Unit.HOUR), Rate(10, Unit.SECOND)))
    assert sum(allows(limiter, slow, FOO) for _ in range(6)) == 5
    allowed = [allows(limiter, fast, FOO, now_s=1001 + number / 20) for number in range(100)]
    assert sum(allowed) >= 30


@pytest.mark.parametrize("unit", list(Unit))
@pytest.mark.parametrize(("before", "after", "left"), [(100, 1000, 900), (100, 101, 1), (1000, 100, 0), (100, 50, 0)])
def test_a_rate_that_changed_counts_the_calls_that_were_made_before(
    before: int, after: int, left: int, unit: Unit
) -> None:
    limiter, now_s = Limiter(table()), 1000.0
    one, other = (LimitRules("d", [limit("one", Rate(rate, unit))]) for rate in (before, after))
    assert sum(allows(limiter, one, FOO, now_s=now_s) for _ in range(before + 1)) == before
    now_s += unit.seconds / 10_000
    assert sum(allows(limiter, other, FOO, now_s=now_s) for _ in range(after + 1)) == left


def test_a_rate_of_a_bucket_that_is_full_again_may_change() -> None:
    limiter = Limiter(table())
    one, other = (LimitRules("d", [limit("one", Rate(rate, Unit.SECOND))]) for rate in (5, 7))
    assert allows(limiter, one, FOO)
    assert sum(allows(limiter, other, FOO, now_s=1100.0) for _ in range(8)) == 7
