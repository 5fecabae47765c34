"""When the certificates in use expire. Pure; computed when the admin port asks, as compilations are rare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from grpcgw.model.objects import Problem, Severity
from grpcgw.model.snapshot import Snapshot

DAY_S = 86_400
WARN_DAYS = 14


@dataclass(frozen=True, slots=True, order=True)
class Expiry:
    certificate: str
    """The Host or TLSContext that configures it."""
    use: str
    """`server`: presented to clients; `client`: presented to pods."""
    not_after_s: float
    """Seconds since the epoch."""


def list_expiries(snapshot: Snapshot) -> tuple[Expiry, ...]:
    """One entry for each certificate in use; of several with one name, the first to expire."""
    first: dict[tuple[str, str], Expiry] = {}
    for one in sorted(_list_all(snapshot), key=lambda one: one.not_after_s):
        first.setdefault((one.certificate, one.use), one)
    return tuple(sorted(first.values()))


def _list_all(snapshot: Snapshot) -> Iterator[Expiry]:
    shown = [*snapshot.certificates, *(one for port in snapshot.listeners or () for one in port.certificates)]
    for certificate in shown:
        if certificate.not_after_s:
            yield Expiry(certificate.name, "server", certificate.not_after_s)
    for cluster in snapshot.clusters.values():
        tls = cluster.connection.tls
        if tls is not None and tls.not_after_s:
            yield Expiry(f"TLSContext {tls.name}", "client", tls.not_after_s)


def find_expiring(snapshot: Snapshot, now_s: float) -> tuple[Problem, ...]:
    """A notice for each certificate that expires within WARN_DAYS, an error for each that has."""
    return tuple(
        Problem(*_judge(one, now_s), where=one.certificate)
        for one in list_expiries(snapshot)
        if one.not_after_s - now_s < WARN_DAYS * DAY_S
    )


def _judge(one: Expiry, now_s: float) -> tuple[Severity, str]:
    day = f"{datetime.fromtimestamp(one.not_after_s, UTC):%Y-%m-%d}"
    what = "the certificate" if one.use == "server" else "the certificate for pods"
    left_s = one.not_after_s - now_s
    if left_s <= 0:
        return Severity.ERROR, f"{what} expired on {day}; renew it"
    days = int(left_s // DAY_S)
    return Severity.NOTICE, f"{what} expires on {day}, in {days} day{'' if days == 1 else 's'}; renew it"
