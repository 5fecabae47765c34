"""Ports and connections that grpc cannot be are refused before they open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grpcgw.engines.generic_handler.grpc_limits import check_certificates, why_unsupported, why_unsupported_for_pods
from grpcgw.engines.generic_handler.server_credentials import FreshCertificates
from grpcgw.errors import UserError
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.listener import Listener, SecurityModel, ServerCertificate, Transport
from grpcgw.model.tls_parameters import TlsParameters, TlsVersion

CLEAR = Listener("web", 8080, Transport.CLEAR, SecurityModel.XFP)


def test_grpc_ports_have_one_transport_and_read_no_proxy_headers() -> None:
    assert why_unsupported(CLEAR) == why_unsupported(replace(CLEAR, transport=Transport.TLS)) == ""
    assert "TLS or clear text" in why_unsupported(replace(CLEAR, transport=Transport.BOTH))
    assert "PROXY" in why_unsupported(replace(CLEAR, proxy_protocol=True))


PLAIN = ServerCertificate("Host a", ("a.example",), b"chain", b"key")
ASKING = replace(PLAIN, name="Host b", client_ca=b"authority")
OPTIONAL = replace(ASKING, name="Host c", client_optional=True)
CRL = b"list"
PARAMETERS = {
    "min_tls_version": TlsParameters(TlsVersion.TLS_1_3),
    "max_tls_version": TlsParameters(max_version=TlsVersion.TLS_1_2),
    "cipher_suites": TlsParameters(ciphers=("AES128-SHA",)),
    "ecdh_curves": TlsParameters(curve="X25519"),
}
REFUSED = {name: (replace(PLAIN, parameters=parameters),) for name, parameters in PARAMETERS.items()} | {
    "crl_secret": (replace(ASKING, client_crl=CRL),),
    "Host b and Host a ask clients": (PLAIN, ASKING),
    "Host b and Host c ask clients": (OPTIONAL, ASKING),
    "Host b and Host d ask clients": (ASKING, replace(ASKING, name="Host d", client_ca=b"other")),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_grpc_cannot_ask_of_clients_is_refused(why: str) -> None:
    """Before a port opens, and when it is open."""
    certificates = REFUSED[why]
    said = why_unsupported(replace(CLEAR, transport=Transport.TLS, certificates=certificates))
    assert why in said
    assert said.endswith("which grpc in Python cannot do; the http2 engine can")
    with pytest.raises(UserError, match=why):
        check_certificates(certificates)
    fresh = FreshCertificates((PLAIN,))
    with pytest.raises(UserError, match=why):
        fresh.set(certificates)
    assert fresh.take() == (PLAIN,)


@pytest.mark.parametrize("certificates", [(PLAIN,), (PLAIN, OPTIONAL), (ASKING, replace(ASKING, name="Host d"))])
def test_what_grpc_can_ask_of_clients_is_not_refused(certificates: tuple[ServerCertificate, ...]) -> None:
    check_certificates(certificates)


def test_what_grpc_cannot_ask_of_pods_is_refused() -> None:
    assert why_unsupported_for_pods(UpstreamTls("pods.shop", ca=b"authority")) == ""
    assert "TLSContext pods.shop sets crl_secret, " in why_unsupported_for_pods(UpstreamTls("pods.shop", crl=CRL))
    for name, parameters in PARAMETERS.items():
        assert name in why_unsupported_for_pods(UpstreamTls("pods.shop", parameters=parameters))
