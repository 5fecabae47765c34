"""Clusters and their pods as the page and the JSON show them: endpoints joined with the reports of all workers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from grpcgw.admin.state import GatewayState
from grpcgw.model.cluster import Cluster
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.telemetry.report import PodReport

NO_POD = "no usable pod"


_WORST_FIRST = (PodState.FAILING, PodState.DRAINING, PodState.CONNECTING, PodState.IDLE, PodState.READY)


class Health(StrEnum):
    """Colour of a destination by its share of successful RPCs; the thresholds are Ambassador's."""

    RED = "red"
    YELLOW = "yellow"
    GREEN = "green"
    GRAY = "gray"
    """Unknown: no RPC has finished yet."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod over all workers."""

    cluster: str
    address: str
    name: str
    states: Mapping[PodState, int]
    """Workers that see the pod in each state; empty while no worker has reported it."""
    in_flight: int = 0
    total: int = 0
    failures: int = 0
    latency_mean_ms: float = 0.0
    last_error: str = ""
    note: str = ""
    """Why workers that are connected to the pod send it no RPCs."""
    zone: str = ""

    @property
    def state(self) -> str:
        """The worst state that any worker sees, or `unknown`."""
        return next((str(state) for state in _WORST_FIRST if state in self.states), "unknown")

    @property
    def finished(self) -> int:
        return max(self.total - self.in_flight, 0)

    @property
    def is_usable(self) -> bool:
        """Some worker can send RPCs to it, or no worker has reported yet."""
        return not self.states or not self.states.keys() <= {PodState.FAILING, PodState.DRAINING}


@dataclass(frozen=True, slots=True)
class ClusterView:
    cluster: Cluster
    pods: tuple[PodView, ...]
    resolved: bool
    """The resolver has answered at least once."""
    error: str

    @property
    def success_share(self) -> float | None:
        """Between 0 and 1; None before the first finished RPC."""
        finished = sum(pod.finished for pod in self.pods)
        failures = sum(pod.failures for pod in self.pods)
        return max(0.0, 1 - failures / finished) if finished else None

    @property
    def is_dead(self) -> bool:
        """No pod can serve an RPC. A cluster whose pods are not known yet is not dead."""
        return self.resolved and not any(pod.is_usable for pod in self.pods)

    @property
    def health(self) -> Health:
        return Health.RED if self.is_dead else health_of(self.success_share)

    @property
    def health_in_words(self) -> str:
        """`98% healthy`."""
        if self.is_dead:
            return NO_POD
        return "no requests yet" if self.success_share is None else f"{self.success_share:.0%} healthy"

    def pods_by_state(self) -> dict[str, int]:
        counts = Counter(pod.state for pod in self.pods)
        return {state: counts[state] for state in (*map(str, reversed(_WORST_FIRST)), "unknown") if counts[state]}


def view_clusters(state: GatewayState) -> Iterable[ClusterView]:
    reports: dict[str, dict[str, list[PodReport]]] = defaultdict(lambda: defaultdict(list))
    for worker in state.workers:
        for pod in worker.pods:
            reports[pod.cluster][pod.address].append(pod)
    for name, cluster in sorted(state.snapshot.clusters.items()):
        found = state.endpoints.get(name)
        pods = _view_pods(name, found or EndpointSet(), reports.get(name, {}))
        yield ClusterView(cluster, tuple(pods), found is not None, found.error if found else "")


def _view_pods(cluster: str, found: EndpointSet, reports: Mapping[str, list[PodReport]]) -> Iterable[PodView]:
    """The pods of the service in their order, then draining pods that left it."""
    known = {str(endpoint): endpoint for endpoint in found.endpoints}
    for address in (*known, *sorted(reports.keys() - known.keys())):
        yield _merge_pod(cluster, address, known.get(address), reports.get(address, []))


def _merge_pod(cluster: str, address: str, endpoint: Endpoint | None, reports: list[PodReport]) -> PodView:
    finished = sum(report.total - report.in_flight for report in reports)
    latency_ms = sum(report.latency_mean_ms * (report.total - report.in_flight) for report in reports)
    worst = sorted(reports, key=lambda report: _WORST_FIRST.index(report.state))
    return PodView(
        cluster=cluster,
        address=address,
        name=endpoint.name if endpoint is not None else "",
        zone=endpoint.zone if endpoint is not None else "",
        states=Counter(report.state for report in reports),
        in_flight=sum(report.in_flight for report in reports),
        total=sum(report.total for report in reports),
        failures=sum(report.failures for report in reports),
        latency_mean_ms=latency_ms / finished if finished else 0.0,
        last_error=next((report.last_error for report in worst if report.last_error), ""),
        note=next((report.note for report in worst if report.note), ""),
    )


def health_of(success_share: float | None) -> Health:
    if success_share is None:
        return Health.GRAY
    if success_share < 0.7:
        return Health.RED
    return Health.YELLOW if success_share < 0.9 else Health.GREEN
