"""Load-balancing state (policy, picker, ejections) of a cluster for one set of settings.

Changed under the lock of the ClusterSet; RPCs read the picker in force. No I/O; the time is an argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from grpcgw.balancer.balancer_catalogue import make_balancer
from grpcgw.balancer.base import Balancer, Picker, TakeTurn
from grpcgw.balancer.zones import ZoneHints, prefer_zone
from grpcgw.model.balancing import Balancing
from grpcgw.model.endpoints import PodState
from grpcgw.upstream.active_health import HealthChecker
from grpcgw.upstream.outlier import OutlierDetector
from grpcgw.upstream.pod import Pod
from grpcgw.upstream.pool import usable

MOST_NAMED_PODS = 3
"""In the message of one status."""


class BalancingState:
    """Load-balancing state (policy, picker, ejections) of a cluster for one set of settings."""

    __slots__ = (
        "__weakref__",
        "_all",
        "_zone",
        "balancer",
        "candidates",
        "checker",
        "is_ready",
        "outliers",
        "picker",
        "publish",
    )

    def __init__(
        self,
        settings: Balancing,
        checker: HealthChecker | None,
        take_turn: TakeTurn,
        zone: str,
        note_ejection: Callable[[], None],
        publish: Callable[[], None],
    ) -> None:
        """`checker`: of `settings.health_check`, shared with others of the same check. `zone`: the gateway's own;
        empty: unknown. `note_ejection`: called once for each ejection, by any thread.

        Raises KeyError for a policy that the catalogue does not have.
        """
        self._zone = zone if settings.load_balancer.prefer_same_zone else ""
        self.balancer: Balancer = make_balancer(settings.load_balancer, take_turn)
        outliers = settings.outlier_detection
        self.outliers = None if outliers is None else OutlierDetector(outliers, note_ejection)
        self.checker = checker
        self.publish = publish
        """Replaces the pickers of the cluster. To be called after an ejection, by any thread."""
        self._all: tuple[Pod, ...] = ()
        self.candidates: tuple[Pod, ...] = ()
        self.is_ready = False
        """Whether some candidate is connected, so that an RPC need not wait for a connection."""
        self.picker: Picker = self.balancer.update(())

    def update(self, pods: tuple[Pod, ...], connected: tuple[Pod, ...], hints: ZoneHints) -> None:
        """Make a new picker if other pods than before may be picked.

        `pods` are the cluster's, `connected` those of them that are usable.
        """
        outliers, checker = self.outliers, self.checker
        if pods != self._all:
            self._all = pods
            if outliers is not None:
                outliers.set_pods(pods)
            if checker is not None:
                checker.set_pods(pods)
        if checker is not None:
            healthy = tuple(pod for pod in pods if checker.is_usable(pod))
            if len(healthy) < len(pods):
                connected = usable(healthy)
        if outliers is not None:
            connected = tuple(pod for pod in connected if not outliers.is_ejected(pod)) or connected
        if self._zone:
            connected = prefer_zone(connected, hints, self._zone)
        if connected != self.candidates:
            self.candidates = connected
            self.picker = self.balancer.update(connected)
        self.is_ready = any(pod.is_ready() for pod in connected)

    def refresh(self, now_s: float) -> bool:
        """Apply what time alone changes: ejections that end, weights that grow. Returns whether to `update`."""
        self.picker = self.balancer.refresh(now_s) or self.picker
        return self.outliers is not None and self.outliers.sweep(now_s)

    def find_other(self, avoid: Pod) -> Pod | None:
        """Some candidate other than `avoid`, a connected one if there is any; None: there is no other."""
        others = [pod for pod in self.candidates if pod is not avoid]
        connected = [pod for pod in others if pod.state is PodState.READY]
        return random.choice(connected or others) if others else None

    def explain(self, pod: Pod, now_s: float) -> str:
        """Why `pod` gets no RPCs although it may be connected; empty: it gets its share."""
        reasons = (
            "" if self.checker is None else self.checker.explain(pod),
            "" if self.outliers is None else self.outliers.explain(pod, now_s),
        )
        return "; ".join(filter(None, reasons))

    def why_none(self) -> str:
        """Why there are no candidates although there are pods; empty: there are none."""
        if self.checker is None or not self._all:
            return ""
        return "; ".join(f"{pod.endpoint} {self.checker.explain(pod)}" for pod in self._all[:MOST_NAMED_PODS])
