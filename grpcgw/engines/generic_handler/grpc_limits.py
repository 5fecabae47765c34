"""What a Listener, its certificates or a TLSContext for pods may ask for that grpc in Python cannot do. Pure.

Such a port or connection is refused, never opened with less. Tested with grpcio 1.85: TLS 1.2 and 1.3 are always on;
ciphers and curves are core's own; there are no revocation lists; client certificates are required on a whole port or
not requested; certificates are chosen by SNI, by the names in them.
"""

from __future__ import annotations

from collections.abc import Iterator

from grpcgw.errors import UserError
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.listener import Listener, ServerCertificate, Transport
from grpcgw.model.tls_parameters import DEFAULT_PARAMETERS, TlsParameters


def why_unsupported(listener: Listener) -> str:
    """Why no grpc server can be this port; empty: one can."""
    if listener.proxy_protocol:
        return "grpc cannot read PROXY headers, which the Listener requires"
    if listener.transport is Transport.BOTH:
        return "grpc speaks TLS or clear text on one port, not both"
    return _join(_limits_of_certificates(listener.certificates))


def check_certificates(certificates: tuple[ServerCertificate, ...]) -> None:
    """Raises UserError if no grpc server can serve them on one port."""
    if why := _join(_limits_of_certificates(certificates)):
        raise UserError(why)


def why_unsupported_for_pods(tls: UpstreamTls) -> str:
    """Why no grpc channel can be this connection to a pod; empty: one can."""
    crl = ["crl_secret"] if tls.crl else []
    return _join(f"TLSContext {tls.name} sets {name}" for name in [*crl, *_list_set(tls.parameters)])


def _join(limits: Iterator[str]) -> str:
    found = ", ".join(dict.fromkeys(limits))
    return f"{found}, which grpc in Python cannot do; the http2 engine can" if found else ""


def _limits_of_certificates(certificates: tuple[ServerCertificate, ...]) -> Iterator[str]:
    asking = next((one for one in certificates if one.requires_client), None)
    for one in certificates:
        if asking is not None and (one.client_ca, one.client_optional) != (asking.client_ca, False):
            yield f"{asking.name} and {one.name} ask clients of one port for different certificates"
        crl = ["crl_secret"] if one.requires_client and one.client_crl else []
        for name in [*crl, *_list_set(one.parameters)]:
            yield f"{one.name} sets {name}"


def _list_set(parameters: TlsParameters) -> Iterator[str]:
    """The fields that are not as every engine has them."""
    if parameters.min_version is not DEFAULT_PARAMETERS.min_version:
        yield "min_tls_version"
    if parameters.max_version is not DEFAULT_PARAMETERS.max_version:
        yield "max_tls_version"
    if parameters.ciphers:
        yield "cipher_suites"
    if parameters.curve:
        yield "ecdh_curves"
