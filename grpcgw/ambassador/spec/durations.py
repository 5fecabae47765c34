"""Durations as text, the way Kubernetes and Envoy write them: `3s`, `1500ms`, `1m30s`, `0.5s`."""

from __future__ import annotations

import re

from grpcgw.errors import GrpcgwError

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h)", re.ASCII)
DURATION = r"^([0-9]{1,12}(\.[0-9]{1,6})?(ms|s|m|h))+$|^0$"
"""A pattern of all durations, for the CRDs."""
_MAX_MS = 2**31 - 1


class InvalidDuration(GrpcgwError):
    """The text is not a duration; the message shows a valid one."""


def parse_duration_ms(text: str) -> int:
    """Whole milliseconds, rounded up, so that a short time never becomes 0. As in Go, `0` needs no unit.

    Raises InvalidDuration.
    """
    if text == "0":
        return 0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidDuration(f"{text!r} is no duration: write a number with a unit, like 1500ms, 3s or 1m30s")
    total_ms = sum(float(number) * _UNITS_MS[unit] for number, unit in parts)
    if total_ms > _MAX_MS:
        raise InvalidDuration(f"{text!r} is too long: at most 24 days are allowed")
    return int(-(-total_ms // 1))
