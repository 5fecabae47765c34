"""Active health checks: schedules checks of pods and evaluates their results. Pure; the engine sends the checks.

A pod that was not checked yet is used: Kubernetes calls it ready. Thresholds are Envoy's, without its panic threshold:
an unhealthy pod gets no RPCs, even where all pods are unhealthy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from grpcgw.model.balancing import HealthCheck
from grpcgw.model.codes import Code, status_name
from grpcgw.model.endpoints import Endpoint
from grpcgw.upstream.pod import Pod

SERVING = 1
"""`grpc.health.v1.HealthCheckResponse.SERVING`."""
_SERVING_STATUS_NAMES = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

INTERVAL_JITTER = 0.1
"""Each interval is up to this share shorter or longer, so that pods and gateways do not check in step."""


LOST_S = 5.0
"""A check without an answer for so long after its time-out is given up, and the pod is checked again."""


class PodHealth:
    """Health of one pod by one HealthCheck. One thread at a time."""

    __slots__ = ("_in_a_row", "_last_failure", "_settings", "due_s", "healthy", "waits_until_s")

    def __init__(self, settings: HealthCheck) -> None:
        self._settings = settings
        self.due_s = 0.0
        """Monotonic time of the next check."""
        self.waits_until_s: float | None = None
        """Monotonic time until which the running check may answer; None while no check runs."""
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
        self.waits_until_s = None
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

    def begin(self, now_s: float, pause_s: float) -> None:
        """A check begins; the next one is due after `pause_s`."""
        self.due_s = now_s + pause_s
        self.waits_until_s = now_s + self._settings.timeout_ms / 1000 + LOST_S

    def is_due(self, now_s: float) -> bool:
        return now_s >= self.due_s and (self.waits_until_s is None or now_s >= self.waits_until_s)

    def explain(self) -> str:
        """The result of the checks, for the operator."""
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


def judge_check(settings: HealthCheck, code: int, details: str, serving_status: int | None) -> str:
    """Why a check failed, or empty where the pod is serving.

    `code`: of the gRPC status the check ended with, `serving_status`: of the response, where there was one.
    """
    if code == Code.OK:
        if serving_status == SERVING:
            return ""
        name = _SERVING_STATUS_NAMES.get(serving_status or 0, str(serving_status))
        return f"the pod says {name}" + (f" of {settings.service}" if settings.service else "")
    if code == Code.UNIMPLEMENTED:
        return "the pod does not serve grpc.health.v1.Health"
    if code == Code.NOT_FOUND:
        return f"the pod's health service does not know {settings.service!r}"
    if code == Code.DEADLINE_EXCEEDED:
        return f"no answer within {settings.timeout_ms} ms"
    return f"{status_name(code)}: {details}" if details else status_name(code)


class HealthChecker:
    """Checks the pods of one cluster by one HealthCheck. The caller's lock guards it.

    Health belongs to the endpoint: a pod keeps it when its connection is replaced.
    """

    def __init__(self, settings: HealthCheck, draw: Callable[[float, float], float] = random.uniform) -> None:
        self.settings = settings
        self._draw = draw
        self._pods: tuple[Pod, ...] = ()
        self._health: dict[Endpoint, PodHealth] = {}

    def set_pods(self, pods: Iterable[Pod]) -> None:
        """Check these from now on. A check on a replaced connection may never be answered, so it is given up."""
        before, connections = self._health, set(self._pods)
        self._pods = tuple(pods)
        self._health = {p.endpoint: before.get(p.endpoint) or PodHealth(self.settings) for p in self._pods}
        for pod in self._pods:
            if pod not in connections:
                self._health[pod.endpoint].waits_until_s = None

    def take_due(self, now_s: float) -> list[tuple[Pod, PodHealth]]:
        """The pods to check now; `record` on each health should follow. One check per pod runs at a time."""
        due = []
        for pod in self._pods:
            health = self._health[pod.endpoint]
            if health.is_due(now_s):
                pause_s = self.settings.interval_ms / 1000
                health.begin(now_s, pause_s * self._draw(1 - INTERVAL_JITTER, 1 + INTERVAL_JITTER))
                due.append((pod, health))
        return due

    def is_usable(self, pod: Pod) -> bool:
        return self._health[pod.endpoint].usable

    def explain(self, pod: Pod) -> str:
        """Why `pod` gets no RPCs; empty: it gets its share."""
        health = self._health.get(pod.endpoint)
        return "" if health is None or health.usable else health.explain()
