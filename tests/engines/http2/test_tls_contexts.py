"""Contexts of a port: the right certificate for each name, kept while it does not change, and what is refused."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from dataplane.authorities import Authority, Identity
from pems import key_pair

from engines.http2.tls_pairs import client_context, connect, visit
from grpcgw.engines.http2.tls_contexts import ServerContexts, make_client_context, make_server_context
from grpcgw.engines.http2.tls_layer import TlsFailed, TlsLayer
from grpcgw.errors import UserError
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.listener import ServerCertificate
from grpcgw.model.tls_parameters import TlsParameters, TlsVersion

AUTHORITY = Authority("servers")


def certificate(*hosts: str, client_ca: bytes = b"") -> ServerCertificate:
    return AUTHORITY.certificate(*hosts, client_ca=client_ca)


A, C, D = certificate("a.example"), certificate("*.c.example"), certificate("*.d.c.example")
B, F = replace(A, name="Host b", hosts=("B.example:8443",)), replace(A, name="Host f", hosts=("f.*",))


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
        ("a.example.", A),
        (".c.example", A),
        ("f.any", F),
        ("f.", A),
        ("", A),
        (None, A),
    ],
)
def test_the_certificate_is_that_of_the_name_else_the_first(name: str | None, expected: ServerCertificate) -> None:
    assert ServerContexts((A, B, C, D, F)).certificate_for(name) is expected


def test_the_certificate_of_every_name_comes_before_the_first() -> None:
    every = certificate("*")
    contexts = ServerContexts((A, every))
    assert [contexts.certificate_for(name) for name in ("a.example", "elsewhere", None)] == [A, every, every]


def test_of_two_certificates_with_one_name_the_first_counts() -> None:
    again = replace(B, hosts=("a.example", "*.c.example", "f.*", "*"))
    contexts = ServerContexts((A, C, F, certificate("*"), again))
    assert [contexts.certificate_for(name).hosts[0] for name in ("a.example", "x.c.example", "f.x", "else")] == [
        "a.example",
        "*.c.example",
        "f.*",
        "*",
    ]


STRICT = replace(A, name="Host strict", hosts=("strict.example",), client_ca=AUTHORITY.pem)
STRICT_TOO = replace(STRICT, name="Host too", hosts=("too.example",))
REVOKING = replace(STRICT, name="Host revoking", hosts=("revoking.example",), client_crl=b"list")
OTHERS = replace(STRICT, name="Host others", hosts=("others.example",), client_ca=b"other")
OPTIONAL = replace(STRICT, name="Host optional", hosts=("optional.example",), client_optional=True)
MODERN = replace(A, name="Host modern", hosts=("modern.example",), parameters=TlsParameters(TlsVersion.TLS_1_3))
ALL = (STRICT, STRICT_TOO, REVOKING, OTHERS, OPTIONAL, MODERN, A)


@pytest.mark.parametrize(
    ("shown", "callable_names"),
    [
        (A, {"Host a.example", "Host optional"}),
        (OPTIONAL, {"Host a.example", "Host optional"}),
        (STRICT, {"Host a.example", "Host optional", "Host strict", "Host too"}),
        (REVOKING, {"Host a.example", "Host optional", "Host revoking"}),
        (OTHERS, {"Host a.example", "Host optional", "Host others"}),
        (MODERN, {"Host a.example", "Host optional", "Host modern"}),
    ],
)
def test_a_connection_for_one_name_may_call_others_that_demand_no_more(
    shown: ServerCertificate, callable_names: set[str]
) -> None:
    """Else a client would name one Host in the handshake and call another that requires certificates."""
    contexts = ServerContexts(ALL)
    assert contexts.demanding
    assert {one.name for one in ALL if contexts.may_call(shown, f"{one.hosts[0].upper()}:443")} == callable_names
    assert contexts.may_call(shown, "unknown.example") is (shown is STRICT), "the first"


def test_a_connection_stands_when_its_own_host_demands_something_else_but_not_when_it_begins_to_require() -> None:
    renewed = replace(STRICT, client_ca=b"other", client_crl=b"list")
    assert ServerContexts((renewed,)).may_call(STRICT, "strict.example")
    for lax in (replace(STRICT, client_ca=b""), replace(STRICT, client_optional=True)):
        assert not ServerContexts((STRICT,)).may_call(lax, "strict.example")


@pytest.mark.parametrize("authority", ["a.example..", "a.example..:443", "a.example::", "a.example:443:443"])
def test_a_name_that_no_host_has_needs_the_handshake_of_the_host_for_every_name(authority: str) -> None:
    """Calls to it are that Host's, however much it looks like another's name."""
    contexts = ServerContexts((A, certificate("*", client_ca=AUTHORITY.pem)))
    assert contexts.may_call(A, "a.example.")
    assert contexts.may_call(A, "a.example:")
    assert not contexts.may_call(A, authority)


@pytest.mark.parametrize(
    ("of_open", "of_strict", "called", "callable_"),
    [
        ("a.example:8443", "*.example", "a.example:8443", True),
        ("a.example:8443", "*.example", "a.example:9000", False),
        ("a.example:8443", "*.example", "a.example", False),
        ("*.b.example:8443", "*.example", "x.b.example:8443", True),
        ("*.b.example:8443", "*.example", "x.b.example:9000", False),
        ("*", "*:8443", "a.example:8443", False),
        ("*", "f.*", "f..:80", False),
        ("*", "f*", "f:80", False),
        ("*", "f*", "f", True),
    ],
)
def test_a_call_with_a_port_needs_the_handshake_of_the_host_that_serves_it(
    of_open: str, of_strict: str, called: str, callable_: bool
) -> None:
    """As calls are matched with Hosts: handshakes know no port."""
    lax = replace(A, name="Host open", hosts=(of_open,))
    contexts = ServerContexts((replace(STRICT, hosts=(of_strict,)), lax))
    assert contexts.may_call(lax, called) is callable_


def test_where_nothing_is_demanded_every_name_may_be_called() -> None:
    assert not ServerContexts((A, B, OPTIONAL)).demanding


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
        make_server_context(replace(A, private_key=C.private_key))
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


def spoken(client: ssl.SSLContext, server: ServerCertificate) -> ssl.SSLObject:
    """The client's side after a handshake with `server`. Raises TlsFailed."""
    near, _ = connect(client, make_server_context(server), "a.example")
    return near._object


