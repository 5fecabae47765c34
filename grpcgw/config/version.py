"""The version of a configuration: a hash of its content, the same on every worker, page and log line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from grpcgw.config.snapshot import Cluster, Route, ServerCertificate

_DIGITS = 12


def hash_content(
    routes: Iterable[Route], clusters: Mapping[str, Cluster], certificates: Iterable[ServerCertificate]
) -> str:
    """12 hex digits over everything that decides traffic; where a Mapping was read does not.

    Values are immutable dataclasses of strings and numbers, so their `repr` is complete and stable. It leaves out
    private keys, as it should: a key belongs to exactly one public key, which is in the certificate.
    """
    digest = hashlib.sha256()
    for route in routes:
        digest.update(repr((route.match, route.precedence)).encode())
        for destination in route.destinations:
            digest.update(repr(replace(destination, where="")).encode())
    for name in sorted(clusters):
        digest.update(repr(clusters[name]).encode())
    for certificate in certificates:
        digest.update(repr(certificate).encode())
    return digest.hexdigest()[:_DIGITS]
