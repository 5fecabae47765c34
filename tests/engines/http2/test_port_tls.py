"""TLS on real ports of the http2 engine: each Host has its own certificate, authorities, versions and ciphers."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from dataplane.authorities import Authority, Identity
from dataplane.lab import Lab, tls_port
from dataplane.waiting import eventually

from engines.http2.port_clients import (
    Served,
    ca_secret,
    call,
    call_again,
    calling,
    connect_tls,
    host,
    listener,
    make_context,
    serve,
    tls_secret,
)
from grpcgw.model.listener import ServerCertificate

SERVERS, PARTNERS, STAFF, STRANGERS = map(Authority, ("servers", "partners", "staff", "strangers"))
PARTNER, EMPLOYEE = PARTNERS.sign("partner"), STAFF.sign("employee")
TLS = listener("tls", "HTTPS")
REFUSED = "refused"


def served_with(http2: Lab, **hosts: str) -> Served:
    """A port with Hosts by their names (`_` for a dot), each with a certificate for its name and these fields more."""
    return serve(http2, TLS, *objects_of(**hosts))


def objects_of(**hosts: str) -> list[str]:
    objects = [ca_secret("partners", PARTNERS), ca_secret("staff", STAFF)]
    for name, fields in hosts.items():
        full = name.replace("any_", "*.").replace("_", ".") if name != "every" else "*"
        objects += [tls_secret(name.replace("_", "-"), SERVERS.sign(full)), host(full, certificate_of(name) + fields)]
    return objects


def certificate_of(name: str) -> str:
    return f"tlsSecret: {{name: {name.replace('_', '-')}}}"


def demanding(ca: str) -> str:
    return f", tls: {{ca_secret: {ca}, cert_required: true}}"


def try_call(
    port: int, name: str | None, identity: Identity | None = None, authority: str = "", **context: object
) -> str:
    """The answer, REFUSED where the handshake is, or the reason of the gateway's refusal."""
    client = make_context(None, identity)
    for key, value in context.items():
        if callable(value):
            value(client)
        else:
            setattr(client, key, value)
    with contextlib.suppress(OSError, AssertionError):  # TLS 1.3: a refusal comes with the first bytes that are read
        return call(connect_tls(port, client, name), authority or name or "")
    return REFUSED


def shown(port: int, name: str | None) -> str:
    """The name in the certificate that a client gets."""
    with connect_tls(port, make_context(SERVERS), name) as connection:
        (((_, common_name),),) = connection.getpeercert()["subject"]  # type: ignore[index]
        return str(common_name)


def test_each_name_gets_the_certificate_of_its_host(http2: Lab) -> None:
    port = served_with(http2, a_example="", b_example="", any_c_example="", every="").ports["tls"]
    expected = {
        "a.example": "a.example",
        "B.EXAMPLE": "b.example",
        "x.c.example": "*.c.example",
        "x.y.c.example": "*.c.example",
        "c.example": "*",
        "elsewhere": "*",
        None: "*",
    }
    assert {name: shown(port, name) for name in expected} == expected


def test_each_host_has_client_authorities_of_its_own_on_one_port(http2: Lab) -> None:
    port = served_with(
        http2,
        open_example="",
        partners_example=demanding("partners"),
        staff_example=demanding("staff"),
        either_example=", tls: {ca_secret: staff}",
    ).ports["tls"]
    answers = {
        "open.example": ("a:x", "a:x", "a:x"),
        "partners.example": (REFUSED, "a:x", REFUSED),
        "staff.example": (REFUSED, REFUSED, "a:x"),
        "either.example": ("a:x", REFUSED, "a:x"),
    }
    for name, expected in answers.items():
        got = tuple(try_call(port, name, identity) for identity in (None, PARTNER, EMPLOYEE))
        assert got == expected, name


def test_a_connection_that_was_shown_to_one_host_may_not_call_one_that_demands_more(http2: Lab) -> None:
    port = served_with(
        http2, open_example="", partners_example=demanding("partners"), staff_example=demanding("staff")
    ).ports["tls"]
    with calling(connect_tls(port, make_context(), "open.example")) as client:
        assert call_again(client, "open.example") == "a:x"
        for authority in (
            "partners.example",
            "partners.example:443",
            "PARTNERS.example",
            "Partners.Example.:8443",
            "staff.example",
        ):
            assert call_again(client, authority) == "client-certificate", authority
        assert call_again(client, "open.example:443") == "a:x"
        assert call_again(client, "elsewhere.example") in ("client-certificate", "no-host")
    with calling(connect_tls(port, make_context(None, PARTNER), "partners.example")) as client:
        assert call_again(client, "PARTNERS.example:443") == "a:x"
        assert call_again(client, "open.example") == "a:x", "it demands nothing"
        assert call_again(client, "staff.example") == "client-certificate"


