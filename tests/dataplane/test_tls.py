"""TLS on the data port: ALPN h2, and certificates that change while connections stand."""

from __future__ import annotations

import datetime
import socket
import ssl
from dataclasses import replace

import pytest

from dataplane.authorities import Authority
from dataplane.lab import Gateway, Lab, clear_port, tls_port
from dataplane.waiting import eventually
from grpcgw.listeners.self_signed import make_self_signed
from grpcgw.model.listener import ServerCertificate


@pytest.fixture
def certificate() -> ServerCertificate:
    return make_self_signed("gateway.test", datetime.datetime.now(datetime.UTC))


def handshake(gateway: Gateway, *protocols: str) -> tuple[str | None, bytes]:
    """The protocol agreed on by ALPN, and the certificate shown, as PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    host, _, port = gateway.tls_address.rpartition(":")
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as secure:
        shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return secure.selected_alpn_protocol(), ssl.DER_cert_to_PEM_cert(shown).encode()


def test_tls_and_clear_text_serve_alike(lab: Lab, certificate: ServerCertificate) -> None:
    gateway = lab.gateway(lab.pod("a"), certificate=certificate)
    for channel in (lab.channel(gateway), lab.tls_channel(gateway, certificate.certificate_chain)):
        assert channel.unary_unary("/test.Pod/Unary")(b"x") == b"a:x"
        assert list(channel.stream_stream("/test.Pod/Chat")(iter([b"1", b"2"]))) == [b"1", b"2"]


def test_alpn_agrees_on_h2(lab: Lab, certificate: ServerCertificate) -> None:
    gateway = lab.gateway(lab.pod(), certificate=certificate)
    assert handshake(gateway, "h2")[0] == "h2"
    assert handshake(gateway, "http/1.1", "h2")[0] == "h2"


def test_new_certificate_is_shown_without_restart_and_old_connections_stand(
    lab: Lab, certificate: ServerCertificate
) -> None:
    gateway = lab.gateway(lab.pod("a"), certificate=certificate)
    before = lab.tls_channel(gateway, certificate.certificate_chain).unary_unary("/test.Pod/Unary")
    assert before(b"1") == b"a:1"
    assert handshake(gateway, "h2")[1] == certificate.certificate_chain
    renewed = make_self_signed("gateway.test", datetime.datetime.now(datetime.UTC))
    gateway.listen(clear_port(), tls_port(renewed))
    eventually(lambda: handshake(gateway, "h2")[1] == renewed.certificate_chain)
    after = lab.tls_channel(gateway, renewed.certificate_chain).unary_unary("/test.Pod/Unary")
    assert after(b"2") == b"a:2"
    assert before(b"3") == b"a:3", "its client would not accept the new certificate: the connection is the old one"


def test_clear_text_client_on_the_tls_port_harms_nobody(lab: Lab, certificate: ServerCertificate) -> None:
    gateway = lab.gateway(lab.pod("a"), certificate=certificate)
    host, _, port = gateway.tls_address.rpartition(":")
    with socket.create_connection((host, int(port))) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        secure = lab.tls_channel(gateway, certificate.certificate_chain)
        assert secure.unary_unary("/test.Pod/Unary")(b"x") == b"a:x"


def shown_for(gateway: Gateway, name: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = gateway.tls_address.rpartition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return ssl.DER_cert_to_PEM_cert(shown).encode()


def test_of_several_certificates_each_client_is_shown_the_one_for_its_name(lab: Lab) -> None:
    authority = Authority()
    names = ("a.example", "b.example", "*.c.example")
    own = {name: authority.certificate(name) for name in names}
    gateway = lab.gateway(lab.pod("a"), ports=(tls_port(*own.values()),))
    number = gateway.engine.ports.numbers()[0]
    for name in ("a.example", "b.example", "x.c.example"):
        call = lab.channel_to(tls_port(port=number), authority.client(), name).unary_unary("/test.Pod/Unary")
        assert call(b"x", timeout=30) == b"a:x", name
    assert shown_for(gateway, "b.example") == own["b.example"].certificate_chain
    assert shown_for(gateway, "x.c.example") == own["*.c.example"].certificate_chain
    assert shown_for(gateway, "elsewhere") == own["a.example"].certificate_chain, "the first"

    own["b.example"], every = authority.certificate("b.example"), authority.certificate("any.example")
    gateway.listen(tls_port(*own.values(), replace(every, hosts=("*",))))
    eventually(lambda: shown_for(gateway, "b.example") == own["b.example"].certificate_chain, "renewed")
    assert shown_for(gateway, "elsewhere") == every.certificate_chain, "the one that is for every name"
