"""Routes bound to what serves them: everything an RPC needs of its Mapping, computed once per snapshot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import lcm

from grpcgw.balancer.base import Outcome
from grpcgw.balancer.hashing import make_key
from grpcgw.model.endpoints import PodState
from grpcgw.model.metadata import Metadata
from grpcgw.model.route import Destination, Route
from grpcgw.model.status import Reason
from grpcgw.policy.breakers import Breaker
from grpcgw.policy.chain import BuiltPolicy
from grpcgw.policy.held_messages import UNCOUNTED_BYTES
from grpcgw.policy.metadata_editor import EditMetadata, compile_edits
from grpcgw.policy.retry import RetryBudget
from grpcgw.policy.rewrite import compile_rewrite
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.copy_counters import CopyCounters
from grpcgw.routing.split import Split
from grpcgw.upstream.cluster_state import ClusterState
from grpcgw.upstream.load_balancing import BalancingState
from grpcgw.upstream.pod import Pod


class Target:
    """A Destination bound to its cluster: everything an RPC needs of its Mapping, computed once per snapshot."""

    __slots__ = (
        "_balancing",
        "_cluster",
        "_rewrite",
        "authority",
        "breaker",
        "budget",
        "cluster",
        "edit_request",
        "edit_response",
        "idle_timeout_s",
        "key",
        "label",
        "log_percent",
        "make_key",
        "max_message_bytes",
        "own_authority",
        "policies",
        "policy_upstreams",
        "refusal",
        "retry",
        "shadow",
        "timeout_ms",
        "tls",
        "unchecked_bytes",
    )

    def __init__(
        self,
        route: Route,
        destination: Destination,
        cluster: ClusterState,
        balancing: BalancingState,
        breaker: Breaker | None,
        budget: RetryBudget,
        log_percent: float,
    ) -> None:
        self.key, self.label = destination.key, destination.label
        """The object that configures it: as messages name it, and as metrics do."""
        self.cluster = cluster.cluster.name
        self.refusal: Deny | None = None
        """Why all its RPCs are refused; None: they are served."""
        self.policies: tuple[BuiltPolicy, ...] | None = None
        """Decide on its RPCs, in this order; None: there are none."""
        self.policy_upstreams: tuple[tuple[Target, ...], ...] = ()
        """Where RPCs of policies go: by `BuiltPolicy.index`, then by `UnaryRpc.upstream`."""
        self.log_percent = log_percent
        """Share of its RPCs to log."""
        self.retry = destination.retry
        self.breaker, self.budget = breaker, budget
        self.shadow: Shadow | None = None
        """Gets copies of its RPCs."""
        self.tls = tls = cluster.cluster.connection.tls
        self.authority = destination.authority or (tls.server_name if tls is not None else "")
        """`:authority` towards the pod; empty: the client's. A TLS pod is always called by its certificate's name:
        grpc core refuses an RPC with another."""
        self.own_authority = self.authority or str(cluster.cluster.service)
        """`:authority` of RPCs that the gateway makes itself."""
        self.edit_request: EditMetadata | None = compile_edits(destination.request_headers)
        self.edit_response: EditMetadata | None = compile_edits(destination.response_headers)
        self.make_key = make_key(destination.balancing.load_balancer)
        """What the policy hashes of an RPC; None: nothing."""
        self.timeout_ms = destination.timeout_ms
        self.max_message_bytes = destination.max_message_bytes or sys.maxsize
        self.unchecked_bytes = min(self.max_message_bytes, UNCOUNTED_BYTES)
        """Messages of at most this size are checked against no limit."""
        idle_ms = destination.idle_timeout_ms
        self.idle_timeout_s = None if idle_ms is None else idle_ms / 1000
        self._rewrite = compile_rewrite(route.match, destination)
        self._cluster, self._balancing = cluster, balancing

    def decide_by(self, policies: tuple[BuiltPolicy, ...] | Deny, upstreams: tuple[tuple[Target, ...], ...]) -> None:
        """Set the policies, before the first RPC. A Deny: they cannot be built, and all RPCs are refused."""
        if isinstance(policies, Deny):
            self.refusal = policies
        else:
            self.policies, self.policy_upstreams = policies or None, upstreams

    def pick(self, avoid: Pod | None, key: int | None = None) -> Pod | None:
        """The pod for one RPC; `done` must follow, once. `key` is what `make_key` made of it. `avoid`: the pod that
        just failed it. Of pods connected to on demand the next one is a connected one: others may be gone as well."""
        balancing = self._balancing
        if avoid is not None and avoid.on_demand and (other := balancing.find_other(avoid)):
            return other
        return balancing.picker.pick(avoid, key)  # type: ignore[return-value]  # pickers return what update() was given

    def done(self, pod: Pod, outcome: Outcome, now_s: float) -> None:
        """The try on `pod` ended. A pod that this ejects gets no new RPCs."""
        balancing = self._balancing
        balancing.balancer.done(pod, outcome)
        outliers = balancing.outliers
        if outliers is not None and outliers.record(pod, outcome.failed, now_s):
            balancing.publish()

    def is_connected(self) -> bool:
        """Whether some pod is connected, so that an RPC need not wait for a connection."""
        return self._balancing.is_ready

    def can_serve(self) -> bool:
        """Whether RPCs are served and some pod is connected or may yet be."""
        return self.refusal is None and any(pod.state is not PodState.FAILING for pod in self._balancing.candidates)

    def has_other(self, pod: Pod) -> bool:
        """Whether a pod other than `pod` may be picked."""
        return any(other is not pod for other in self._balancing.candidates)

    def rewrite(self, path: str) -> str:
        """The path towards the pod (`rewrite`, `regex_rewrite`)."""
        return path if self._rewrite is None else self._rewrite(path)

    def why_no_endpoint(self) -> str:
        """The message of the status of an RPC that got no pod."""
        service, endpoints = self._cluster.cluster.service, self._cluster.endpoints
        if endpoints is None:
            return f"{self.key}: the pods of {service} are not known yet"
        why = endpoints.error or self._balancing.why_none()
        return f"{self.key}: no ready pod of {service}" + (f" ({why})" if why else "")


class Shadow:
    """A Route's shadow Mapping, bound to its clusters: decides which RPCs are copied, and to which cluster."""

    __slots__ = ("_split", "counters", "targets")

    def __init__(self, destination: Destination, targets: Sequence[Target], counters: CopyCounters) -> None:
        """`targets`: one for each of its clusters."""
        self.targets, self.counters = tuple(targets), counters
        weights = [one.weight for one in destination.clusters]
        shares = [destination.weight * weight for weight in weights]
        unrouted = (100 - destination.weight) * sum(weights)
        self._split = Split(tuple(zip(self.targets, shares, strict=True)), unrouted)

    def choose(self) -> Target | None:
        """Where the next RPC is copied to: `weight` percent of RPCs are copied, split over the clusters, in turns.

        None: this RPC is not copied.
        """
        return self._split.pick()


