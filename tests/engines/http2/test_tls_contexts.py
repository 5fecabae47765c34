"""Contexts of a port: the right certificate for each name, kept while it does not change, and what is refused."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
from dataplane.authorities import Authority
from pems import key_pair

from engines.http2.tls_pairs import client_context, connect
from grpcgw.engines.http2.tls_contexts import ServerContexts, make_client_context, make_server_context
from grpcgw.engines.http2.tls_layer import TlsFailed, TlsLayer
from grpcgw.errors import UserError
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.listener import ServerCertificate

AUTHORITY = Authority("servers")


def certificate(*hosts: str, client_ca: bytes = b"") -> ServerCertificate:
    return AUTHORITY.certificate(*hosts, client_ca=client_ca)


A, B, C, D = (
    certificate("a.example"),
    certificate("B.example"),
    certificate("*.c.example"),
    certificate("*.d.c.example"),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.example", A),
        ("A.Example", A),
        ("b.example", B),
        ("x.c.example", C),
        ("x.y.c.example", C),
        ("x.d.c.example", D),
        ("c.example", A),
        ("elsewhere", A),
        ("", A),
        (None, A),
    ],
)
def test_the_certificate_is_that_of_the_name_else_the_first(name: str | None, expected: ServerCertificate) -> None:
    assert ServerContexts((A, B, C, D)).certificate_for(name) is expected


def test_the_certificate_of_every_name_comes_before_the_first() -> None:
    every = certificate("*")
    contexts = ServerContexts((A, every))
    assert [contexts.certificate_for(name) for name in ("a.example", "elsewhere", None)] == [A, every, every]


def test_each_name_has_its_own_context() -> None:
    contexts = ServerContexts((A, replace(B, client_ca=AUTHORITY.pem)))
    assert contexts.for_name("a.example").verify_mode == ssl.CERT_NONE
    assert contexts.for_name("b.example").verify_mode == ssl.CERT_REQUIRED
    assert contexts.for_name("b.example") is contexts.for_name("B.example")


def test_unchanged_certificates_keep_their_contexts() -> None:
    before = ServerContexts((A, B))
    kept, gone = before.for_name("a.example"), before.for_name("b.example")
    after = ServerContexts((A, certificate("b.example")), before)
    assert after.for_name("a.example") is kept
    assert after.for_name("b.example") is not gone


def test_a_port_needs_a_certificate() -> None:
    with pytest.raises(UserError, match="needs a certificate"):
        ServerContexts(())


def test_a_certificate_that_cannot_be_served_is_named_without_its_content() -> None:
    with pytest.raises(UserError, match=r"the certificate of Host a\.example cannot be served") as raised:
        make_server_context(replace(A, private_key=B.private_key))
    assert "KEY" not in str(raised.value).replace("KEY_VALUES", "")
    with pytest.raises(UserError):
        make_server_context(replace(A, certificate_chain=b"no PEM"))
    with pytest.raises(UserError):
        make_server_context(replace(A, client_ca=b"no PEM"))


def test_pods_are_verified() -> None:
    server = make_server_context(certificate("pods.example"))
    ours = make_client_context(UpstreamTls("t", "pods.example", AUTHORITY.pem))
    near, _ = connect(ours, server, "pods.example")
    assert near.alpn == "h2"
    with pytest.raises(TlsFailed, match="Hostname mismatch"):
        connect(ours, server, "other.example")
    with pytest.raises(TlsFailed, match="not trusted"):
        connect(make_client_context(UpstreamTls("system")), server, "pods.example")
    with pytest.raises(ValueError, match="without its name"):
        TlsLayer(ours, False)


def test_a_part_of_upstream_tls_that_cannot_be_used_is_an_error() -> None:
    chain, _ = key_pair("a")
    _, other = key_pair("b")
    for tls in (UpstreamTls("t", ca=b"no PEM"), UpstreamTls("t", certificate_chain=chain, private_key=other)):
        with pytest.raises(UserError, match="TLS to pods by t"):
            make_client_context(tls)


def resume(client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLObject:
    """A client's connection to `server`, after its tickets have come."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(incoming, outgoing, server_hostname="a.example", session=session)
    far = TlsLayer(server, True)
    for _ in range(2):
        try:
            near.do_handshake()
        except ssl.SSLWantReadError:
            incoming.write(far.handshake(outgoing.read()))
    incoming.write(far.handshake(outgoing.read()) if not far.established else far.send(b"."))
    incoming.write(far.send(b"x"))
    while near.read(1) != b"x":
        pass
    return near


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_with_their_own_context_alone(version: ssl.TLSVersion) -> None:
    client = client_context(AUTHORITY.pem)
    client.maximum_version = version
    contexts = ServerContexts((A, replace(A, hosts=("other.example",))))
    first = resume(client, contexts.for_name("a.example"), None)
    assert not first.session_reused
    assert resume(client, contexts.for_name("a.example"), first.session).session_reused
    assert not resume(client, contexts.for_name("other.example"), first.session).session_reused