@pytest.mark.parametrize(
    ("open_host", "strict_host", "strict_call"),
    [("a.example:8443", "*.example", "a.example:9000"), ("*", "f.*", "f..:9000"), ("*", "f*", "f:9000")],
)
def test_a_port_in_the_name_of_a_host_opens_no_other_host(
    http2: Lab, open_host: str, strict_host: str, strict_call: str
) -> None:
    """Handshakes know no port, and calls do: each Host is asked for what its own calls need."""
    fields = {open_host: certificate_of("own"), strict_host: certificate_of("own") + demanding("partners")}
    objects = [ca_secret("partners", PARTNERS), tls_secret("own", SERVERS.sign("own"))]
    objects += [host(name, more).replace("metadata: {name: ", "metadata: {name: h") for name, more in fields.items()]
    port = serve(http2, TLS, *objects).ports["tls"]
    with calling(connect_tls(port, make_context(), open_host.partition(":")[0].replace("*", "other"))) as client:
        assert call_again(client, open_host.replace("*", "other")) == "a:x"
        assert call_again(client, strict_call) == "client-certificate"


@pytest.mark.parametrize("name", [None, "127.0.0.1", "elsewhere"])
def test_clients_without_a_hosts_name_get_the_handshake_of_the_host_for_every_name(
    http2: Lab, name: str | None
) -> None:
    served = served_with(http2, every="", partners_example=demanding("partners"))
    port = served.ports["tls"]
    with calling(connect_tls(port, make_context(None, PARTNER), name)) as client:
        assert call_again(client, "127.0.0.1:443") == "a:x"
        assert call_again(client, "[::1]:443") == "a:x"
        assert call_again(client, "partners.example") == "client-certificate"
    served.replace(TLS, *objects_of(every=demanding("partners"), open_example=""))
    assert try_call(port, name, None, "open.example") == REFUSED
    assert try_call(port, name, PARTNER, "open.example") == "a:x"
    assert try_call(port, "open.example", None, "127.0.0.1") == "client-certificate"


def test_without_a_host_for_every_name_strangers_get_the_strictest_handshake(http2: Lab) -> None:
    port = served_with(http2, a_example="", partners_example=demanding("partners")).ports["tls"]
    assert try_call(port, None, None, "a.example") == REFUSED
    assert try_call(port, "elsewhere", PARTNER, "elsewhere") == "no-host"


def make_versions(low: str, high: str) -> Callable[[ssl.SSLContext], None]:
    def limit(context: ssl.SSLContext) -> None:
        context.minimum_version, context.maximum_version = ssl.TLSVersion[low], ssl.TLSVersion[high]

    return limit


ONLY_1_2, ONLY_1_3 = make_versions("TLSv1_2", "TLSv1_2"), make_versions("TLSv1_3", "TLSv1_3")


def ciphers(names: str) -> Callable[[ssl.SSLContext], None]:
    def limit(context: ssl.SSLContext) -> None:
        ONLY_1_2(context)
        context.set_ciphers(names)

    return limit


def curve(name: str) -> Callable[[ssl.SSLContext], None]:
    return lambda context: context.set_ecdh_curve(name)


PARAMETERS = {
    "min_tls_version: v1.3": (ONLY_1_3, ONLY_1_2),
    "max_tls_version: v1.2": (ONLY_1_2, ONLY_1_3),
    "cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384]": (
        ciphers("ECDHE-ECDSA-AES256-GCM-SHA384"),
        ciphers("ECDHE-ECDSA-AES128-GCM-SHA256"),
    ),
    "ecdh_curves: [P-384]": (curve("secp384r1"), curve("prime256v1")),
}


@pytest.mark.parametrize("field", PARAMETERS)
def test_parameters_of_tls_are_of_one_host_alone(http2: Lab, field: str) -> None:
    good, bad = PARAMETERS[field]
    port = served_with(http2, strict_example=f", tls: {{{field}}}", usual_example="").ports["tls"]
    assert try_call(port, "strict.example", limit=good) == "a:x"
    assert try_call(port, "strict.example", limit=bad) == REFUSED
    for limit in (good, bad):
        assert try_call(port, "usual.example", limit=limit) == "a:x"
    assert try_call(port, "usual.example", None, "strict.example", limit=good) == "client-certificate"


def test_a_host_that_becomes_stricter_is_not_called_over_connections_of_others(http2: Lab) -> None:
    """Other than client certificates, what becomes stricter does not open the port again."""
    served = served_with(http2, strict_example="", usual_example="")
    with calling(connect_tls(served.ports["tls"], make_context(), "usual.example")) as client:
        assert call_again(client, "strict.example") == "a:x"
        served.replace(TLS, *objects_of(strict_example=", tls: {min_tls_version: v1.3}", usual_example=""))
        assert call_again(client, "strict.example") == "client-certificate"
        assert call_again(client, "usual.example") == "a:x"


def test_revoked_clients_are_refused_by_the_host_with_the_list(http2: Lab) -> None:
    revoked = PARTNERS.sign("left")
    objects = [
        *objects_of(usual_example=demanding("partners")),
        ca_secret("list", PARTNERS, PARTNERS.revoke(revoked)),
        tls_secret("own", SERVERS.sign("strict.example")),
        host("strict.example", "tlsSecret: {name: own}, tls: {ca_secret: list, crl_secret: list, cert_required: true}"),
    ]
    port = serve(http2, TLS, *objects).ports["tls"]
    assert try_call(port, "strict.example", PARTNER) == "a:x"
    assert try_call(port, "strict.example", revoked) == REFUSED
    assert try_call(port, "usual.example", revoked) == "a:x"
    assert try_call(port, "usual.example", revoked, "strict.example") == "client-certificate"


