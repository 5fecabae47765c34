"""Metrics of policies: their verdicts, waits, caches and slow checks, and the key sets that verify tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from grpcgw.admin.metric_families import counter, gauge, histogram
from grpcgw.discovery.sources.key_sets import KeySetStatus
from grpcgw.telemetry.merge import merge_caches, merge_policies
from grpcgw.telemetry.report import WorkerReport


def collect_policies(workers: Sequence[WorkerReport]) -> Iterator[Metric]:
    reports = merge_policies(one for worker in workers for one in worker.policies)
    by = ["mapping", "policy"]
    verdicts = {(one.mapping, one.policy, "allowed"): one.allowed for one in reports}
    verdicts |= {(one.mapping, one.policy, "denied"): one.denied for one in reports}
    yield counter("policy_verdicts_total", "RPCs that a policy decided on.", [*by, "verdict"], verdicts)
    yield counter(
        "policy_errors_total",
        "RPCs on which a policy gave no verdict; they are among the allowed and denied ones.",
        [*by, "error"],
        {(one.mapping, one.policy, kind): count for one in reports for kind, count in one.errors.items()},
    )
    waited = [one for one in reports if any(one.wait_counts)]
    yield histogram(
        "policy_wait_seconds",
        "Time that a policy waited for its server, for its own coroutine, or for new keys of tokens.",
        by,
        {(one.mapping, one.policy): Counter(dict(enumerate(one.wait_counts))) for one in waited},
        {(one.mapping, one.policy): one.wait_sum_s for one in waited},
    )
    slow: Counter[tuple[str, ...]] = Counter()
    for name, count in (item for worker in workers for item in worker.slow_checks.items()):
        slow[(name,)] += count
    yield counter(
        "policy_slow_checks_total",
        "Synchronous checks of an own policy that held their worker up for more than 50 ms.",
        ["policy"],
        slow,
    )
    yield from _collect_caches(workers)


def _collect_caches(workers: Sequence[WorkerReport]) -> Iterator[Metric]:
    caches = merge_caches(one for worker in workers for one in worker.caches)
    hits, misses = {(one.cache,): one.hits for one in caches}, {(one.cache,): one.misses for one in caches}
    yield counter("policy_cache_hits_total", "Look-ups that a cache of policies answered.", ["cache"], hits)
    yield counter("policy_cache_misses_total", "Look-ups that a cache did not answer.", ["cache"], misses)


def collect_key_sets(key_sets: Sequence[KeySetStatus], now_s: float) -> Iterator[Metric]:
    if not key_sets:
        return
    yield gauge(
        "key_set_age_seconds",
        "Time since the keys that verify tokens were last fetched from this URL; absent before the first time.",
        ["url"],
        [((one.name,), max(0.0, now_s - one.fetched_at_s)) for one in key_sets if one.fetched_at_s],
    )
    yield gauge(
        "key_set_keys",
        "Keys in use that were fetched from this URL; without any, tokens are refused.",
        ["url"],
        [((one.name,), len(one.keys)) for one in key_sets],
    )
    yield counter(
        "key_set_fetch_failures_total",
        "Fetches of the keys at this URL that failed.",
        ["url"],
        {(one.name,): one.failures for one in key_sets},
    )
    yield counter(
        "key_set_early_fetches_total",
        "Fetches of the keys at this URL before their time, since a token had a key that was not known.",
        ["url"],
        {(one.name,): one.early for one in key_sets},
    )
