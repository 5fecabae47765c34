"""Retry decisions: whether a failed RPC is retried, and when, by `retry_policy`, budget, back-off and pushback.

Pure: the random source is an argument, time left is too. The session keeps one `Retries` per RPC that failed once (one
that did not fail costs nothing), and one `RetryBudget` per Mapping with a policy. The one try more that every RPC has
that provably reached no pod is the session's own, and not counted here.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.resilience import RetryPolicy
from grpcgw.model.status import PUSHBACK_KEY

Draw = Callable[[], float]
"""A random number from 0.0 to below 1.0."""

PREVIOUS_ATTEMPTS_KEY = "grpc-previous-rpc-attempts"

BASE_BACKOFF_MS, MAX_BACKOFF_MS = 25, 250
"""Envoy's defaults."""
MIN_CONCURRENT_RETRIES = 3
"""Envoy's `min_retry_concurrency`: so many are allowed however little traffic there is."""

_PUSHBACK = re.compile(r"-?(?:0|[1-9][0-9]{0,9})", re.ASCII)
_MAX_INT32 = 2**31 - 1


class GiveUp(StrEnum):
    """Why the failure is passed on to the client; also its name in counters and logs."""

    COMMITTED = "part of the answer was passed on"
    CODE = "the policy does not retry this code"
    EXHAUSTED = "no retries left"
    PUSHBACK = "the pod asked for no retry"
    NO_TIME = "the deadline comes first"
    BUDGET = "the retry budget is used up"


@dataclass(frozen=True, slots=True)
class Retry:
    delay_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The facts about a failed try that a retry depends on."""

    code: int
    trailers: Metadata = ()
    never_reached: bool = False
    """It provably reached no pod: it may be retried whatever the code."""
    timed_out: bool = False
    """It ran into its `per_try_timeout`. To Envoy that is a 504, which is UNAVAILABLE to gRPC."""
    committed: bool = False
    """A part of its answer was passed on, or the request is no longer kept whole."""
    left_s: float | None = None
    """Until the RPC's deadline; None: it has none."""


class RetryBudget:
    """Bounds the retries of a Mapping to a share of its RPCs in flight, so that a dead service gets no retry storm.

    Envoy's retry budget. Any thread may call any method.
    """

    __slots__ = ("__weakref__", "_count_in_flight", "_lock", "_retrying")

    def __init__(self, count_in_flight: Callable[[], int]) -> None:
        """`count_in_flight`: how many RPCs of the Mapping are running. Asked when one failed, not for each."""
        self._count_in_flight = count_in_flight
        self._lock = threading.Lock()
        self._retrying = 0

    def take(self, percent: int) -> bool:
        """Whether one more RPC may be retried now; if so `give_back` must follow, once, when it is over."""
        allowed = max(MIN_CONCURRENT_RETRIES, self._count_in_flight() * percent // 100)
        with self._lock:
            if self._retrying >= allowed:
                return False
            self._retrying += 1
            return True

    def give_back(self) -> None:
        with self._lock:
            self._retrying -= 1


class Retries:
    """The retries of one RPC. `decide` after each failed try, `close` when the RPC is over."""

    __slots__ = ("_backoff_step", "_budget", "_draw", "_holds_budget", "_policy", "count")

    def __init__(self, policy: RetryPolicy, budget: RetryBudget, draw: Draw = random.random) -> None:
        self._policy, self._budget, self._draw = policy, budget, draw
        self._backoff_step = 0
        self._holds_budget = False
        self.count = 0
        """How many were decided for."""

    def decide(self, failure: Failure) -> Retry | GiveUp:
        """Try again after a delay, or pass the failure on. After GiveUp it is not called again."""
        if failure.committed:
            return GiveUp.COMMITTED
        if not failure.never_reached and not self._names(failure):
            return GiveUp.CODE
        if self.count >= self._policy.num_retries:
            return GiveUp.EXHAUSTED
        pushback_ms = parse_pushback(failure.trailers)
        if pushback_ms is not None and pushback_ms < 0:
            return GiveUp.PUSHBACK
        delay_s = (self._next_backoff_ms() if pushback_ms is None else pushback_ms) / 1000
        if failure.left_s is not None and delay_s >= failure.left_s:
            return GiveUp.NO_TIME
        if not self._holds_budget and not self._budget.take(self._policy.budget_percent):
            return GiveUp.BUDGET
        self._holds_budget = True
        self.count += 1
        if pushback_ms is not None:
            self._backoff_step = 0  # gRFC A6: after a pushback of the pod the back-off starts again
        return Retry(delay_s)

    def _names(self, failure: Failure) -> bool:
        codes = self._policy.codes
        return failure.code in codes or (failure.timed_out and Code.UNAVAILABLE in codes)

    def close(self) -> None:
        """The RPC is over, however it ended. Again does nothing."""
        if self._holds_budget:
            self._holds_budget = False
            self._budget.give_back()

    def _next_backoff_ms(self) -> float:
        """Anywhere between nothing and a bound that doubles with each retry (gRFC A6, Envoy's full jitter)."""
        bound_ms = min(BASE_BACKOFF_MS << self._backoff_step, MAX_BACKOFF_MS)
        self._backoff_step += 1
        return self._draw() * bound_ms


def parse_pushback(trailers: Iterable[tuple[str, str | bytes]]) -> int | None:
    """Pushback of the pod in milliseconds; negative: do not retry; None: the pod sent none.

    A value that is not a 32-bit number means no retry (gRFC A6).
    """
    for key, value in trailers:
        if key == PUSHBACK_KEY:
            if not isinstance(value, str) or not _PUSHBACK.fullmatch(value) or int(value) > _MAX_INT32:
                return -1
            return int(value)
    return None


def add_previous_attempts(metadata: Metadata, count: int) -> Metadata:
    """The request's metadata for a try after `count` others, so that the pod can tell it is a retry (gRFC A6).

    Tries of the client's own, which it says in the same key, are added to the gateway's.
    """
    own = [value for key, value in metadata if key == PREVIOUS_ATTEMPTS_KEY]
    before = int(own[-1]) if own and isinstance(own[-1], str) and _PUSHBACK.fullmatch(own[-1]) else 0
    kept = tuple(item for item in metadata if item[0] != PREVIOUS_ATTEMPTS_KEY)
    return (*kept, (PREVIOUS_ATTEMPTS_KEY, str(max(0, before) + count)))
