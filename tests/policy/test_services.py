"""State of policies: kept while a policy holds it, apart by class and key."""

from __future__ import annotations

from grpcgw.policy.services import PolicyServices


class Counter:
    pass


class Cache:
    pass


def test_a_policy_that_is_built_again_gets_the_state_of_the_one_before() -> None:
    services = PolicyServices()
    before = services.keep(Counter, "greet", Counter)
    assert services.keep(Counter, "greet", Counter) is before
    assert services.keep(Counter, "other", Counter) is not before


def test_one_key_may_have_states_of_several_classes() -> None:
    services = PolicyServices()
    counter, cache = services.keep(Counter, "greet", Counter), services.keep(Cache, "greet", Cache)
    assert isinstance(counter, Counter)
    assert isinstance(cache, Cache)


def test_state_that_no_policy_holds_is_dropped() -> None:
    services = PolicyServices()
    made = []

    def make() -> Counter:
        made.append(True)
        return Counter()

    services.keep(Counter, "greet", make)
    services.keep(Counter, "greet", make)
    assert len(made) == 2
