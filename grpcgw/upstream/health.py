"""Active health checks: what the results of a pod's checks make of the pod. Pure; who asks, when, is the engine's.

A pod that was not checked yet is used: Kubernetes calls it ready. Thresholds are Envoy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from grpcgw.config.policies import HealthCheck

SERVING = 1
"""`grpc.health.v1.HealthCheckResponse.SERVING`."""
_SERVING_STATUS_NAMES = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

AnyPod = TypeVar("AnyPod")


class PodHealth:
    """Health of one pod under one Mapping's checks. One thread at a time."""

    __slots__ = ("_in_a_row", "_last_failure", "_settings", "healthy")

    def __init__(self, settings: HealthCheck) -> None:
        self._settings = settings
        self._in_a_row = 0
        self._last_failure = ""
        self.healthy: bool | None = None
        """None: not checked yet."""

    @property
    def usable(self) -> bool:
        return self.healthy is not False

    def record(self, failure: str) -> bool:
        """A check ended; `failure` is empty where the pod is serving. Returns whether `usable` changed.

        The first check decides alone, as in Envoy; after it a change needs as many checks in a row as its threshold.
        """
        passed = not failure
        if failure:
            self._last_failure = failure
        if self.healthy is None:
            self.healthy = passed
            return failure != ""
        if passed is self.healthy:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        threshold = self._settings.healthy_threshold if passed else self._settings.unhealthy_threshold
        if self._in_a_row < threshold:
            return False
        self.healthy, self._in_a_row = passed, 0
        return True

    def explain(self) -> str:
        """For the operator: what the checks say of the pod."""
        if self.healthy is None:
            return "not checked yet"
        if self.healthy:
            if not self._in_a_row:
                return "healthy"
            allowed = self._settings.unhealthy_threshold
            return f"healthy, but failed {self._in_a_row} of {allowed} checks in a row: {self._last_failure}"
        if self._in_a_row:
            needed = self._settings.healthy_threshold
            return f"unhealthy: {self._last_failure}; passed {self._in_a_row} of {needed} checks in a row since"
        return f"unhealthy: {self._last_failure}"


def judge_check(settings: HealthCheck, code: str, details: str, serving_status: int | None) -> str:
    """Why a check failed, or empty where the pod is serving.

    `code`: name of the gRPC status the check ended with, `serving_status`: of the response, where there was one.
    """
    if code == "OK":
        if serving_status == SERVING:
            return ""
        name = _SERVING_STATUS_NAMES.get(serving_status or 0, str(serving_status))
        return f"the pod says {name}" + (f" of {settings.service}" if settings.service else "")
    if code == "UNIMPLEMENTED":
        return "the pod does not serve grpc.health.v1.Health"
    if code == "NOT_FOUND":
        return f"the pod's health service does not know {settings.service!r}"
    if code == "DEADLINE_EXCEEDED":
        return f"no answer within {settings.timeout_ms} ms"
    return f"{code}: {details}" if details else code


def choose_good(
    pods: Sequence[AnyPod], is_good: Callable[[AnyPod], bool], panic_percent: int = 0
) -> tuple[AnyPod, ...]:
    """The pods to balance over: the good ones, which may be none (RPCs then fail at once, saying so).

    Where fewer than `panic_percent` of all are good, the check is less to be trusted than the pods, and all are used
    (Envoy's panic threshold, there 50 by default; here off).
    """
    good = tuple(pod for pod in pods if is_good(pod))
    return tuple(pods) if len(good) * 100 < len(pods) * panic_percent else good