def test_protocols_of_alpn_are_of_one_host_alone(http2: Lab) -> None:
    port = served_with(http2, one_example=", tls: {alpn_protocols: h2}", two_example="").ports["tls"]
    for name, offered, agreed in (
        ("one.example", ("http/1.1", "h2"), "h2"),
        ("one.example", ("http/1.1",), None),
        ("two.example", ("http/1.1", "h2"), "h2"),
        ("two.example", ("http/1.1",), "http/1.1"),
        ("two.example", ("spdy/3",), None),
    ):
        with connect_tls(port, make_context(alpn=offered), name) as connection:
            assert connection.selected_alpn_protocol() == agreed


# --- while the port serves


def test_a_certificate_is_replaced_while_streams_run(http2: Lab) -> None:
    served = served_with(http2, a_example="")
    port = served.ports["tls"]
    with calling(connect_tls(port, make_context(), "a.example")) as client:
        stream = client.request("Chat", messages=[b"1"], end=False, authority="a.example")
        while not client.answers[stream].data:
            client.receive()
        for number in range(3):
            objects = [
                tls_secret("a-example", SERVERS.sign(f"new{number}")),
                host("a.example", certificate_of("a-example")),
            ]
            served.replace(TLS, *objects)
            eventually(lambda wanted=f"new{number}": shown(port, "a.example") == wanted, "the new one is shown")  # type: ignore[misc]
        client.h2.send_data(stream, b"\0\0\0\0\1" + b"2", end_stream=True)
        client.flush()
        answer = client.finish(stream)
        assert answer.status == 0
        assert answer.data.endswith(b"2")
        assert not client.goaway


@pytest.mark.parametrize("limit", [ONLY_1_2, ONLY_1_3], ids=["TLS 1.2", "TLS 1.3"])
def test_sessions_are_resumed_until_the_certificate_changes(
    http2: Lab, limit: Callable[[ssl.SSLContext], None]
) -> None:
    served = served_with(http2, a_example=demanding("partners"), b_example="")
    port = served.ports["tls"]
    context = make_context(None, PARTNER)
    limit(context)

    def resume(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        """Whether it was, and the session of the new connection, whose call must be served."""
        with calling(connect_tls(port, context, "a.example", session=session)) as client:
            assert call_again(client, "a.example") == "a:x"
            assert isinstance(client.socket, ssl.SSLSocket)
            return bool(client.socket.session_reused), client.socket.session

    resumed, session = resume(None)
    assert not resumed
    resumed, session = resume(session)
    assert resumed
    served.replace(TLS, *objects_of(a_example=demanding("partners")), tls_secret("other", SERVERS.sign("c")))
    resumed, session = resume(session)
    assert not resumed, "another certificate"
    assert resume(session)[0]


def test_a_session_of_one_host_is_of_no_use_at_another(http2: Lab) -> None:
    port = served_with(http2, open_example="", partners_example=demanding("partners")).ports["tls"]
    context = make_context()
    with calling(connect_tls(port, context, "open.example")) as client:
        assert call_again(client, "open.example") == "a:x"
        assert isinstance(client.socket, ssl.SSLSocket)
        session = client.socket.session
    with (
        pytest.raises((OSError, AssertionError)),
        calling(connect_tls(port, context, "partners.example", session=session)) as client,
    ):
        call_again(client, "partners.example")


# --- what cannot be served


def broken(certificate: ServerCertificate) -> ServerCertificate:
    """Its key is another's."""
    return replace(certificate, private_key=SERVERS.sign("other").key)


def test_a_certificate_that_cannot_be_used_is_not_served_and_harms_no_other(http2: Lab) -> None:
    good, bad = SERVERS.certificate("good.example"), broken(SERVERS.certificate("bad.example"))
    gateway = http2.gateway(http2.pod("a"), ports=(tls_port(good, bad),))
    (port,) = gateway.engine.ports.numbers()
    assert try_call(port, "bad.example") == REFUSED
    assert try_call(port, "good.example") == "a:x"
    failures = gateway.serving.counters.handshake_failures.by_cause
    assert failures == {"own-certificate-unusable": 1}


def test_many_clients_at_once_on_two_hosts(http2: Lab) -> None:
    port = served_with(http2, open_example="", partners_example=demanding("partners")).ports["tls"]
    answers: list[str] = []

    def work(name: str, identity: Identity | None) -> None:
        answers.extend(try_call(port, name, identity) for _ in range(5))

    pairs = [("open.example", None), ("partners.example", PARTNER), ("partners.example", None)]
    threads = [threading.Thread(target=work, args=pair) for pair in 4 * pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == 40 * ["a:x"] + 20 * [REFUSED]
