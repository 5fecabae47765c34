"""What survives reloads by key: one value per key, for as long as somebody uses it or it is remembered."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from grpcgw.kept import Kept

MOST = 2


class Counter:
    def __init__(self) -> None:
        self.count = 0


def test_a_value_is_made_on_first_use_and_shared_by_all_users() -> None:
    kept: Kept[str, Counter] = Kept()
    first = kept.get_or_make("a", Counter)
    assert kept.get_or_make("a", Counter) is first
    assert kept.get_or_make("b", Counter) is not first


def test_a_value_is_dropped_with_its_last_user() -> None:
    kept: Kept[str, Counter] = Kept()
    users = [kept.get_or_make("a", Counter), kept.get_or_make("a", Counter)]
    users.pop()
    assert len(kept) == 1
    users.pop()
    assert (len(kept), kept.values()) == (0, [])


def test_a_value_whose_making_fails_is_not_there() -> None:
    kept: Kept[str, Counter] = Kept()

    def fail() -> Counter:
        raise ValueError

    with pytest.raises(ValueError):
        kept.get_or_make("a", fail)
    assert len(kept) == 0


def test_a_remembered_value_is_found_again_until_others_push_it_out() -> None:
    kept: Kept[str, Counter] = Kept(most_remembered=1)
    kept.get_or_make("a", Counter).count = 7
    assert len(kept) == 0, "nobody used it, and it was not remembered"
    used = kept.get_or_make("a", Counter)
    used.count = 7
    kept.remember("a")
    del used
    assert kept.get_or_make("a", Counter).count == 7
    assert len(kept) == 0, "it was used again, and not remembered after that"


def test_there_is_nothing_to_remember_of_a_key_without_a_value() -> None:
    kept: Kept[str, Counter] = Kept(most_remembered=1)
    kept.remember("a")
    assert kept.values() == []


KEYS = st.sampled_from("abcd")


class KeptModel(RuleBasedStateMachine):
    """Against a model that holds everything and says itself what must be live."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Kept[str, Counter] = Kept(MOST)
        self.users: dict[str, list[Counter]] = {}
        self.identity: dict[str, int] = {}
        self.remembered: list[str] = []
        self.made = 0

    def _make(self) -> Counter:
        self.made += 1
        counter = Counter()
        counter.count = self.made
        return counter

    def _live(self) -> set[str]:
        return {key for key, users in self.users.items() if users} | set(self.remembered)

    @rule(key=KEYS)
    def somebody_uses(self, key: str) -> None:
        was_live = key in self._live()
        value = self.kept.get_or_make(key, self._make)
        if was_live:
            assert value.count == self.identity[key]
        self.identity[key] = value.count
        self.users.setdefault(key, []).append(value)
        if key in self.remembered:
            self.remembered.remove(key)

    @rule(key=KEYS)
    def somebody_lets_go(self, key: str) -> None:
        if self.users.get(key):
            self.users[key].pop()

    @rule(key=KEYS)
    def it_is_remembered(self, key: str) -> None:
        was_live = key in self._live()
        self.kept.remember(key)
        if was_live:
            if key in self.remembered:
                self.remembered.remove(key)
            self.remembered = [*self.remembered, key][-MOST:]

    @invariant()
    def exactly_what_is_used_or_remembered_is_live(self) -> None:
        assert {value.count for value in self.kept.values()} == {self.identity[key] for key in self._live()}
        assert len(self.kept) == len(self._live())


TestKept = KeptModel.TestCase
