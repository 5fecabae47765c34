"""Ports that grpc cannot be are refused before they open."""

from __future__ import annotations

from dataclasses import replace

from grpcgw.engines.grpc_limits import why_unsupported
from grpcgw.model.listener import Listener, SecurityModel, Transport

CLEAR = Listener("web", 8080, Transport.CLEAR, SecurityModel.XFP)


def test_grpc_ports_have_one_transport_and_read_no_proxy_headers() -> None:
    assert why_unsupported(CLEAR) == why_unsupported(replace(CLEAR, transport=Transport.TLS)) == ""
    assert "TLS or clear text" in why_unsupported(replace(CLEAR, transport=Transport.BOTH))
    assert "PROXY" in why_unsupported(replace(CLEAR, proxy_protocol=True))
