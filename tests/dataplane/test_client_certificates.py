"""Client certificates: required by a port or not asked for, and no way past them when that changes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import unquote

import grpc
import pytest

from dataplane.authorities import Authority
from dataplane.configured import compile_yaml
from dataplane.lab import Gateway, Lab, mapping, snapshot, tls_port
from dataplane.pods import Pod
from dataplane.waiting import eventually
from grpcgw.listeners.data_ports import HeldPorts
from grpcgw.model.clients import CertificateDetail, CertificateForwarding, ClientRules
from grpcgw.model.listener import Listener, ServerCertificate


@pytest.fixture(scope="module")
def servers() -> Authority:
    return Authority("servers")


@pytest.fixture(scope="module")
def clients() -> Authority:
    return Authority("clients")


@pytest.fixture(scope="module")
def strangers() -> Authority:
    return Authority("strangers")


@pytest.fixture
def number() -> Iterator[int]:
    """A port that stays ours, whoever opens and closes it."""
    held = HeldPorts("127.0.0.1")
    yield held.hold(0)
    held.release()


def port(number: int, *certificates: ServerCertificate) -> Listener:
    return tls_port(*certificates, port=number)


def is_served(channel: grpc.Channel) -> bool:
    with contextlib.suppress(grpc.RpcError):
        reply: bytes = channel.unary_unary("/test.Pod/Unary")(b"x", timeout=30)
        return reply == b"a:x"
    return False


def gateway_of(lab: Lab, ports: Listener) -> Gateway:
    return lab.gateway(lab.pod("a"), ports=(ports,))


def test_only_clients_of_the_authority_are_served_where_they_are_asked(
    lab: Lab, number: int, servers: Authority, clients: Authority, strangers: Authority
) -> None:
    asking = port(number, servers.certificate("localhost", client_ca=clients.pem))
    gateway_of(lab, asking)
    assert is_served(lab.channel_to(asking, servers.client(clients.sign("me"))))
    assert not is_served(lab.channel_to(asking, servers.client()))
    assert not is_served(lab.channel_to(asking, servers.client(strangers.sign("me"))))
    assert not is_served(lab.channel_to(asking, servers.client(clients.sign("me", days=-1)))), "it has expired"


def test_every_name_of_a_port_asks(lab: Lab, number: int, servers: Authority, clients: Authority) -> None:
    names = ("a.example", "b.example", "*")
    asking = port(number, *(servers.certificate(name, client_ca=clients.pem) for name in names))
    gateway_of(lab, asking)
    for name in names[:2]:
        assert is_served(lab.channel_to(asking, servers.client(clients.sign("me")), name))
        assert not is_served(lab.channel_to(asking, servers.client(), name))


def test_a_port_begins_to_ask_while_it_serves(lab: Lab, number: int, servers: Authority, clients: Authority) -> None:
    plain = servers.certificate("localhost")
    gateway = gateway_of(lab, port(number, plain))
    before = lab.channel_to(port(number), servers.client())
    assert is_served(before)
    asking = port(number, servers.certificate("localhost", client_ca=clients.pem))
    gateway.listen(asking)
    assert not is_served(before), "nor on a connection that stood"
    assert not is_served(lab.channel_to(asking, servers.client()))
    mine = lab.channel_to(asking, servers.client(clients.sign("me")))
    assert is_served(mine)
    gateway.listen(port(number, plain))
    eventually(lambda: is_served(lab.channel_to(asking, servers.client())), "it asks no more")


def test_a_new_authority_counts_from_the_next_handshake_on(
    lab: Lab, number: int, servers: Authority, clients: Authority, strangers: Authority
) -> None:
    gateway = gateway_of(lab, port(number, servers.certificate("localhost", client_ca=clients.pem)))
    before = lab.channel_to(port(number), servers.client(clients.sign("me")))
    assert is_served(before)
    gateway.listen(port(number, servers.certificate("localhost", client_ca=strangers.pem)))
    assert is_served(lab.channel_to(port(number), servers.client(strangers.sign("you"))))
    assert not is_served(lab.channel_to(port(number), servers.client(clients.sign("me"))))
    assert is_served(before), "connections that stand are not touched"


def test_another_port_of_the_gateway_does_not_ask(lab: Lab, servers: Authority, clients: Authority) -> None:
    held = HeldPorts("127.0.0.1")
    lab.defer(held.release)
    asking = tls_port(servers.certificate("localhost", client_ca=clients.pem), name="asking", port=held.hold(0))
    other = tls_port(servers.certificate("localhost"), name="other", port=held.hold(0))
    lab.gateway(lab.pod("a"), ports=(asking, other))
    assert is_served(lab.channel_to(other, servers.client()))
    assert not is_served(lab.channel_to(asking, servers.client()))


def certified(lab: Lab, servers: Authority, clients: Authority | None, **rules: object) -> tuple[Listener, Pod]:
    """A port that asks clients for certificates of `clients`, and the pod behind it."""
    pod = lab.pod("a")
    client_ca = b"" if clients is None else clients.pem
    listener = tls_port(servers.certificate("localhost", client_ca=client_ca))
    configuration = replace(snapshot(mapping()), clients=ClientRules(**rules))  # type: ignore[arg-type]
    gateway = lab.gateway(pod, configuration=configuration, ports=(listener,))
    return replace(listener, port=gateway.engine.ports.numbers()[0]), pod


SENT = "Hash=0;By=somebody"


@pytest.mark.parametrize(
    ("mode", "asked", "expected"),
    [
        ("sanitize", True, []),
        ("forward_only", True, [SENT]),
        ("forward_only", False, []),
        ("append_forward", True, [f"{SENT},{{own}}"]),
        ("append_forward", False, []),
        ("sanitize_set", True, ["{own}"]),
        ("sanitize_set", False, []),
        ("always_forward_only", False, [SENT]),
    ],
)
def test_what_pods_are_told_of_certificates(
    lab: Lab, servers: Authority, clients: Authority, mode: str, asked: bool, expected: list[str]
) -> None:
    port, pod = certified(lab, servers, clients if asked else None, certificates=CertificateForwarding(mode))
    me = clients.sign("me")
    call = lab.channel_to(port, servers.client(me)).unary_unary("/test.Pod/Unary")
    call(b"x", metadata=[("x-forwarded-client-cert", SENT)], timeout=30)
    own = f"Hash={hashlib.sha256(me.der).hexdigest()}"
    assert pod.calls[0].values("x-forwarded-client-cert") == [text.format(own=own) for text in expected]


def test_the_details_of_a_certificate_are_told_in_envoys_order(
    lab: Lab, servers: Authority, clients: Authority
) -> None:
    port, pod = certified(
        lab,
        servers,
        clients,
        certificates=CertificateForwarding.SANITIZE_SET,
        certificate_details=tuple(CertificateDetail),
    )
    me = clients.sign("me", "spiffe://cluster/ns/default", 'urn:a;URI=b"')
    shown = replace(me, certificate=me.certificate + clients.pem)
    assert is_served(lab.channel_to(port, servers.client(shown)))
    (told,) = pod.calls[0].values("x-forwarded-client-cert")
    parts = str(told).split(";", 6)
    assert parts[0] == f"Hash={hashlib.sha256(me.der).hexdigest()}"
    assert unquote(parts[1]) == f'Cert="{me.certificate.decode()}"'
    assert unquote(parts[2]) == f'Chain="{me.certificate.decode()}{clients.pem.decode()}"'
    assert parts[3:] == [
        'Subject="CN=me"',
        "URI=spiffe://cluster/ns/default",
        'URI="urn:a',
        'URI=b\\"";DNS=me',
    ]


def test_the_module_says_what_pods_are_told() -> None:
    compiled = compile_yaml(
        """
        {kind: Module, name: ambassador, config: {
            forward_client_cert_details: SANITIZE_SET,
            set_current_client_cert_details: {subject: true, dns: false, by: true}}}
        """
    )
    rules = compiled.snapshot.clients
    assert rules.certificates is CertificateForwarding.SANITIZE_SET
    assert rules.certificate_details == (CertificateDetail.SUBJECT,)
    (problem,) = map(str, compiled.problems)
    assert "set_current_client_cert_details.by: should be true or false" in problem
