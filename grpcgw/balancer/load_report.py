"""Load reports of pods (ORCA, gRFC A51) and the weights they give (gRFC A58).

A pod puts an `xds.data.orca.v3.OrcaLoadReport` into its trailers; how busy it says it is decides its share. Envoy's
two keys are read: `endpoint-load-metrics` with `TEXT`, `JSON` or `BIN` before the report, and the serialized report in
`endpoint-load-metrics-bin`, which grpc core keeps to itself so that an engine on it never has one to show. The few
fields needed are decoded by hand: the generated code would bring a dependency for three numbers.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from grpcgw.balancer.base import Backend, Outcome

TEXT_KEY, BINARY_KEY = "endpoint-load-metrics", "endpoint-load-metrics-bin"

_CPU_UTILIZATION, _RPS_FRACTIONAL, _EPS, _APPLICATION_UTILIZATION = 1, 6, 7, 9
"""Field numbers of OrcaLoadReport; all are doubles."""
_NUMBERS = {
    "cpu_utilization": _CPU_UTILIZATION,
    "cpuUtilization": _CPU_UTILIZATION,
    "rps_fractional": _RPS_FRACTIONAL,
    "rpsFractional": _RPS_FRACTIONAL,
    "eps": _EPS,
    "application_utilization": _APPLICATION_UTILIZATION,
    "applicationUtilization": _APPLICATION_UTILIZATION,
}
"""By their names in text and JSON, which has two for each."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a pod says of its load; 0.0 where it says nothing."""

    qps: float = 0.0
    eps: float = 0.0
    """Failed RPCs a second."""
    cpu_utilization: float = 0.0
    application_utilization: float = 0.0
    """The application's own measure, which wins over the CPU's."""

    def weight(self, error_penalty: float) -> float:
        """RPCs a second per unit of load, with failures counted as load (A58); 0.0: the report says too little."""
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
                return _make_report(dict(_read_text(body)))
            case "JSON":
                return _make_report(dict(_read_json(body)))
            case "BIN":
                return parse_load_report(base64.b64decode(body, validate=True))
    except (ValueError, OverflowError, RecursionError):  # binascii.Error and JSONDecodeError are ValueErrors
        return None
    return None


def _read_text(body: str) -> Iterator[tuple[int, float]]:
    for part in body.split(","):
        name, _, value = part.strip().partition("=")
        if name in _NUMBERS:
            yield _NUMBERS[name], float(value)


def _read_json(body: str) -> Iterator[tuple[int, float]]:
    fields = json.loads(body)
    if not isinstance(fields, dict):
        raise ValueError(f"{body[:20]!r} is no object")
    for name, value in fields.items():
        if name in _NUMBERS and isinstance(value, int | float):
            yield _NUMBERS[name], float(value)


def parse_load_report(data: bytes) -> LoadReport | None:
    """Of a serialized OrcaLoadReport; None for bytes that are no protobuf message."""
    try:
        fields = dict(_doubles(data))
    except (IndexError, struct.error, _NoMessage):
        return None
    return _make_report(fields)


def _make_report(fields: dict[int, float]) -> LoadReport:
    return LoadReport(
        qps=fields.get(_RPS_FRACTIONAL, 0.0),
        eps=max(0.0, fields.get(_EPS, 0.0)),
        cpu_utilization=fields.get(_CPU_UTILIZATION, 0.0),
        application_utilization=fields.get(_APPLICATION_UTILIZATION, 0.0),
    )


class _NoMessage(Exception):
    pass


def _doubles(data: bytes) -> Iterator[tuple[int, float]]:
    """Number and value of each double field on the top level; the last of a number counts, as protobuf says."""
    place = 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _FIXED64:
            yield number, struct.unpack_from("<d", data, place)[0]
            place += 8
        elif wire_type == _VARINT:
            _, place = _read_varint(data, place)
        elif wire_type == _BYTES:
            size, place = _read_varint(data, place)
            place += size
        elif wire_type == _FIXED32:
            place += 4
        else:
            raise _NoMessage
    if place != len(data):
        raise _NoMessage


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _NoMessage


@dataclass(slots=True)
class _Known:
    """The last useful report of a pod, and since when its reports have come without a long gap."""

    weight: float
    since_s: float
    updated_s: float


class LoadWeights:
    """Weights from load reports, as A58 says; a pod nothing is known of gets the mean of the others.

    `done` may run in any thread while `weigh` runs: each report is one dict assignment, and `weigh` takes the dict
    away before it reads. A report that comes in just then is lost, and the next one tells the same.
    """

    def __init__(self, blackout_s: float = 10.0, expiration_s: float = 180.0, error_penalty: float = 1.0) -> None:
        """A58's defaults. Reports count once they have come for `blackout_s`, until none came for `expiration_s`."""
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
