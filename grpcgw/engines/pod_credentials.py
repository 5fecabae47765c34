"""TLS credentials towards pods, from PEM. Shared by both engines."""

from __future__ import annotations

import grpc

from grpcgw.model.cluster import UpstreamTls


def make_credentials(tls: UpstreamTls) -> grpc.ChannelCredentials:
    """Credentials that verify the pod's certificate against `tls.ca` (empty: the system's roots) and present ours."""
    return grpc.ssl_channel_credentials(tls.ca or None, tls.private_key or None, tls.certificate_chain or None)
