"""Certificates that expire are told in time, by the clock of whoever looks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from grpcgw.listeners.self_signed import VALID_DAYS, make_self_signed
from grpcgw.model.cluster import Cluster, ConnectionSettings, ResolverKind, ServiceRef, UpstreamTls
from grpcgw.model.expiry import DAY_S, Expiry, find_expiring, list_expiries
from grpcgw.model.listener import Listener, SecurityModel, ServerCertificate, Transport
from grpcgw.model.objects import Severity
from grpcgw.model.snapshot import Snapshot

NOW_S = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()


def certificate(name: str, days: float) -> ServerCertificate:
    return ServerCertificate(name, ("a.example",), b"CHAIN", b"KEY", not_after_s=NOW_S + days * DAY_S)


def serving(*certificates: ServerCertificate) -> Snapshot:
    return Snapshot("v1", certificates=certificates)


@pytest.mark.parametrize(
    ("days", "severity", "text"),
    [
        (13.9, Severity.NOTICE, "the certificate expires on 2026-12-10, in 13 days; renew it"),
        (1.5, Severity.NOTICE, "the certificate expires on 2026-11-28, in 1 day; renew it"),
        (0.1, Severity.NOTICE, "the certificate expires on 2026-11-26, in 0 days; renew it"),
        (-2, Severity.ERROR, "the certificate expired on 2026-11-24; renew it"),
    ],
)
def test_a_certificate_that_expires_within_14_days_is_a_problem(days: float, severity: Severity, text: str) -> None:
    (problem,) = find_expiring(serving(certificate("Host a.default", days)), NOW_S)
    assert (problem.severity, problem.message, problem.where) == (severity, text, "Host a.default")


def test_a_certificate_that_lasts_is_none() -> None:
    assert find_expiring(serving(certificate("Host a.default", 14.1)), NOW_S) == ()


def test_certificates_of_listeners_and_those_for_pods_count_and_each_once() -> None:
    shared = certificate("Host a.default", 3)
    port = Listener(
        "l", 8443, Transport.TLS, SecurityModel.SECURE, certificates=(shared, certificate("Host b.default", 9))
    )
    tls = UpstreamTls("mtls.default", certificate_chain=b"CHAIN", not_after_s=NOW_S + 5 * DAY_S)
    cluster = Cluster(
        "c", ResolverKind.KUBERNETES_ENDPOINT, "r", ServiceRef("s", "s", 1, "s"), connection=ConnectionSettings(tls=tls)
    )
    found = list_expiries(replace(serving(shared), listeners=(port,), clusters={"c": cluster, "d": cluster}))
    assert found == (
        Expiry("Host a.default", "server", NOW_S + 3 * DAY_S),
        Expiry("Host b.default", "server", NOW_S + 9 * DAY_S),
        Expiry("TLSContext mtls.default", "client", NOW_S + 5 * DAY_S),
    )


def test_the_self_signed_certificate_says_when_it_expires() -> None:
    made = make_self_signed("host", datetime.fromtimestamp(NOW_S, UTC))
    assert made.not_after_s == NOW_S + timedelta(days=VALID_DAYS).total_seconds()
