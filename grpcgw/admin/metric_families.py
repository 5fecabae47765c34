"""Families of metrics for Prometheus, with the prefix that all metrics of the gateway have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from grpcgw.telemetry.report import LATENCY_BUCKETS_S

_Labels = TypeVar("_Labels", bound=tuple[str, ...])


def gauge(
    name: str, text: str, labels: list[str], samples: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"grpcgw_{name}", text, labels=labels)
    for values, number in samples:
        family.add_metric(values, float(number))
    return family


def counter(name: str, text: str, labels: list[str], samples: Mapping[_Labels, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"grpcgw_{name}", text, labels=labels)
    for values, number in sorted(samples.items()):
        family.add_metric(values, number)
    return family


def histogram(
    name: str,
    text: str,
    labels: list[str],
    buckets: Mapping[tuple[str, ...], Counter[int]],
    sums_s: Mapping[tuple[str, ...], float],
) -> HistogramMetricFamily:
    """`buckets` holds counts per bucket; Prometheus wants them cumulative."""
    family = HistogramMetricFamily(f"grpcgw_{name}", text, labels=labels)
    borders = [*map(floatToGoString, LATENCY_BUCKETS_S), "+Inf"]
    for values, counts in sorted(buckets.items()):
        so_far = 0
        cumulative = []
        for index, border in enumerate(borders):
            so_far += counts[index]
            cumulative.append((border, float(so_far)))
        family.add_metric(values, cumulative, sums_s[values])
    return family
