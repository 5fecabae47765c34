"""Values that survive reloads by key: load-balancing state, breakers, retry budgets, health checkers, counters."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """At most one live value per key.

    * Created on first use: `get_or_make` makes the value of a key that has none.
    * Kept while used: only the users hold a value. Usually that is a Target, of the snapshot in force or of an RPC that
      began under an earlier one. As long as one holds it, `get_or_make` returns it to others.
    * Dropped with its last user, at once. `remember` makes an exception, for counters that must not fall: the last
      `most_remembered` values that were remembered are kept without a user.

    Values need `__weakref__` and must not refer to themselves, or they live until the garbage collector finds them.
    One thread at a time calls; users may drop a value in any thread.
    """

    __slots__ = ("_live", "_most_remembered", "_remembered", "references")

    def __init__(self, most_remembered: int = 0) -> None:
        self._live: WeakValueDictionary[K, V] = WeakValueDictionary()
        self.references = self._live.valuerefs
        """Weak references to the values. For loops that run all the time: half the cost of `values`."""
        self._most_remembered = most_remembered
        self._remembered: dict[K, V] = {}

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`. It is in use from now on, so it is not among the remembered ones any more."""
        value = self._live.get(key)
        if value is None:
            value = self._live[key] = make()
        elif self._remembered:
            self._remembered.pop(key, None)
        return value

    def remember(self, key: K) -> None:
        """Keep the value of `key`, if it has one, even when nobody uses it; the longest remembered makes room."""
        value = self._live.get(key)
        if value is None:
            return
        self._remembered.pop(key, None)
        self._remembered[key] = value
        if len(self._remembered) > self._most_remembered:
            del self._remembered[next(iter(self._remembered))]

    def values(self) -> list[V]:
        """All live values, in the order in which they were made."""
        return [value for reference in self.references() if (value := reference()) is not None]

    def __len__(self) -> int:
        """How many values are live."""
        return len(self._live)
