"""A cluster's last pod is taken away only when no change of the configuration is under way, and never too late."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from grpcgw.control.empty_endpoints import GRACE_S, LIMIT_S, EmptySetDelay
from grpcgw.model.endpoints import Endpoint, EndpointSet

ONE = EndpointSet((Endpoint("10.0.0.1", 1),))
TWO = EndpointSet((Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 1)))
NONE = EndpointSet()
GONE = EndpointSet(error="no Service greet")


def serving(endpoints: EndpointSet = ONE) -> EmptySetDelay:
    delay = EmptySetDelay()
    assert delay.admit("greet", endpoints, 0.0)
    return delay


def test_a_first_set_is_let_through_even_if_it_is_empty() -> None:
    delay = EmptySetDelay()
    assert delay.admit("greet", GONE, 0.0)
    assert delay.admit("greet", NONE, 0.0)
    assert not delay


def test_a_set_that_shrinks_grows_or_changes_is_let_through_at_once() -> None:
    delay = serving(TWO)
    for endpoints in (ONE, TWO, EndpointSet((Endpoint("10.0.0.3", 1),))):
        assert delay.admit("greet", endpoints, 0.0)


def test_the_loss_of_the_last_pod_is_published_after_the_grace_where_nothing_is_compiled() -> None:
    delay = serving()
    assert not delay.admit("greet", NONE, 1.0)
    assert delay.take_due(1.0 + GRACE_S / 2, change_pending=False) == {}
    assert delay.take_due(1.0 + GRACE_S, change_pending=False) == {"greet": NONE}
    assert not delay


def test_it_waits_for_a_compilation_but_not_for_ever() -> None:
    delay = serving()
    assert not delay.admit("greet", GONE, 0.0)
    assert delay.take_due(LIMIT_S - 0.01, change_pending=True) == {}
    assert delay.take_due(LIMIT_S, change_pending=True) == {"greet": GONE}


def test_what_is_still_true_after_the_compilation_is_published_then() -> None:
    delay = serving()
    assert not delay.admit("greet", GONE, 0.0)
    assert delay.take_due(1.0, change_pending=True) == {}
    assert delay.take_due(1.0, change_pending=False) == {"greet": GONE}


def test_a_newer_reason_takes_the_place_of_the_one_withheld_and_wins_no_time() -> None:
    delay = serving()
    assert not delay.admit("greet", NONE, 0.0)
    assert not delay.admit("greet", GONE, LIMIT_S - 0.01)
    assert delay.take_due(LIMIT_S, change_pending=True) == {"greet": GONE}


def test_pods_that_are_back_in_time_were_never_gone() -> None:
    delay = serving()
    assert not delay.admit("greet", NONE, 0.0)
    assert delay.admit("greet", ONE, 0.01)
    assert delay.take_due(LIMIT_S, change_pending=False) == {}


def test_after_a_loss_was_published_further_empty_sets_pass_at_once() -> None:
    delay = serving()
    assert not delay.admit("greet", NONE, 0.0)
    assert delay.take_due(GRACE_S, change_pending=False)
    assert delay.admit("greet", GONE, 1.0)


def test_of_a_cluster_that_is_dropped_nothing_is_published_later() -> None:
    delay = serving()
    assert not delay.admit("greet", NONE, 0.0)
    delay.forget("greet")
    assert not delay
    assert delay.take_due(LIMIT_S, change_pending=False) == {}
    assert delay.admit("greet", NONE, LIMIT_S)


class AnyOrder(RuleBasedStateMachine):
    """What is published follows the truth: at once, or within the limit where it takes away a cluster's last pod."""

    def __init__(self) -> None:
        super().__init__()
        self.delay = EmptySetDelay()
        self.now_s = 0.0
        self.true: dict[str, EndpointSet] = {}
        self.published: dict[str, EndpointSet] = {}
        self.lost_s: dict[str, float] = {}

    @rule(cluster=st.sampled_from("ab"), endpoints=st.sampled_from((ONE, TWO, NONE, GONE)))
    def pods_change(self, cluster: str, endpoints: EndpointSet) -> None:
        self.true[cluster] = endpoints
        if endpoints.endpoints:
            self.lost_s.pop(cluster, None)
        else:
            self.lost_s.setdefault(cluster, self.now_s)
        if self.delay.admit(cluster, endpoints, self.now_s):
            self.published[cluster] = endpoints

    @rule(seconds=st.sampled_from((0.0, GRACE_S, LIMIT_S)), change_pending=st.booleans())
    def time_passes(self, seconds: float, change_pending: bool) -> None:
        self.now_s += seconds
        self.published |= self.delay.take_due(self.now_s, change_pending)
        late = [name for name, since_s in self.lost_s.items() if self.now_s - since_s >= LIMIT_S]
        assert all(self.published[name] == self.true[name] for name in late)

    @invariant()
    def only_a_loss_is_withheld(self) -> None:
        differing = [name for name in self.true if self.published.get(name) != self.true[name]]
        assert bool(differing) is bool(self.delay)
        assert not any(self.true[name].endpoints for name in differing)


TestAnyOrder = AnyOrder.TestCase
