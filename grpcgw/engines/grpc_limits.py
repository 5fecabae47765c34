"""What a Listener may ask for that a port on grpc cannot do. Pure."""

from __future__ import annotations

from grpcgw.model.listener import Listener, Transport


def why_unsupported(listener: Listener) -> str:
    """Why no grpc server can be this port; empty: one can."""
    if listener.proxy_protocol:
        return "grpc cannot read PROXY headers, which the Listener requires"
    if listener.transport is Transport.BOTH:
        return "grpc speaks TLS or clear text on one port, not both"
    return ""