def refusal(client: ssl.SSLContext, server: ServerCertificate) -> str:
    with pytest.raises(TlsFailed) as failed:
        spoken(client, server)
    return failed.value.cause


def only(version: ssl.TLSVersion) -> ssl.SSLContext:
    client = client_context()
    client.minimum_version = client.maximum_version = version
    return client


def test_versions_are_limited_per_host() -> None:
    modern = replace(A, parameters=TlsParameters(TlsVersion.TLS_1_3))
    older = replace(A, parameters=TlsParameters(max_version=TlsVersion.TLS_1_2))
    assert spoken(client_context(), modern).version() == "TLSv1.3"
    assert spoken(client_context(), older).version() == "TLSv1.2"
    assert refusal(only(ssl.TLSVersion.TLSv1_2), modern) == "tls-version"
    assert refusal(only(ssl.TLSVersion.TLSv1_3), older) == "tls-version"


def test_ciphers_of_tls_1_2_are_those_of_the_host() -> None:
    one = replace(A, parameters=TlsParameters(ciphers=("ECDHE-ECDSA-CHACHA20-POLY1305",)))
    cipher = spoken(only(ssl.TLSVersion.TLSv1_2), one).cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
    client = only(ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    assert refusal(client, one) == "no-shared-cipher"


@pytest.mark.parametrize("curve", ["X25519", "prime256v1", "secp384r1", "secp521r1"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_curve_is_that_of_the_host(curve: str, version: ssl.TLSVersion) -> None:
    """A client that has guessed another one is asked again, in TLS 1.3."""
    certificate = replace(A, parameters=TlsParameters(curve=curve))
    spoken(only(version), certificate)
    client = only(version)
    client.set_ecdh_curve("secp384r1" if curve != "secp384r1" else "secp521r1")
    assert refusal(client, certificate) in ("no-shared-cipher", "other")


GROUPS = """openssl_conf = main
[main]
ssl_conf = ssl
[ssl]
system_default = all
[all]
Groups = X25519:P-384
"""


def test_a_configuration_of_openssl_gives_all_contexts_several_curves_unless_a_host_has_its_own(tmp_path: Path) -> None:
    """As docs/ambassador.md says."""
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(GROUPS)
    script = "from engines.http2.test_tls_contexts import accepted_curves; print(*accepted_curves())"
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "OPENSSL_CONF": str(configuration), "PYTHONPATH": paths}
    shown = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert shown.stdout.split() == ["X25519/", "prime256v1/prime256v1", "secp384r1/"]


def accepted_curves() -> Iterator[str]:
    """Those that a server takes without a curve of its own, and with one."""
    for curve, own in product(("X25519", "prime256v1", "secp384r1"), ("", "prime256v1")):
        client = client_context()
        client.set_ecdh_curve(curve)
        with suppress(TlsFailed):
            connect(client, make_server_context(replace(A, parameters=TlsParameters(curve=own))))
            yield f"{curve}/{own}"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_of_another_worker_leads_to_a_full_handshake(version: ssl.TLSVersion) -> None:
    """Two contexts of one certificate, as two workers have them."""
    client, (one, other) = only(version), (make_server_context(A), make_server_context(A))
    ticket = visit(client, one).session
    assert visit(client, one, ticket).session_reused
    assert not visit(client, other, ticket).session_reused


def test_only_the_protocols_of_the_host_are_offered() -> None:
    client = client_context()
    client.set_alpn_protocols(["http/1.1"])
    assert spoken(client, A).selected_alpn_protocol() == "http/1.1"
    assert spoken(client, replace(A, alpn=("h2",))).selected_alpn_protocol() is None


def test_a_client_may_show_a_certificate_where_it_is_optional_and_it_is_verified() -> None:
    optional = replace(A, client_ca=AUTHORITY.pem, client_optional=True)
    for shown, expected in ((None, False), (AUTHORITY.sign("me"), True)):
        _, far = connect(showing(shown), make_server_context(optional), "a.example")
        assert (far.peer_certificate() is not None) is expected
    assert refusal(showing(Authority("strangers").sign("me")), optional) == "untrusted-certificate"


def showing(identity: Identity | None) -> ssl.SSLContext:
    tls = UpstreamTls("t", ca=AUTHORITY.pem)
    if identity is not None:
        tls = replace(tls, certificate_chain=identity.certificate, private_key=identity.key)
    return make_client_context(tls)


def test_a_client_whose_certificate_is_revoked_is_refused() -> None:
    good, bad = AUTHORITY.sign("good"), AUTHORITY.sign("bad")
    asking = replace(A, client_ca=AUTHORITY.pem, client_crl=AUTHORITY.revoke(bad))
    spoken(showing(good), asking)
    with pytest.raises(TlsFailed, match="certificate revoked"):
        spoken(showing(bad), asking)
    with pytest.raises(TlsFailed, match="CRL has expired"):
        spoken(showing(good), replace(asking, client_crl=AUTHORITY.revoke(days=-1)))
    with pytest.raises(TlsFailed, match="unable to get certificate CRL"):
        spoken(showing(good), replace(asking, client_crl=Authority("other").revoke()))
    with pytest.raises(UserError, match="cannot be served"):
        make_server_context(replace(asking, client_crl=b"no PEM"))


def test_a_pod_whose_certificate_is_revoked_is_refused() -> None:
    tls = UpstreamTls("t", ca=AUTHORITY.pem, crl=AUTHORITY.revoke())
    spoken(make_client_context(tls), A)
    revoked = AUTHORITY.revoke(Identity(A.certificate_chain, A.private_key))
    with pytest.raises(TlsFailed, match="certificate revoked"):
        spoken(make_client_context(replace(tls, crl=revoked)), A)


def test_versions_ciphers_and_curves_apply_to_pods() -> None:
    cipher = "ECDHE-ECDSA-AES128-GCM-SHA256"
    parameters = TlsParameters(max_version=TlsVersion.TLS_1_2, ciphers=(cipher,), curve="prime256v1")
    ours = make_client_context(UpstreamTls("t", ca=AUTHORITY.pem, parameters=parameters))
    assert spoken(ours, A).cipher() == (cipher, "TLSv1.2", 128)
    assert refusal(ours, replace(A, parameters=TlsParameters(TlsVersion.TLS_1_3))) == "tls-version"


def test_an_intermediate_authority_may_be_trusted_alone() -> None:
    middle = AUTHORITY.delegate("middle")
    asking = replace(A, client_ca=middle.pem)
    _, far = connect(showing(middle.sign("me")), make_server_context(asking), "a.example")
    assert far.peer_certificate() is not None
    assert refusal(showing(AUTHORITY.sign("me")), asking) == "untrusted-certificate"


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
