"""The policy of a Mapping's concurrency limit: as many RPCs at one time, over all workers of the gateway. Pure."""

from __future__ import annotations

from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limits import ConcurrencyLimitSettings
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason, Status
from grpcgw.policy.contract import PolicyRequest, Verdict
from grpcgw.policy.limits.in_flight_table import InFlightTable
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Deny


def build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> ConcurrencyPolicy:
    assert isinstance(settings, ConcurrencyLimitSettings)
    table = services.in_flight
    counter = services.keep(ConcurrencyCounter, key.label, lambda: ConcurrencyCounter(key.label, table))
    return ConcurrencyPolicy(settings.most, counter)


class ConcurrencyCounter:
    """The RPCs of one Mapping in this worker; it survives reloads while one of them runs."""

    __slots__ = ("__weakref__", "_own", "_row", "_table")

    def __init__(self, name: str, table: InFlightTable | None) -> None:
        self._table = table
        self._row = None if table is None else table.find_row(name)
        self._own = 0

    def admit(self, most: int) -> bool:
        if self._table is None or self._row is None:
            allowed = self._own < most
        else:
            allowed = self._table.admit(self._row, most, self._own + 1)
        self._own += allowed
        return allowed

    def release(self) -> None:
        self._own -= 1
        if self._table is not None and self._row is not None:
            self._table.note(self._row, self._own)


class ConcurrencyPolicy:
    def __init__(self, most: int, counter: ConcurrencyCounter) -> None:
        self._most, self._counter = most, counter

    def check(self, request: PolicyRequest) -> Verdict:
        if self._counter.admit(self._most):
            return ALLOW
        message = f"{request.key}: concurrency_limit {self._most} reached"
        return Deny(Reason.TOO_MANY_AT_ONCE, message)

    def on_end(self, request: PolicyRequest, status: Status) -> None:
        self._counter.release()
