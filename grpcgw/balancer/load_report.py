"""Load reports of pods (ORCA, gRFC A51) and the weights computed from them (gRFC A58).

A pod puts an `xds.data.orca.v3.OrcaLoadReport` into its trailers; its utilization decides its share of the RPCs.
Envoy has two keys: `endpoint-load-metrics` with `TEXT`, `JSON` or `BIN` before the report, and the serialized report in
`endpoint-load-metrics-bin`, which grpc core removes, so that an engine on grpc core never shows it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from grpcgw.balancer.base import Backend, Outcome
from grpcgw.balancer.orca_load_report_pb2 import OrcaLoadReport

TEXT_KEY, BINARY_KEY = "endpoint-load-metrics", "endpoint-load-metrics-bin"

_FIELDS = {
    "cpu_utilization": "cpu_utilization",
    "cpuUtilization": "cpu_utilization",
    "rps_fractional": "qps",
    "rpsFractional": "qps",
    "eps": "eps",
    "application_utilization": "application_utilization",
    "applicationUtilization": "application_utilization",
}
"""Fields of LoadReport by their names in text and JSON, which has two for each."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The load of a pod; 0.0 for what its report leaves out."""

    qps: float = 0.0
    eps: float = 0.0
    """Failed RPCs a second, never negative."""
    cpu_utilization: float = 0.0
    application_utilization: float = 0.0
    """The application's own measure; if given it is used instead of the CPU's."""

    def __post_init__(self) -> None:
        if not self.eps >= 0.0:
            object.__setattr__(self, "eps", 0.0)

    def weight(self, error_penalty: float) -> float:
        """RPCs a second per unit of load, with failures counted as load (A58); 0.0 if the report lacks one of them."""
        utilization = self.application_utilization or self.cpu_utilization
        if self.qps <= 0 or utilization <= 0:
            return 0.0
        weight = self.qps / (utilization + self.eps / self.qps * error_penalty)
        return weight if math.isfinite(weight) and weight > 0 else 0.0


def find_load_report(trailers: Iterable[tuple[str, str | bytes]]) -> LoadReport | None:
    """The report in a pod's trailers, or None where there is none that can be read."""
    for key, value in trailers:
        if key == TEXT_KEY and isinstance(value, str):
            return parse_report_text(value)
        if key == BINARY_KEY and isinstance(value, bytes):
            return parse_load_report(value)
    return None


def parse_report_text(text: str) -> LoadReport | None:
    """Of `TEXT cpu_utilization=0.5,rps_fractional=100`, `JSON {"cpu_utilization": 0.5}` or `BIN <base64>`."""
    form, _, body = text.strip().partition(" ")
    try:
        match form:
            case "TEXT":
                return LoadReport(**dict(_read_text(body)))
            case "JSON":
                return LoadReport(**dict(_read_json(body)))
            case "BIN":
                return parse_load_report(base64.b64decode(body, validate=True))
    except (ValueError, OverflowError, RecursionError):  # binascii.Error and JSONDecodeError are ValueErrors
        return None
    return None


def _read_text(body: str) -> Iterator[tuple[str, float]]:
    for part in body.split(","):
        name, _, value = part.strip().partition("=")
        if name in _FIELDS:
            yield _FIELDS[name], float(value)


def _read_json(body: str) -> Iterator[tuple[str, float]]:
    fields = json.loads(body)
    if not isinstance(fields, dict):
        raise ValueError(f"{body[:20]!r} is no object")
    for name, value in fields.items():
        if name in _FIELDS and isinstance(value, int | float):
            yield _FIELDS[name], float(value)


def parse_load_report(data: bytes) -> LoadReport | None:
    """Of a serialized OrcaLoadReport; None for bytes that are no protobuf message."""
    try:
        report = OrcaLoadReport.FromString(data)
    except DecodeError:
        return None
    return LoadReport(report.rps_fractional, report.eps, report.cpu_utilization, report.application_utilization)


@dataclass(slots=True)
class _Known:
    """The weight from the newest useful report of a pod, and the start of its reports without a long gap."""

    weight: float
    since_s: float
    updated_s: float


class LoadWeights:
    """Weights from load reports (gRFC A58); a pod without a usable report gets the mean of the others.

    `done` may run in any thread while `weigh` runs: each report is one dict assignment, and `weigh` takes the dict
    away before it reads. A report that arrives in that moment is lost; the next one replaces it.
    """

    def __init__(self, blackout_s: float = 10.0, expiration_s: float = 180.0, error_penalty: float = 1.0) -> None:
        """The defaults are A58's. Reports count after `blackout_s` of reports, and until `expiration_s` without one."""
        self._blackout_s, self._expiration_s, self._error_penalty = blackout_s, expiration_s, error_penalty
        self._latest: dict[Backend, LoadReport] = {}
        self._known: dict[Backend, _Known] = {}

    def done(self, pod: Backend, outcome: Outcome) -> None:
        report = find_load_report(outcome.trailers)
        if report is not None:
            self._latest[pod] = report

    def weigh(self, pods: Sequence[Backend], now_s: float) -> list[float]:
        latest, self._latest = self._latest, {}
        known = self._known
        self._known = {}
        for pod in pods:
            entry = self._note(known.get(pod), latest.get(pod), now_s)
            if entry is not None:
                self._known[pod] = entry
        weights = [self._weight(self._known.get(pod), now_s) for pod in pods]
        reported = [weight for weight in weights if weight]
        if len(reported) < 2:
            return [1.0] * len(pods)
        mean = math.fsum(reported) / len(reported)
        return [weight or mean for weight in weights]

    def _note(self, entry: _Known | None, report: LoadReport | None, now_s: float) -> _Known | None:
        if entry is not None and now_s - entry.updated_s >= self._expiration_s:
            entry = None
        weight = report.weight(self._error_penalty) if report is not None else 0.0
        if not weight:
            return entry
        return _Known(weight, entry.since_s if entry is not None else now_s, now_s)

    def _weight(self, entry: _Known | None, now_s: float) -> float:
        return entry.weight if entry is not None and now_s - entry.since_s >= self._blackout_s else 0.0