class RouteTargets:
    """A Route with its destinations bound: splits its RPCs over them."""

    __slots__ = ("_only", "_split", "_sticky_header", "_targets", "left_out", "redirect")

    def __init__(self, route: Route, targets: Sequence[Sequence[Target]]) -> None:
        """`targets`: for each destination one for each of its clusters."""
        self.redirect, self.left_out = route.redirect, route.left_out
        self._targets = tuple(target for bound in targets for target in bound)
        self._only, self._split = _divide(route, targets)
        self._sticky_header = route.sticky_header

    def choose(self, metadata: Metadata) -> Target | None:
        """The Target of one RPC by weight; None for the share that the weights leave unrouted."""
        if self._only is not None:
            return self._only
        sticky = self._sticky_header
        value = next((value for key, value in metadata if key == sticky), None) if sticky else None
        return self._split.pick() if value is None else self._split.pick_for(value)

    def open_clusters(self) -> frozenset[str]:
        """The clusters of the Mappings that do not refuse all RPCs."""
        return frozenset(target.cluster for target in self._targets if target.refusal is None)

    def can_serve(self) -> bool:
        """Whether some Mapping serves RPCs and has a pod that is connected or may yet be."""
        return any(target.can_serve() for target in self._targets)


def _divide(route: Route, targets: Sequence[Sequence[Target]]) -> tuple[Target | None, Split[Target]]:
    """The target that gets all RPCs, and how they are split. None: several get RPCs, or a share is unrouted."""
    if len(targets) == 1 == len(targets[0]) and not route.unrouted_weight:  # as of most routes
        destination = route.destinations[0]
        if destination.weight > 0 and destination.clusters[0].weight > 0:
            return targets[0][0], _NOT_SPLIT
    choices, unrouted = _weigh(route, targets)
    used = [target for target, weight in choices if weight]
    return used[0] if len(used) == 1 and not unrouted else None, Split(choices, unrouted)


_NOT_SPLIT: Split[Target] = Split((), 1)


def _weigh(route: Route, targets: Sequence[Sequence[Target]]) -> tuple[list[tuple[Target, int]], int]:
    """The targets of a route with their exact shares as integers, and the unrouted share."""
    parts = [sum(one.weight for one in destination.clusters) for destination in route.destinations]
    scale = lcm(*filter(None, parts))
    unrouted = route.unrouted_weight * scale
    choices: list[tuple[Target, int]] = []
    for destination, bound, whole in zip(route.destinations, targets, parts, strict=True):
        unit = destination.weight * scale // whole if whole else 0
        choices += [(target, one.weight * unit) for one, target in zip(destination.clusters, bound, strict=True)]
        unrouted += 0 if whole else destination.weight * scale
    return choices, unrouted


def explain_nowhere(targets: RouteTargets, path: str) -> Deny:
    """Why `RouteTargets.choose` returned None."""
    if targets.redirect:
        message = f"Mapping {targets.redirect} is an HTTP redirect, which gRPC clients do not follow"
        return Deny(Reason.REDIRECT, message)
    if targets.left_out:
        return Deny(Reason.ROUTE_LEFT_OUT, targets.left_out)
    return Deny(Reason.UNROUTED_SHARE, f"the weights of the Mappings for {path} leave a share of the traffic unrouted")
