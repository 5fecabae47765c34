"""TLS without a socket: plaintext crosses unchanged however its bytes are cut, and each failure has a sentence."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
from dataplane.authorities import Authority, Identity
from hypothesis import given
from hypothesis import strategies as st

from engines.http2.tls_pairs import client_context, connect
from grpcgw.engines.http2.tls_contexts import make_client_context, make_server_context
from grpcgw.engines.http2.tls_layer import TlsClosed, TlsFailed, TlsLayer
from grpcgw.model.cluster import UpstreamTls

AUTHORITY, STRANGERS = Authority("servers"), Authority("strangers")
SERVER = make_server_context(AUTHORITY.certificate("localhost"))
ASKING = make_server_context(AUTHORITY.certificate("localhost", client_ca=AUTHORITY.pem))
CLIENT = client_context(AUTHORITY.pem)


def showing(identity: Identity) -> ssl.SSLContext:
    """It knows no authority, of which OpenSSL would show the certificate too."""
    context = make_client_context(
        UpstreamTls("t", "localhost", certificate_chain=identity.certificate, private_key=identity.key)
    )
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_after_the_handshake_both_sides_know_the_protocol() -> None:
    near, far = connect(CLIENT, SERVER)
    assert (near.alpn, far.alpn) == ("h2", "h2")
    assert far.peer_certificate() is None, "none was asked for"


@given(st.integers(1, 3_000))
def test_the_handshake_may_arrive_in_pieces(chunk: int) -> None:
    near, far = connect(CLIENT, SERVER, chunk=chunk)
    assert far.receive(near.send(b"hello")) == b"hello"


def test_plaintext_that_comes_with_the_last_bytes_of_the_handshake_is_kept() -> None:
    near, far = TlsLayer(CLIENT, False, "localhost"), TlsLayer(SERVER, True)
    finished = near.handshake(far.handshake(near.handshake(b"")))
    far.handshake(finished + near.send(b"at once"))
    assert far.established
    assert far.receive(b"") == b"at once"
    assert far.receive(b"") == b""


@given(st.binary(max_size=3).map(lambda part: part * 30_000), st.integers(1, 40_000))
def test_plaintext_crosses_both_ways_however_it_is_cut(data: bytes, chunk: int) -> None:
    near, far = connect(CLIENT, SERVER)
    for sender, receiver in ((near, far), (far, near)):
        sent = sender.send(data)
        parts = [receiver.receive(sent[at : at + chunk]) for at in range(0, len(sent), chunk)]
        assert b"".join(parts) == data


def test_a_large_message_is_sent_at_once() -> None:
    near, far = connect(CLIENT, SERVER)
    assert far.receive(near.send(b"x" * 5_000_000)) == b"x" * 5_000_000


def test_nothing_is_sent_where_there_is_nothing() -> None:
    near, _ = connect(CLIENT, SERVER)
    assert near.send(b"") == b""


def test_the_end_is_announced_after_the_last_plaintext() -> None:
    near, far = connect(CLIENT, SERVER)
    assert far.receive(near.send(b"last") + near.close()) == b"last"
    with pytest.raises(TlsClosed):
        far.receive(b"")
    with pytest.raises(TlsClosed):
        far.receive(b"")


def test_either_side_may_close_first_or_before_the_handshake() -> None:
    near, far = connect(CLIENT, SERVER)
    farewell = far.close()
    with pytest.raises(TlsClosed):
        near.receive(farewell)
    with pytest.raises(TlsClosed):
        far.receive(near.close())
    TlsLayer(SERVER, True).close()


def test_a_forged_record_fails_with_an_alert_after_what_was_right() -> None:
    near, far = connect(CLIENT, SERVER)
    right, forged = near.send(b"right"), bytearray(near.send(b"forged"))
    forged[-1] ^= 1
    assert far.receive(right + forged) == b"right"
    with pytest.raises(TlsFailed, match="DECRYPTION_FAILED_OR_BAD_RECORD_MAC") as failed:
        far.receive(b"")
    with pytest.raises(TlsFailed, match="ALERT_BAD_RECORD_MAC"):
        near.receive(failed.value.to_send)


def failure(client: ssl.SSLContext, server: ssl.SSLContext, name: str = "localhost") -> tuple[str, str]:
    with pytest.raises(TlsFailed) as failed:
        connect(client, server, name)
    return failed.value.cause, str(failed.value)


def test_a_client_learns_why_it_refuses_a_server() -> None:
    assert failure(client_context(STRANGERS.pem), SERVER)[0] == "untrusted-certificate"
    assert "elsewhere" in failure(CLIENT, SERVER, "elsewhere")[1]
    expired = AUTHORITY.sign("localhost", days=-1)
    one = replace(AUTHORITY.certificate("localhost"), certificate_chain=expired.certificate, private_key=expired.key)
    assert "expired" in failure(CLIENT, make_server_context(one))[1]


def test_a_server_refuses_clients_without_a_certificate_of_its_authority() -> None:
    assert failure(CLIENT, ASKING) == ("no-client-certificate", "the peer shows no certificate")
    assert failure(showing(STRANGERS.sign("me")), ASKING)[0] == "untrusted-certificate"
    cause, sentence = failure(showing(AUTHORITY.sign("me", days=-1)), ASKING)
    assert (cause, "expired" in sentence) == ("untrusted-certificate", True)


def test_the_certificate_of_a_client_is_described() -> None:
    identity = AUTHORITY.sign("me.example", "spiffe://cluster/me")
    _, far = connect(showing(identity), ASKING)
    shown = far.peer_certificate()
    assert shown is not None
    assert (shown.pem, shown.chain, shown.subject) == (identity.certificate, b"", "CN=me.example")
    assert (shown.uris, shown.names) == (("spiffe://cluster/me",), ("me.example",))


def test_the_chain_of_a_client_is_described() -> None:
    identity = AUTHORITY.sign("me.example")
    _, far = connect(showing(replace(identity, certificate=identity.certificate + AUTHORITY.pem)), ASKING)
    shown = far.peer_certificate()
    assert shown is not None
    assert (shown.pem, shown.chain) == (identity.certificate, AUTHORITY.pem)


@pytest.mark.parametrize(
    ("begin", "cause"),
    [(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "http"), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "no-tls")],
)
def test_clear_text_is_told_apart(begin: bytes, cause: str) -> None:
    with pytest.raises(TlsFailed) as failed:
        TlsLayer(SERVER, True).handshake(begin)
    assert failed.value.cause == cause


@given(st.binary(min_size=5, max_size=200))
def test_garbage_fails_or_waits(data: bytes) -> None:
    layer = TlsLayer(SERVER, True)
    try:
        layer.handshake(data)
    except TlsFailed:
        return
    assert not layer.established


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_server_refuses_old_versions() -> None:
    old = client_context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    assert failure(old, SERVER)[0] == "tls-version"


def test_tls_1_2_is_spoken_with_ciphers_that_http2_allows() -> None:
    older = client_context(AUTHORITY.pem)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    near, far = connect(older, SERVER)
    assert far.receive(near.send(b"x")) == b"x"
    older.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA")
    assert failure(older, SERVER)[0] == "no-shared-cipher"
