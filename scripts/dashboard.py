"""Writes deploy/grafana-dashboard.json: RPCs per Mapping, policies, pods and workers, by docs/metrics.md."""

from __future__ import annotations

import json
from pathlib import Path

TARGET = Path(__file__).parents[1] / "deploy" / "grafana-dashboard.json"
SELECTED = 'mapping=~"$mapping"'
RATE = "[$__rate_interval]"
Query = tuple[str, str]
"""Expression and legend."""

ROWS: tuple[tuple[str, tuple[tuple[str, str, tuple[Query, ...]], ...]], ...] = (
    (
        "RPCs per Mapping",
        (
            ("RPCs", "reqps", ((f"sum by (mapping) (rate(grpcgw_rpcs_total{{{SELECTED}}}{RATE}))", "{{mapping}}"),)),
            (
                "Share that is not OK",
                "percentunit",
                (
                    (
                        f'sum by (mapping) (rate(grpcgw_rpcs_total{{{SELECTED}, grpc_status!="OK"}}{RATE}))'
                        f" / sum by (mapping) (rate(grpcgw_rpcs_total{{{SELECTED}}}{RATE}))",
                        "{{mapping}}",
                    ),
                ),
            ),
            (
                "Statuses of the gateway's own",
                "reqps",
                (
                    (
                        f'sum by (grpc_status, reason) (rate(grpcgw_rpcs_total{{{SELECTED}, reason!=""}}{RATE}))',
                        "{{grpc_status}} {{reason}}",
                    ),
                ),
            ),
            (
                "Duration, 99 %",
                "s",
                (
                    (
                        "histogram_quantile(0.99, sum by (mapping, le)"
                        f" (rate(grpcgw_rpc_duration_seconds_bucket{{{SELECTED}}}{RATE})))",
                        "{{mapping}}",
                    ),
                ),
            ),
            (
                "Running now",
                "short",
                ((f"sum by (mapping) (grpcgw_rpcs_in_flight{{{SELECTED}}})", "{{mapping}}"),),
            ),
            (
                "Retries, and refusals of circuit breakers",
                "reqps",
                (
                    (f"sum by (mapping) (rate(grpcgw_retries_total{{{SELECTED}}}{RATE}))", "retries {{mapping}}"),
                    (
                        f"sum by (mapping) (rate(grpcgw_circuit_breaker_refusals_total{{{SELECTED}}}{RATE}))",
                        "refused {{mapping}}",
                    ),
                ),
            ),
        ),
    ),
    (
        "Policies",
        (
            (
                "Verdicts",
                "reqps",
                (
                    (
                        f"sum by (policy, verdict) (rate(grpcgw_policy_verdicts_total{{{SELECTED}}}{RATE}))",
                        "{{policy}} {{verdict}}",
                    ),
                ),
            ),
            (
                "No verdict: failed open, failed closed, defects",
                "reqps",
                (
                    (
                        f"sum by (policy, error) (rate(grpcgw_policy_errors_total{{{SELECTED}}}{RATE}))",
                        "{{policy}} {{error}}",
                    ),
                ),
            ),
            (
                "Waits, 99 %",
                "s",
                (
                    (
                        "histogram_quantile(0.99, sum by (policy, le)"
                        f" (rate(grpcgw_policy_wait_seconds_bucket{{{SELECTED}}}{RATE})))",
                        "{{policy}}",
                    ),
                ),
            ),
            (
                "Cache hits",
                "percentunit",
                (
                    (
                        f"sum by (cache) (rate(grpcgw_policy_cache_hits_total{RATE}))"
                        f" / (sum by (cache) (rate(grpcgw_policy_cache_hits_total{RATE}))"
                        f" + sum by (cache) (rate(grpcgw_policy_cache_misses_total{RATE})))",
                        "{{cache}}",
                    ),
                ),
            ),
            (
                "Slow checks of own policies",
                "reqps",
                ((f"sum by (policy) (rate(grpcgw_policy_slow_checks_total{RATE}))", "{{policy}}"),),
            ),
            ("Age of key sets", "s", (("max by (url) (grpcgw_key_set_age_seconds)", "{{url}}"),)),
            ("Redis of the rate limits reached", "short", (("min(grpcgw_rate_limit_redis_up)", "up"),)),
        ),
    ),
    (
        "Gateway",
        (
            ("Pods by state", "short", (("sum by (cluster, state) (grpcgw_pod_state)", "{{cluster}} {{state}}"),)),
            (
                "Failures of pods",
                "reqps",
                ((f"sum by (cluster) (rate(grpcgw_pod_failures_total{RATE}))", "{{cluster}}"),),
            ),
            (
                "Processor time",
                "percentunit",
                ((f"sum by (process) (rate(grpcgw_process_cpu_seconds_total{RATE}))", "{{process}}"),),
            ),
            ("Memory", "bytes", (("sum by (process) (grpcgw_process_resident_memory_bytes)", "{{process}}"),)),
            (
                "Errors in the configuration",
                "short",
                (("sum by (severity) (grpcgw_configuration_errors)", "{{severity}}"),),
            ),
            ("Client connections", "short", (("sum by (port) (grpcgw_client_connections)", "{{port}}"),)),
        ),
    ),
)


def make_dashboard() -> dict[str, object]:
    panels: list[dict[str, object]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "id": len(panels) + 1}
        )
        for number, (name, unit, queries) in enumerate(row):
            place = {"x": 8 * (number % 3), "y": y + 1 + 8 * (number // 3), "w": 8, "h": 8}
            panels.append(make_panel(len(panels) + 1, name, unit, queries, place))
        y += 1 + 8 * -(-len(row) // 3)
    return {
        "title": "grpcgw",
        "uid": "grpcgw",
        "schemaVersion": 39,
        "tags": ["grpc", "gateway"],
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [make_source(), make_mapping()]},
        "panels": panels,
    }


def make_panel(
    number: int, name: str, unit: str, queries: tuple[Query, ...], place: dict[str, int]
) -> dict[str, object]:
    source = {"type": "prometheus", "uid": "$source"}
    return {
        "id": number,
        "type": "timeseries",
        "title": name,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"datasource": source, "expr": expression, "legendFormat": legend, "refId": chr(ord("A") + index)}
            for index, (expression, legend) in enumerate(queries)
        ],
    }


def make_source() -> dict[str, object]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def make_mapping() -> dict[str, object]:
    return {
        "name": "mapping",
        "label": "Mapping",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$source"},
        "query": "label_values(grpcgw_rpcs_in_flight, mapping)",
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(make_dashboard(), indent=1) + "\n")
