"""TLS credentials towards pods, from PEM. For the generic-handler engine."""

from __future__ import annotations

import datetime
import logging
from functools import cache

import grpc

from grpcgw.engines.generic_handler.grpc_limits import why_unsupported_for_pods
from grpcgw.listeners.self_signed import make_self_signed
from grpcgw.model.cluster import UpstreamTls

log = logging.getLogger(__name__)


def make_credentials(tls: UpstreamTls) -> grpc.ChannelCredentials:
    """Credentials that verify the pod's certificate against `tls.ca` (empty: the system's roots) and present ours.

    What grpc cannot do must not be left out silently: no pod is trusted then, and a log line says why.
    """
    if why := why_unsupported_for_pods(tls):
        _report(why)
        return grpc.ssl_channel_credentials(_authority_of_nobody())
    return grpc.ssl_channel_credentials(tls.ca or None, tls.private_key or None, tls.certificate_chain or None)


@cache
def _report(why: str) -> None:
    """Once per process, not for each pod and connection."""
    log.error("no pod is connected: %s", why)


@cache
def _authority_of_nobody() -> bytes:
    return make_self_signed("", datetime.datetime.now(datetime.UTC)).certificate_chain
