"""Connection pool of one cluster: decides which pods to open, drain and close, and which may be picked.

Every decision is one synchronous step; the engine opens and closes channels. The time is an argument. Not thread-safe:
the lock of the ClusterSet guards it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.endpoints import Endpoint, PodState
from grpcgw.upstream.pod import Pod

OpenPod = Callable[[Endpoint, Pod | None], Pod]
"""Opens a connection to an endpoint. The second argument is the pod with the connection that it is to replace."""


@dataclass(slots=True)
class Pool:
    """`serving` are the pods of the last endpoint set, in its order; `leaving` those that left and still have RPCs."""

    serving: dict[Endpoint, Pod] = field(default_factory=dict)
    arriving: dict[Endpoint, Pod] = field(default_factory=dict)
    """New connections to pods of `serving`; each replaces the one there once it is established (`look`)."""
    leaving: dict[Pod, float] = field(default_factory=dict)
    """Pod → monotonic time at which its remaining RPCs are cancelled; infinite while the pod itself stays."""
    unread: bool = False
    """The next `look` must read states, although no connection has reported a change."""
    failed: list[Pod] = field(default_factory=list)
    """Pods that `look` has just found failing; the caller removes those it probes for the cause."""

    def replace(self, endpoints: Sequence[Endpoint], open_pod: OpenPod, drain_until_s: float) -> tuple[Pod, ...]:
        """Make `endpoints` the pods that get new RPCs. A pod that stays keeps its connection; so does one that comes
        back before its RPCs are over.

        Returns the pods that left just now; they finish their RPCs until `drain_until_s`.
        """
        self.unread = True
        before, gone = self.serving, {pod.endpoint: pod for pod in self.leaving if not pod.replaced}
        self.serving = {
            endpoint: before.get(endpoint) or self._bring_back(gone.get(endpoint), endpoint) or open_pod(endpoint, None)
            for endpoint in endpoints
        }
        left = tuple(pod for endpoint, pod in before.items() if endpoint not in self.serving)
        for pod in left:
            self._retire(pod)
        for endpoint in self.arriving.keys() - self.serving.keys():
            self._replace(self.arriving.pop(endpoint))
        for pod, limit_s in self.leaving.items():
            stays = pod.endpoint in self.serving
            self.leaving[pod] = math.inf if stays else min(limit_s, drain_until_s)
        return left

    def _bring_back(self, gone: Pod | None, endpoint: Endpoint) -> Pod | None:
        """`gone`, which left and is not closed yet, back in use; None: it is None, or another pod had the address."""
        if gone is None or gone.endpoint.name != endpoint.name:
            return None
        del self.leaving[gone]
        gone.come_back()
        return gone

    def adopt(self, leaving: Mapping[Pod, float], settings: ConnectionSettings) -> None:
        """Drain the `leaving` pods of an earlier pool of the same cluster. `settings`: of new connections."""
        for pod, limit_s in leaving.items():
            pod.replaced |= pod.settings != settings
            self.leaving[pod] = limit_s

    def renew(self, open_pod: OpenPod, now_s: float) -> None:
        """Start a new connection to each pod whose connection has reached its age limit."""
        for endpoint, pod in self.serving.items():
            if now_s >= pod.expires_at_s and endpoint not in self.arriving:
                self.arriving[endpoint] = open_pod(endpoint, pod)

    def reconnect(self, open_pod: OpenPod) -> None:
        """Start a new connection to every pod: the connection settings have changed."""
        for pod in (*self.arriving.values(), *self.leaving):
            self._replace(pod)
        self.arriving = {endpoint: open_pod(endpoint, pod) for endpoint, pod in self.serving.items()}

    def look(self) -> bool:
        """Read the state of every connection; returns whether other pods than before may be picked."""
        self.unread = changed = False
        for pod in self.serving.values():
            state = pod.connection.state()
            if state is not pod.state:
                changed |= self._note_state(pod, state)
        return bool(self.arriving and self._take_over()) or changed

    def _note_state(self, pod: Pod, state: PodState) -> bool:
        """Returns whether that decides on picking: a connection that rests, or wakes, does not."""
        before, was_ready, pod.state = pod.state, pod.is_ready(), state
        if state is PodState.FAILING:
            self.failed.append(pod)
        return pod.is_ready() is not was_ready or PodState.FAILING in (before, state)

    def _take_over(self) -> bool:
        """Replace each old connection whose new one is established; the old one ends with its last RPC.

        Until then the old one serves, unless it is lost too, or has no connection open. Returns whether any was
        replaced.
        """
        waiting = len(self.arriving)
        for endpoint, pod in tuple(self.arriving.items()):
            pod.state = pod.connection.state()
            former = self.serving[endpoint]
            if pod.state is PodState.READY or pod.on_demand or not former.is_ready():
                self.serving[endpoint] = self.arriving.pop(endpoint)
                self._replace(former)
        return len(self.arriving) < waiting

    def _replace(self, pod: Pod) -> None:
        pod.replaced = True
        if pod not in self.leaving:
            self._retire(pod)

    def _retire(self, pod: Pod) -> None:
        pod.draining = True
        self.leaving[pod] = math.inf

    def finished(self, now_s: float) -> tuple[Pod, ...]:
        """Remove and return the leaving pods to close now: without RPCs for a while, or at their drain limit."""
        over = tuple(pod for pod, limit_s in self.leaving.items() if pod.is_over(now_s, limit_s))
        for pod in over:
            del self.leaving[pod]
        return over

    def pods(self) -> Iterable[Pod]:
        return (*self.serving.values(), *self.arriving.values(), *self.leaving)


def usable(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """The pods that may be picked: the connected ones; if there are none, those that may yet connect; else all.

    A pod that is still connecting (or a black hole) never delays an RPC that a connected pod can take. With every pod
    failing, an RPC gets the connection's own error. As grpc-go's round_robin (gRFC A61).
    """
    known = tuple(pods)
    ready = tuple(pod for pod in known if pod.is_ready())
    hopeful = tuple(pod for pod in known if pod.state is not PodState.FAILING)
    return ready or hopeful or known
