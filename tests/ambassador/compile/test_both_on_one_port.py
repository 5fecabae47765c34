"""Listeners `HTTPS`, which take TLS and clear text in Ambassador: what is served of it, and who is told the rest."""

from __future__ import annotations

import pytest

from grpcgw.model.listener import Transport
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import Compiled
from tests.compiling import compile_objects, obj, said
from tests.pems import key_pair, secret

SECRET = secret(*key_pair("a"))
CERTIFICATE = {"tlsSecret": {"name": "cert"}}


def listener(name: str, port: int, **fields: object) -> KubeObject:
    protocol = {} if "protocolStack" in fields else {"protocol": "HTTPS"}
    return obj("Listener", name, {"port": port, **protocol, "securityModel": "XFP", **fields})


def host(name: str, hostname: str, action: str | None = None, **fields: object) -> KubeObject:
    insecure = {} if action is None else {"requestPolicy": {"insecure": {"action": action}}}
    return obj("Host", name, {"hostname": hostname, **insecure, **fields})


BOTH = listener("both", 8080)
CLEAR = listener("clear", 8081, protocol="HTTP")
PLAIN = host("plain", "*", "Route")
SECURE = host("secure", "secure.example.com", **CERTIFICATE)


def transports(compiled: Compiled) -> dict[str, Transport]:
    return {one.name: one.transport for one in compiled.snapshot.listeners or ()}


@pytest.mark.parametrize("action", [None, "Route", "Redirect"])
def test_where_no_host_has_tls_the_port_is_clear_text(action: str | None) -> None:
    compiled = compile_objects(BOTH, host("plain", "*", action), SECRET)
    assert transports(compiled) == {"Listener both.shop": Transport.CLEAR}
    assert said(compiled, Severity.ERROR) == []


@pytest.mark.parametrize(
    "fields",
    [CERTIFICATE, {"acmeProvider": {"authority": "https://acme.example"}}, {"tls": {}}],
    ids=str,
)
def test_where_a_host_has_tls_the_port_is_tls(fields: dict[str, object]) -> None:
    compiled = compile_objects(BOTH, PLAIN, host("secure", "secure.example.com", **fields), SECRET)
    assert transports(compiled) == {"Listener both.shop": Transport.TLS}


def test_a_tls_context_gives_the_port_tls_as_well() -> None:
    context = obj("TLSContext", "t", {"hosts": ["secure.example.com"], "secret": "cert"})
    assert transports(compile_objects(BOTH, PLAIN, context, SECRET)) == {"Listener both.shop": Transport.TLS}


def test_without_hosts_and_by_its_layers_the_port_is_tls() -> None:
    assert transports(compile_objects(BOTH)) == {"Listener both.shop": Transport.TLS}
    layers = listener("layers", 8080, protocolStack=["TLS", "HTTP", "TCP"])
    assert transports(compile_objects(layers, PLAIN)) == {"Listener layers.shop": Transport.TLS}


def test_while_a_host_that_may_ask_for_tls_is_left_out_the_port_does_not_turn_to_clear_text() -> None:
    broken = host("secure", "secure.example.com", tlsSecret={"name": "gone"})
    assert transports(compile_objects(BOTH, PLAIN, broken)) == {}


def test_a_host_whose_clear_text_has_no_port_is_told() -> None:
    compiled = compile_objects(BOTH, PLAIN, SECURE, SECRET)
    (error,) = said(compiled, Severity.ERROR)
    assert error.startswith(
        "plain.yaml: error: Host plain.shop spec.requestPolicy.insecure.action: calls in clear text"
    )
    assert "not served by Listener both.shop" in error


def test_a_host_with_tls_that_asks_for_clear_text_too_is_told() -> None:
    both = host("secure", "secure.example.com", "Route", **CERTIFICATE)
    assert "Host secure.shop" in said(compile_objects(BOTH, both, SECRET), Severity.ERROR)[0]


def test_a_host_that_did_not_ask_for_clear_text_gets_a_notice() -> None:
    compiled = compile_objects(BOTH, host("plain", "*"), SECURE, SECRET)
    assert said(compiled, Severity.ERROR) == []
    assert "notice: Host plain.shop: calls in clear text are not served" in said(compiled)[0]


@pytest.mark.parametrize("action", [None, "Reject", "Redirect"])
def test_a_host_with_tls_that_does_not_ask_for_clear_text_is_not_told(action: str | None) -> None:
    compiled = compile_objects(BOTH, host("secure", "*", action, **CERTIFICATE), SECRET)
    assert not any("clear text are not served" in text for text in said(compiled))


def test_where_another_port_takes_the_clear_text_nothing_is_missing() -> None:
    compiled = compile_objects(BOTH, CLEAR, PLAIN, SECURE, SECRET)
    assert transports(compiled) == {"Listener both.shop": Transport.TLS, "Listener clear.shop": Transport.CLEAR}
    assert said(compiled) == []


def test_without_any_certificate_a_port_says_that_it_shows_one_of_its_own_and_takes_no_clear_text() -> None:
    text = "there is no certificate, so a self-signed one is used; clear text is not served"
    (notice,) = said(compile_objects(BOTH))
    assert notice.startswith(f"both.yaml: notice: Listener both.shop: {text}")
    for objects in (
        (BOTH, PLAIN),
        (BOTH, SECURE, SECRET),
        (listener("layers", 8080, protocolStack=["TLS", "HTTP", "TCP"]),),
    ):
        assert not any("self-signed" in one for one in said(compile_objects(*objects)))
